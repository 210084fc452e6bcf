import { defineConfig } from 'vitest/config';

/** Tests start real servers, daemons and databases: two files at a time suit two cores. Nothing is retried. */
export default defineConfig({
  test: {
    include: ['packages/*/{src,test}/**/*.test.{ts,tsx}', 'test/**/*.test.ts', 'tools/**/*.test.ts'],
    exclude: ['**/node_modules/**', '**/dist/**', ...(process.env.AEGIS_LONG ? [] : ['test/long/**'])],
    globalSetup: ['packages/cli/test/one-build.ts'],
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 60_000,
    retry: 0,
  },
});
