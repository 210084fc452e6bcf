/** ui: everything that a person or a pipe gets to see. Called by the topics; knows nothing of the server.
 *  Invariant: bytes for a pipe leave exactly as they came, awaited, in order; a reader that went away is a `ReaderGone`, never a crash. */
import { write } from 'node:fs';
import { isatty } from 'node:tty';

/** Whoever read our standard output has closed it (`| head`): end quietly. */
export class ReaderGone extends Error {
  override readonly name = 'ReaderGone';
}

export interface Output {
  readonly outIsTerminal: boolean;
  readonly errIsTerminal: boolean;
  readonly colour: boolean;
  /** @throws ReaderGone */
  out(bytes: string | Uint8Array): Promise<void>;
  /** A standard error that nobody reads is no reason to stop: never fails. */
  err(bytes: string | Uint8Array): Promise<void>;
}

type Env = Readonly<Record<string, string | undefined>>;

const writeSome = (fd: number, bytes: Uint8Array): Promise<number> =>
  new Promise((resolve, reject) => {
    write(fd, bytes, 0, bytes.length, null, (error, written) => (error ? reject(error) : resolve(written)));
  });

const isErrno = (error: unknown, code: string): boolean =>
  error instanceof Error && (error as NodeJS.ErrnoException).code === code;

/** fs.write keeps the event loop free while a slow reader holds us up, so that Ctrl-C still works; process.stdout would block. */
const writeAll = async (fd: number, bytes: Uint8Array): Promise<void> => {
  let rest = bytes;
  while (rest.length > 0) {
    try {
      rest = rest.subarray(await writeSome(fd, rest));
    } catch (error) {
      if (isErrno(error, 'EPIPE')) throw new ReaderGone('standard output was closed');
      // Someone else made the shared pipe non-blocking.
      if (!isErrno(error, 'EAGAIN')) throw error;
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  }
};

export const wantsColour = (env: Env, terminal: boolean): boolean =>
  terminal && !env.NO_COLOR && env.TERM !== 'dumb' && env.FORCE_COLOR !== '0';

export const standardOutput = (env: Env): Output => {
  let outQueue = Promise.resolve();
  let errQueue = Promise.resolve();
  const outIsTerminal = isatty(1);
  const bytesOf = (bytes: string | Uint8Array) => (typeof bytes === 'string' ? Buffer.from(bytes, 'utf8') : bytes);
  return {
    outIsTerminal,
    errIsTerminal: isatty(2),
    colour: wantsColour(env, outIsTerminal),
    out: (bytes) => {
      outQueue = outQueue.then(() => writeAll(1, bytesOf(bytes)));
      return outQueue;
    },
    err: (bytes) => {
      errQueue = errQueue
        .then(() => writeAll(2, bytesOf(bytes)))
        .catch(() => {
          // Nowhere is left to say it.
        });
      return errQueue;
    },
  };
};
