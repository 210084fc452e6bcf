import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { programBytes } from './programs.ts';

test('a worker that is ended while its tasks run takes neither the process nor descriptors with it', () => {
  programBytes('globals'); // compiled here, not in each worker
  const script = fileURLToPath(new URL('terminated-worker.ts', import.meta.url));
  expect(execFileSync(process.execPath, [script], { encoding: 'utf8' }).trim()).toBe('0');
});
