import { chmodSync, rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { AegisError } from '@aegis/protocol/errors';
import * as z from 'zod/mini';

/** The daemon's local door: `<data-dir>/control.sock` (0600), one JSON line in, one out. Who may open the socket may ask. */

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
]);
export type ControlRequest = z.input<typeof ControlRequest>;

const MAX_LINE = 4096;
const MAX_ANSWER = 16 * 1024 * 1024;
const IDLE_MS = 10_000;

export const controlSocketPath = (dataDir: string): string => join(dataDir, 'control.sock');

export interface ControlHandlers {
  status(): unknown;
  drain(timeoutSec: number): Promise<unknown>;
  undrain(): unknown;
  attachments(): unknown;
  reconcile(): Promise<unknown>;
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
    server.maxConnections = 16;
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
            for (const socket of sockets) socket.destroy();
            server.close(() => closed());
          }),
      });
    });
  });

const serve = (socket: Socket, handlers: ControlHandlers): void => {
  let text = '';
  let asked = false;
  socket.setEncoding('utf8');
  socket.setTimeout(IDLE_MS, () => {
    if (!asked) socket.destroy();
  });
  socket.on('error', () => socket.destroy());
  socket.on('data', (part: string) => {
    if (asked) return;
    text += part;
    const end = text.indexOf('\n');
    if (end < 0 && text.length <= MAX_LINE) return;
    asked = true;
    answer(end < 0 ? '' : text.slice(0, end), handlers).then(
      (value) => socket.end(`${JSON.stringify(value)}\n`),
      (error: unknown) => socket.end(`${JSON.stringify(failure(error))}\n`),
    );
  });
};

const answer = async (line: string, handlers: ControlHandlers): Promise<unknown> => {
  let request: z.infer<typeof ControlRequest>;
  try {
    request = z.parse(ControlRequest, JSON.parse(line));
  } catch {
    throw new AegisError(
      'http.malformed',
      'The control socket takes one line: {"op":"status"}, {"op":"drain","timeout_sec":60}, {"op":"undrain"}, {"op":"attachments"} or {"op":"reconcile"}.',
    );
  }
  return request.op === 'drain' ? handlers.drain(request.timeout_sec) : handlers[request.op]();
};

const failure = (error: unknown) => ({
  error:
    error instanceof AegisError
      ? { code: error.code, message: error.message }
      : { code: 'http.internal', message: 'The daemon could not do that; its log says why.' },
});

const Failure = z.object({ error: z.object({ code: z.string(), message: z.string() }) });

/** Asks the daemon that runs on this data directory. @throws AegisError cli.unreachable when none does */
export const controlDaemon = (dataDir: string, op: ControlRequest): Promise<unknown> =>
  new Promise((resolve, reject) => {
    const path = controlSocketPath(dataDir);
    const socket = connect(path);
    const fail = (cause?: unknown): void => {
      socket.destroy();
      reject(
        new AegisError(
          'cli.unreachable',
          `No daemon answers on ${path}: start it with 'aegis daemon start --data-dir ${dataDir}'.`,
          { cause },
        ),
      );
    };
    let text = '';
    socket.setEncoding('utf8');
    socket.on('error', fail);
    socket.on('connect', () => socket.write(`${JSON.stringify(op)}\n`));
    socket.on('data', (part: string) => {
      text += part;
      if (text.length > MAX_ANSWER) fail();
    });
    socket.on('end', () => {
      try {
        const value: unknown = JSON.parse(text);
        const failed = z.safeParse(Failure, value);
        if (failed.success) reject(new AegisError('cli.unreachable', failed.data.error.message));
        else resolve(value);
      } catch (error) {
        fail(error);
      }
    });
  });
