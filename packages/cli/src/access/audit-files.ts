import { closeSync, createReadStream, fsyncSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { createInterface } from 'node:readline';
import type { Envelope } from '@aegis/protocol/access/dsse';
import { AegisError } from '@aegis/protocol/errors';
import type { Api } from '../api/client.ts';
import { ndjson } from '../api/ndjson.ts';
import { routes } from '../api/routes.ts';

/** Exports of the audit chain: from the server, from and into files. */

const SILENCE_MS = 60_000;

export async function* exportOf(api: Api): AsyncGenerator<string> {
  const answer = await api.open(routes.listAudit, { headers: { accept: 'application/x-ndjson' } });
  for await (const line of ndjson(answer, SILENCE_MS)) yield line.toString('utf8');
}

/** @throws AegisError cli.usage */
export async function* auditFile(path: string): AsyncGenerator<string> {
  const input = path === '-' ? process.stdin : createReadStream(path);
  const failed = new Promise<never>((_, reject) => {
    input.once('error', (error: NodeJS.ErrnoException) =>
      reject(new AegisError('cli.usage', `${path} cannot be read (${reasonOf(error)}). Name an export.`)),
    );
  });
  const lines = createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY })[Symbol.asyncIterator]();
  for (;;) {
    const next = await Promise.race([lines.next(), failed]);
    if (next.done) return;
    yield next.value;
  }
}

/** @throws AegisError cli.usage */
export const keptHeads = async (paths: readonly string[]): Promise<Envelope[]> => {
  if (paths.length === 0) return [];
  const { keptAuditHead } = await import('@aegis/protocol/access/audit-verify');
  return paths.map((path) => {
    try {
      return keptAuditHead(readFileSync(path, 'utf8'));
    } catch (error) {
      const why = error instanceof SyntaxError ? 'it holds no signed head' : reasonOf(error);
      throw new AegisError(
        'cli.usage',
        `--head ${path}: ${why}. Name a file of 'aegis access audit export --head-out'.`,
      );
    }
  });
};

export interface NewFile extends Disposable {
  write(text: string): void;
  /** Without it the file goes again. */
  keep(): void;
}

/** @throws AegisError cli.usage, also when it is there already */
export const newFile = (path: string): NewFile => {
  const failed = (error: unknown): AegisError =>
    new AegisError('cli.usage', `${path} cannot be written (${reasonOf(error)}). Name a file that is not there yet.`);
  let fd: number;
  try {
    fd = openSync(path, 'wx', 0o600);
  } catch (error) {
    throw failed(error);
  }
  let kept = false;
  return {
    write: (text) => {
      try {
        for (let bytes = Buffer.from(text, 'utf8'); bytes.length > 0; ) bytes = bytes.subarray(writeSync(fd, bytes));
      } catch (error) {
        throw failed(error);
      }
    },
    keep: () => {
      fsyncSync(fd);
      kept = true;
    },
    [Symbol.dispose]: () => {
      closeSync(fd);
      if (!kept) rmSync(path, { force: true });
    },
  };
};

const reasonOf = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? 'unknown reason';
