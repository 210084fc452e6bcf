import { chmodSync, rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { ConfigName } from '@aegis/protocol/backups/config';
import { RestorePayload } from '@aegis/protocol/commands/backup-types';
import { AegisError, isErrorCode } from '@aegis/protocol/errors';
import * as z from 'zod/mini';

/** The daemon's local door: `<data-dir>/control.sock` (0600), one JSON line in, one out; a backup or a restore answers many, the last of
 *  which says how it ended, and is cancelled when its asker hangs up. Who may open the socket may ask. */

const { timeout_sec: _timeout, grace_sec: _grace, ...restore } = RestorePayload.shape;

export const ControlRequest = z.discriminatedUnion('op', [
  z.strictObject({ op: z.literal('status') }),
  z.strictObject({
    op: z.literal('drain'),
    timeout_sec: z._default(z.number().check(z.minimum(0), z.maximum(86_400)), 60),
  }),
  z.strictObject({ op: z.literal('undrain') }),
  /** What artifacts are wished and how they are. */
  z.strictObject({ op: z.literal('attachments') }),
  /** Compares artifacts with the kernel now, then answers as `attachments`. */
  z.strictObject({ op: z.literal('reconcile') }),
  /** What is backed up here: configurations, when they run next, what runs, what ran last. */
  z.strictObject({ op: z.literal('backups') }),
  /** Runs a configuration now, beside its schedule: `progress` lines, then one `run`. */
  z.strictObject({ op: z.literal('backup-run'), config: ConfigName }),
  /** Restores a run here: `progress` lines, then one `restore`. */
  z.strictObject({ op: z.literal('backup-restore'), ...restore }),
]);
export type ControlRequest = z.input<typeof ControlRequest>;
type Request = z.output<typeof ControlRequest>;
export type StreamedRequest = Extract<Request, { op: 'backup-run' | 'backup-restore' }>;
export type RestoreRequest = Extract<Request, { op: 'backup-restore' }>;

/** Runs and restores that are waited for hold one each. */
const MAX_CONNECTIONS = 256;
/** A restore names up to 256 globs and brings identities along. */
const MAX_LINE = 2 * 1024 * 1024;
const MAX_ANSWER = 16 * 1024 * 1024;
const IDLE_MS = 10_000;
const LAST_WORDS_MS = 1000;

export const controlSocketPath = (dataDir: string): string => join(dataDir, 'control.sock');

export interface ControlHandlers {
  status(): unknown;
  drain(timeoutSec: number): Promise<unknown>;
  undrain(): unknown;
  attachments(): unknown;
  reconcile(): Promise<unknown>;
  backups(): unknown;
  /** Resolves when all was written; `signal` ends with the connection. */
  stream(request: StreamedRequest, answer: { write(line: unknown): Promise<void>; signal: AbortSignal }): Promise<void>;
}

/** The caller holds the journal's lock, so a socket that is there belongs to a daemon that is not. */
export const serveControl = (dataDir: string, handlers: ControlHandlers): Promise<{ close(): Promise<void> }> =>
  new Promise((resolve, reject) => {
    const path = controlSocketPath(dataDir);
    rmSync(path, { force: true });
    const sockets = new Set<Socket>();
    const server: Server = createServer((socket) => {
      sockets.add(socket);
      socket.on('close', () => sockets.delete(socket));
      serve(socket, handlers);
    });
    server.maxConnections = MAX_CONNECTIONS;
    server.once('error', (cause) =>
      reject(
        new AegisError(
          'config.invalid',
          `The control socket ${path} cannot be made: choose a shorter --data-dir, or check who owns it.`,
          { cause },
        ),
      ),
    );
    server.listen(path, () => {
      chmodSync(path, 0o600); // the folder is 0700, so nobody was let in before this
      resolve({
        close: () =>
          new Promise((closed) => {
            // Last words still go out, to whoever reads them.
            const timer = setTimeout(() => {
              for (const socket of sockets) socket.destroy();
            }, LAST_WORDS_MS);
            for (const socket of sockets) socket.destroySoon();
            server.close(() => {
              clearTimeout(timer);
              closed();
            });
          }),
      });
    });
  });

const serve = (socket: Socket, handlers: ControlHandlers): void => {
  const parts: string[] = [];
  let length = 0;
  let asked = false;
  const gone = new AbortController();
  socket.setEncoding('utf8');
  socket.setTimeout(IDLE_MS, () => {
    if (!asked) socket.destroy();
  });
  socket.on('error', () => socket.destroy());
  socket.on('close', () => gone.abort());
  const write = (line: unknown): Promise<void> =>
    new Promise((resolve) => {
      // A reader that does not read holds up what it asked for; one that went away does not.
      if (socket.destroyed || socket.write(`${JSON.stringify(line)}\n`)) return resolve();
      const done = (): void => {
        socket.off('drain', done).off('close', done);
        resolve();
      };
      socket.on('drain', done).on('close', done);
    });
  socket.on('data', (part: string) => {
    if (asked) return;
    parts.push(part);
    length += part.length;
    if (!part.includes('\n') && length <= MAX_LINE) return;
    asked = true;
    answer(parts.join(''), handlers, { write, signal: gone.signal })
      .catch((error: unknown) => write(failure(error)))
      .finally(() => socket.end());
  });
};

const OPS = ControlRequest.def.options.map((option) => option.shape.op.def.values[0]);

const answer = async (
  text: string,
  handlers: ControlHandlers,
  asker: { write(line: unknown): Promise<void>; signal: AbortSignal },
): Promise<void> => {
  let request: Request;
  try {
    const end = text.indexOf('\n');
    request = z.parse(ControlRequest, JSON.parse(end < 0 ? '' : text.slice(0, end)));
  } catch {
    throw new AegisError(
      'http.malformed',
      `The control socket takes one line: {"op":"status"}, {"op":"drain","timeout_sec":60} and so on; it knows ${OPS.join(', ')}.`,
    );
  }
  switch (request.op) {
    case 'backup-run':
    case 'backup-restore':
      return handlers.stream(request, asker);
    case 'drain':
      return asker.write(await handlers.drain(request.timeout_sec));
    default:
      return asker.write(await handlers[request.op]());
  }
};

const failure = (error: unknown) => ({
  error:
    error instanceof AegisError
      ? { code: error.code, message: error.message }
      : { code: 'http.internal', message: 'The daemon could not do that; its log says why.' },
});

const Failure = z.object({ error: z.object({ code: z.string(), message: z.string() }) });

const unreachable = (path: string, dataDir: string, cause?: unknown): AegisError =>
  new AegisError(
    'cli.unreachable',
    `No daemon answers on ${path}: start it with 'aegis daemon start --data-dir ${dataDir}'.`,
    { cause },
  );
const refusalIn = (value: unknown): AegisError | null => {
  const failed = z.safeParse(Failure, value);
  if (!failed.success) return null;
  const { code, message } = failed.data.error;
  return new AegisError(isErrorCode(code) ? code : 'http.internal', message);
};

/** Asks the daemon that runs on this data directory. @throws AegisError cli.unreachable when none does */
export const controlDaemon = async (dataDir: string, op: ControlRequest): Promise<unknown> => {
  let answer: unknown;
  for await (const line of controlStream(dataDir, op)) answer = line;
  if (answer === undefined) throw unreachable(controlSocketPath(dataDir), dataDir);
  return answer;
};

/** The same, line by line. Whoever leaves the loop, or aborts, hangs up and so ends what was asked for.
 *  @throws AegisError cli.unreachable, or what the daemon refuses with */
export async function* controlStream(
  dataDir: string,
  op: ControlRequest,
  signal?: AbortSignal,
): AsyncGenerator<unknown, void, undefined> {
  const path = controlSocketPath(dataDir);
  const socket = connect({ path, ...(signal ? { signal } : {}) });
  socket.setEncoding('utf8');
  socket.on('connect', () => socket.write(`${JSON.stringify(op)}\n`));
  let text = '';
  try {
    for await (const part of socket as AsyncIterable<string>) {
      text += part;
      if (text.length > MAX_ANSWER) throw new Error('the answer is too long');
      for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
        const value: unknown = JSON.parse(text.slice(0, end));
        text = text.slice(end + 1);
        const refused = refusalIn(value);
        if (refused) throw refused;
        yield value;
      }
    }
    if (text !== '') throw new Error('the answer broke off');
  } catch (error) {
    if (error instanceof AegisError) throw error;
    throw unreachable(path, dataDir, error);
  } finally {
    socket.destroy();
  }
}
