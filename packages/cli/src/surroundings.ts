import type { Output } from './ui/output.ts';

/** What a command has around it; tests hand in their own. */
export interface Surroundings {
  env: Readonly<Record<string, string | undefined>>;
  output: Output;
  /** Milliseconds since 1970. */
  now(): number;
  /** Resolves after `ms`, or at once when `signal` is aborted. */
  pause(ms: number, signal?: AbortSignal): Promise<void>;
}

export const pause = (ms: number, signal?: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const end = () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal?.addEventListener('abort', end);
  });
