import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { Pool } from 'undici';
import { waitFor } from '../../test/faults/wait.ts';
import { cleanEnv, type Fleet, type FleetNode, type FleetOptions, startFleet } from '../../test/fleet/fleet.ts';

/** A fleet to measure: daemons talk to the server directly, and the operator's side keeps its connections. */
export interface BenchFleet extends AsyncDisposable {
  readonly fleet: Fleet;
  readonly operator: Operator;
  /** For `aegis` as an operator's shell would have it. */
  readonly cliEnv: Readonly<Record<string, string>>;
}

/** One operator's token asks for a whole bench: what a server takes of one is not what is measured. */
export const OPEN_RATES = {
  AEGIS_RATE_LIMITS_TOKEN_BURST: '1000000',
  AEGIS_RATE_LIMITS_TOKEN_PER_SEC: '1000000',
  AEGIS_RATE_LIMITS_ADDRESS_BURST: '1000000',
  AEGIS_RATE_LIMITS_ADDRESS_PER_SEC: '1000000',
};

const STARTED_AT_ONCE = 4;
const WAIT_MS = 120_000;

export const startBenchFleet = async (
  options: FleetOptions & { daemonEnv?: (name: string) => Readonly<Record<string, string>> } = {},
): Promise<BenchFleet> => {
  const env = { ...OPEN_RATES, ...options.env };
  const fleet = await startFleet({ ...options, env, direct: true, startDaemons: false });
  try {
    // A few at a time: each start takes a core for a moment, and has a deadline.
    for (let at = 0; at < fleet.nodes.length; at += STARTED_AT_ONCE)
      await Promise.all(
        fleet.nodes.slice(at, at + STARTED_AT_ONCE).map((node) => startDaemon(node, options.daemonEnv?.(node.name))),
      );
    const operator = operatorOf(fleet.url, fleet.token);
    await waitFor(
      'every node to be online',
      async () => (await operator.nodesOnline()) === fleet.nodes.length,
      WAIT_MS,
    );
    const home = join(fleet.folder, 'operator');
    mkdirSync(home, { mode: 0o700 });
    return {
      fleet,
      operator,
      cliEnv: cleanEnv(home, { AEGIS_SERVER: fleet.url, AEGIS_TOKEN: fleet.token }),
      [Symbol.asyncDispose]: async () => {
        await operator.close();
        await fleet[Symbol.asyncDispose]();
      },
    };
  } catch (error) {
    await fleet[Symbol.asyncDispose]();
    throw error;
  }
};

const startDaemon = async ({ name, daemon }: FleetNode, env: Readonly<Record<string, string>> = {}): Promise<void> => {
  if (!(await daemon.start(env))) throw new Error(`${name} ended before it was ready:\n${daemon.log().slice(-4000)}`);
};

/** The operator's API over kept connections. */
export interface Operator {
  ask<T>(method: 'GET' | 'POST', path: string, body?: unknown): Promise<T>;
  /** One node's one stream. */
  text(path: string): Promise<string>;
  submit(submission: Readonly<Record<string, unknown>>): Promise<string>;
  /** Resolves when the server says that the command has ended; it is told so, and does not ask again and again. */
  ended(commandId: string): Promise<void>;
  nodesOnline(): Promise<number>;
  close(): Promise<void>;
}

export const operatorOf = (url: string, token: string): Operator => {
  const pool = new Pool(url, { connections: 32 });
  const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' };
  const request = async (
    method: 'GET' | 'POST',
    path: string,
    body: unknown,
    more: Readonly<Record<string, string>> = {},
  ) => {
    const answer = await pool.request({
      method,
      path,
      headers: { ...headers, ...more },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    if (answer.statusCode >= 300)
      throw new Error(`${method} ${path}: ${answer.statusCode} ${await answer.body.text()}`);
    return answer.body;
  };
  const ask: Operator['ask'] = async <T>(method: 'GET' | 'POST', path: string, body?: unknown) =>
    (await (await request(method, path, body)).json()) as T;
  return {
    ask,
    text: async (path) => (await request('GET', path, undefined, { accept: 'application/octet-stream' })).text(),
    submit: async (submission) =>
      (await ask<{ command_id: string }>('POST', '/api/v1/commands', submission)).command_id,
    ended: async (commandId) => {
      const body = await request('GET', `/api/v1/commands/${commandId}/logs?follow=true`, undefined, {
        accept: 'application/x-ndjson',
      });
      await body.dump({ limit: Number.MAX_SAFE_INTEGER }); // the log ends with the command
    },
    nodesOnline: async () =>
      (await ask<{ agents: { status: string }[] }>('GET', '/api/v1/agents?limit=1000')).agents.filter(
        ({ status }) => status === 'online',
      ).length,
    close: () => pool.destroy(),
  };
};

/** The same clock as the `started_at` of an execution on this machine, in ms with fractions. */
export const wallClockMs = (): number => performance.timeOrigin + performance.now();

/** @throws Error unless every one of these commands succeeded on every node. Returns when the last one ended. */
export const allSucceeded = async (
  operator: Operator,
  ids: ReadonlySet<string>,
  executions: number,
): Promise<number> => {
  let cursor: string | null = '';
  let succeeded = 0;
  let lastMs = 0;
  const wrong: unknown[] = [];
  while (cursor !== null) {
    const page: { items: Listed[]; next_cursor: string | null } = await operator.ask(
      'GET',
      `/api/v1/commands?limit=1000${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ''}`,
    );
    for (const { command_id, state, result, completed_at } of page.items.filter((one) => ids.has(one.command_id))) {
      succeeded += result.succeeded ?? 0;
      lastMs = Math.max(lastMs, Date.parse(completed_at ?? ''));
      if (state !== 'succeeded') wrong.push({ command_id, state, result });
    }
    cursor = page.next_cursor;
  }
  if (wrong.length > 0 || succeeded !== executions)
    throw new Error(`${succeeded} of ${executions} executions succeeded; ${JSON.stringify(wrong.slice(0, 5))}`);
  return lastMs;
};
interface Listed {
  command_id: string;
  state: string;
  result: Record<string, number>;
  completed_at: string | null;
}
