import { runServer } from '../src/main.ts';

/** The server as a process of its own, its flags as one JSON argument. */
process.exitCode = await runServer({ flags: JSON.parse(process.argv[2] ?? '{}'), env: process.env, json: true });
