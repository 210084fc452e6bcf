import { printKernelReport, runDaemon } from '@aegis/daemon/main';
import { runBundle } from './run-bundle.ts';

/** The daemon, or with this argument the short process in which it has its kernel probed. */
const PROBE = '--probe-kernel';

if (process.argv[2] === PROBE)
  printKernelReport().catch((error: unknown) => {
    process.stderr.write(`aegis: the kernel cannot be probed: ${String(error)}\n`);
    process.exitCode = 1;
  });
else
  void runBundle(({ flags: { config, ...flags }, env, json }) =>
    runDaemon({
      flags,
      env,
      json,
      configFile: typeof config === 'string' ? config : undefined,
      probe: [process.execPath, __filename, PROBE],
    }),
  );
