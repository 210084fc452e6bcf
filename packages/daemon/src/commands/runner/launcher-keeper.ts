import { type HintKind, type Launcher, startLauncher } from '@aegis/native/launcher';
import type { Backoff } from '../../platform/http/backoff.ts';
import type { Logger } from '../../platform/log.ts';

/** Keeps one launcher: when it dies another is started and `onRestart` asks anew for what nobody had claimed. Executions that run
 *  do not notice. */
export interface LauncherKeeper {
  start(dir: string): void;
  pid(): number | undefined;
  close(): Promise<void>;
}

export const launcherKeeper = ({
  binary,
  onHint,
  onRestart,
  backoff,
  log,
}: {
  binary: string;
  onHint(executionId: string, kind: HintKind, detail: string): void;
  onRestart(): void;
  backoff: Backoff;
  log: Logger;
}): LauncherKeeper => {
  let closing = false;
  let timer: NodeJS.Timeout | null = null;
  let startedAt = 0;
  const open = (): Launcher => {
    startedAt = performance.now();
    return startLauncher({
      binary,
      onHint,
      onExit: ({ code, signal, error }) => {
        if (closing) return;
        if (performance.now() - startedAt > 60_000) backoff.reset();
        const retryMs = backoff.failures === 0 ? 0 : backoff.next();
        if (backoff.failures === 0) backoff.next();
        log.error(
          { code, signal, err: error ?? undefined, retry_ms: Math.round(retryMs) },
          'the launcher ended; running commands go on, starting another',
        );
        timer = setTimeout(() => {
          launcher = open();
          onRestart();
        }, retryMs);
      },
    });
  };
  let launcher = open();
  return {
    start: (dir) => launcher.start(dir),
    pid: () => launcher.pid,
    close: () => {
      closing = true;
      if (timer) clearTimeout(timer);
      return launcher.close();
    },
  };
};
