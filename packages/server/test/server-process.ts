import { flushCompileCache } from 'node:module';
import { runServer } from '../src/main.ts';

/** The server as a process of its own, its flags as one JSON argument. Whoever kills it and starts it again sets NODE_COMPILE_CACHE, for which
 *  it writes down at once what it has compiled: it may not live to its end. */
flushCompileCache();
process.exitCode = await runServer({ flags: JSON.parse(process.argv[2] ?? '{}'), env: process.env, json: true });
