import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { generateKeyPair } from '@aegis/protocol/access/keys';
import type { PollAnswer } from '@aegis/protocol/commands/carrier';
import { ackCommands, pollCommands, pushStatus } from '@aegis/protocol/commands/endpoints';
import { Pool } from 'undici';
import type { Operator } from './bench-fleet.ts';
import { call } from './node-session.ts';
import { enrol, reportOf } from './simulated-node.ts';

/** An agent as there are many: asks every so many seconds, and holds nothing open between. What it is told to run it runs, if it is `date`. */
export interface SlowPoller extends AsyncDisposable {
  readonly name: string;
  /** Of a command whose result is stored: what `date` printed, in ms, else when the result was stored. */
  ended(commandId: string): Promise<number>;
}

export const startSlowPoller = async (url: string, operator: Operator, everyMs: number): Promise<SlowPoller> => {
  const name = 'slow-poller';
  const pool = new Pool(url, { connections: 2 });
  const { join_token } = await operator.ask<{ join_token: string }>('POST', '/api/v1/join-tokens', { uses: 1 });
  const keys = generateKeyPair();
  const { token } = await enrol(pool, join_token, name, keys);
  const ends = new Map<string, PromiseWithResolvers<number>>();
  const endOf = (id: string): PromiseWithResolvers<number> => {
    const end = ends.get(id) ?? Promise.withResolvers<number>();
    ends.set(id, end);
    return end;
  };
  const turn = async (): Promise<void> => {
    const { commands } = await call<PollAnswer>(pool, pollCommands, { path: `${pollCommands.path}?wait=0`, token });
    if (commands.length === 0) return;
    await call(pool, ackCommands, { token, body: { ids: commands.map(({ execution_id }) => execution_id) } });
    const printed = new Map<string, number>();
    for (const { command_id, directive } of commands) {
      const { body } = JSON.parse(Buffer.from(directive.payload, 'base64').toString()) as {
        body: { payload: { argv: string[] } };
      };
      const [file = '', ...args] = body.payload.argv;
      if (file !== 'date') continue;
      const { stdout } = await promisify(execFile)(file, args);
      printed.set(command_id, Number(stdout) * 1000);
    }
    await call(pool, pushStatus, { token, body: { reports: commands.map((one) => reportOf(one, keys)) } });
    for (const { command_id } of commands) endOf(command_id).resolve(printed.get(command_id) ?? Date.now());
  };
  let failure: unknown = null;
  const timer = setInterval(() => {
    turn().catch((error: unknown) => {
      failure = error;
    });
  }, everyMs);
  return {
    name,
    ended: async (id) => {
      const at = await endOf(id).promise;
      if (failure) throw failure;
      return at;
    },
    [Symbol.asyncDispose]: async () => {
      clearInterval(timer);
      await pool.destroy();
    },
  };
};
