import { runDaemon } from '@aegis/daemon/main';
import { runBundle } from './run-bundle.ts';

void runBundle(({ flags: { config, ...flags }, env, json }) =>
  runDaemon({ flags, env, json, configFile: typeof config === 'string' ? config : undefined }),
);
