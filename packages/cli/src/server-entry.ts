import { runServer } from '@aegis/server/main';
import { runBundle } from './run-bundle.ts';

void runBundle(runServer);
