import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { LogLine } from '@aegis/protocol/commands/endpoints';
import type { Command, Execution, SubmitAnswer } from '@aegis/protocol/commands/submission';

/** A tiny server that speaks the contract's operator side, with answers that a test scripts: for what the real one does only when it dies. */

export const COMMAND_ID = '01981c2e-7f3a-7bd2-a4c1-3f0e8f1d2b6a';
const executionId = (node: number, attempt = 1) =>
  `01981c2e-7f3a-7bd2-a4c1-${String(node * 100 + attempt).padStart(12, '0')}`;
const AT = '2026-01-31T08:00:00.000Z';
const LATER = '2026-01-31T08:00:02.500Z';

export const execution = (state: Execution['state'], more: Partial<Execution> & { index?: number } = {}): Execution => {
  const { index = 1, ...rest } = more;
  const totals = { bytes: null, sha256: null, next: 0, missing: 0 };
  return {
    execution_id: executionId(index, more.attempt),
    command_id: COMMAND_ID,
    node_uid: `01981c2e-7f3a-7bd2-a4c1-9${String(index).padStart(11, '0')}`,
    node: `web-${index}`,
    attempt: 1,
    state,
    presumed: false,
    exit_code: state === 'succeeded' ? 0 : null,
    signal: null,
    error: null,
    not_before: null,
    expires_at: LATER,
    created_at: AT,
    delivered_at: AT,
    started_at: AT,
    finished_at: LATER,
    output: { stdout: totals, stderr: totals },
    output_verified: null,
    report_signed: true,
    usage: null,
    tree_empty: null,
    ...rest,
  };
};

export const command = (state: Command['state'], result: Record<string, number>): Command => ({
  command_id: COMMAND_ID,
  correlation_id: COMMAND_ID,
  command_type: 'RunCommand',
  verb: 'RunCommand',
  payload: { argv: ['true'] },
  args: null,
  agent_targets: ['web-1'],
  actor: { kind: 'token', id: '1', name: 'alice' },
  state,
  status: state,
  priority: 'normal',
  delivery: 'at-most-once',
  max_retries: 0,
  retry_count: 0,
  output_limit_bytes: 0,
  idempotency_key: null,
  created_at: AT,
  scheduled_at: null,
  expires_at: LATER,
  executed_at: AT,
  completed_at: LATER,
  error_message: null,
  result,
});

export const answer = (nodes: number): SubmitAnswer => ({
  command_id: COMMAND_ID,
  targets: Array.from({ length: nodes }, (_, index) => ({
    uid: execution('queued', { index: index + 1 }).node_uid,
    name: `web-${index + 1}`,
    status: 'online',
    execution_id: executionId(index + 1),
    matched_by: `web-${index + 1}`,
  })),
  state: 'pending',
  expires_at: LATER,
});

export const chunk = (
  data: Buffer | string,
  offset: number,
  more: { index?: number; stream?: 'stdout' | 'stderr' } = {},
): LogLine => ({
  type: 'chunk',
  execution_id: executionId(more.index ?? 1),
  node: `web-${more.index ?? 1}`,
  attempt: 1,
  stream: more.stream ?? 'stdout',
  offset,
  data: Buffer.from(data).toString('base64'),
  encoding: 'base64',
});

export const ended = (executions: Execution[], state: Command['state']): LogLine[] => {
  const result: Record<string, number> = {};
  for (const one of executions) result[one.state] = (result[one.state] ?? 0) + 1;
  return [
    ...executions.map((one): LogLine => ({ type: 'state', execution: one })),
    { type: 'end', command: command(state, result) },
  ];
};

export const lines = (all: readonly LogLine[]): Buffer =>
  Buffer.from(all.map((line) => `${JSON.stringify(line)}\n`).join(''));

export interface Request {
  method: string;
  path: string;
  query: URLSearchParams;
  headers: IncomingMessage['headers'];
  body: string;
}
type Handler = (request: Request, response: ServerResponse) => void | Promise<void>;

export interface ScriptedServer extends AsyncDisposable {
  url: string;
  requests: Request[];
}

/** @param handlers by `METHOD /path`; what is not there is 404 */
export const scriptedServer = async (handlers: Record<string, Handler>): Promise<ScriptedServer> => {
  const requests: Request[] = [];
  const server = createServer(async (incoming, response) => {
    const pieces: Buffer[] = [];
    for await (const piece of incoming) pieces.push(piece as Buffer);
    const url = new URL(incoming.url ?? '/', 'http://localhost');
    const { method = '', headers } = incoming;
    const request = {
      method,
      path: url.pathname,
      query: url.searchParams,
      headers,
      body: Buffer.concat(pieces).toString('utf8'),
    };
    requests.push(request);
    const handler = handlers[`${method} ${url.pathname}`];
    if (handler) await handler(request, response);
    else refuse(response, 404, 'http.not_found', 'Nothing is here.');
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    [Symbol.asyncDispose]: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
};

export const reply = (response: ServerResponse, value: unknown, status = 200): void => {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(value));
};
export const refuse = (response: ServerResponse, status: number, code: string, message: string): void =>
  reply(response, { error: { code, message, details: {} }, request_id: 'r' }, status);
export const stream = (response: ServerResponse, bytes: Buffer): void => {
  response.writeHead(200, { 'content-type': 'application/x-ndjson' }).end(bytes);
};

export const LOGS = `GET /api/v1/commands/${COMMAND_ID}/logs`;
export const SUBMIT = 'POST /api/v1/commands';
export const CANCEL = `POST /api/v1/commands/${COMMAND_ID}/cancel`;
