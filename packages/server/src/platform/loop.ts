import type { Log } from './log.ts';

/** Runs `turn` every `everyMs` until the signal aborts, never twice at once; a turn that fails is logged and the next one comes. */
export const loop = (parts: {
  name: string;
  everyMs: number;
  turn: () => Promise<void>;
  signal: AbortSignal;
  log: Log;
}): void => {
  const next = (): void => {
    if (parts.signal.aborted) return;
    const timer = setTimeout(async () => {
      parts.signal.removeEventListener('abort', stop);
      try {
        await parts.turn();
      } catch (err) {
        parts.log.warn({ loop: parts.name, err }, 'a turn of this loop failed; the next one tries again');
      }
      next();
    }, parts.everyMs);
    timer.unref();
    const stop = () => clearTimeout(timer);
    parts.signal.addEventListener('abort', stop, { once: true });
  };
  next();
};
