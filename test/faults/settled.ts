import { vi } from 'vitest';

/** Waits until `check` throws no more, on a busy machine too; its last error is the failure. */
export const settled = <T>(check: () => T | Promise<T>): Promise<T> =>
  vi.waitFor(check, { timeout: 20_000, interval: 20 });
