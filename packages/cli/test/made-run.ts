import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createArchive } from '@aegis/archive/backup/create-archive';
import { everything } from '@aegis/archive/backup/select/selection';
import { signStatement, statementBytes } from '@aegis/archive/backup/statement';
import { generateKeyPair, type KeyPair } from '@aegis/protocol/access/keys';
import { objectNames, type Run } from '@aegis/protocol/backups/run';

/** A run as a node leaves it at its destination: archive, manifest and statement in a folder, made by the daemon's own parts. */

export const NODE_UID = '01981c2e-7f3a-7bd2-a4c1-900000000001';
export const CONFIG_ID = '01981c2e-7f3a-7bd2-a4c1-0000000000c1';
const AT = '2026-01-31T08:00:00.000Z';

export interface MadeRun {
  folder: string;
  run: Run;
  key: KeyPair;
  /** As it stands in known_nodes. */
  knownLine: string;
}

export const madeRun = async (
  source: string,
  folder: string,
  { recipients = [], key = generateKeyPair(), runId = '01981c2e-7f3a-7bd2-a4c1-00000000aaaa' } = {} as {
    recipients?: string[];
    key?: KeyPair;
    runId?: string;
  },
): Promise<MadeRun> => {
  mkdirSync(folder, { recursive: true });
  const names = objectNames(recipients.length > 0);
  const archive = openSync(join(folder, names.archive), 'wx');
  const manifest = openSync(join(folder, names.manifest), 'wx');
  const sinkOf = (fd: number) => ({ write: (bytes: Buffer) => void writeSync(fd, bytes) });
  const made = await createArchive({
    sources: [Buffer.from(source)],
    select: everything,
    level: 3,
    recipients,
    archive: sinkOf(archive),
    manifest: sinkOf(manifest),
    header: { run_id: runId, config_id: CONFIG_ID },
    clock: { now: () => 0 },
  });
  closeSync(archive);
  closeSync(manifest);
  const { tarBytes: _tar, ...totals } = made.totals;
  const statement = signStatement(
    {
      format: 'aegis-backup-1',
      run_id: runId,
      config_id: CONFIG_ID,
      node_uid: NODE_UID,
      attempt: 1,
      prefix: 'p/',
      started_at: AT,
      finished_at: AT,
      state: 'completed',
      encrypted: recipients.length > 0,
      archive: { name: names.archive, ...made.archive },
      manifest: { name: names.manifest, ...made.manifest },
      totals,
    },
    key,
  );
  writeFileSync(join(folder, names.statement), statementBytes(statement));
  const run: Run = {
    run_id: runId,
    config_id: CONFIG_ID,
    config: 'etc',
    node_uid: NODE_UID,
    node: 'web-1',
    node_key: key.keyId,
    trigger: 'request',
    state: 'completed',
    attempt: 1,
    started_at: AT,
    finished_at: AT,
    progress: null,
    totals,
    archive_bytes: made.archive.bytes,
    uploaded_bytes: made.archive.bytes,
    errors: [],
    reason: null,
    encrypted: recipients.length > 0,
    destination: 's3://b/p/',
    tags: [],
    locked_until: null,
    removed_at: null,
    verified: null,
  };
  const knownLine = `${NODE_UID} web-1 ${key.keyId} ${key.publicRaw.toString('base64')} -\n`;
  return { folder, run, key, knownLine };
};

/** A folder of one's own, gone afterwards. */
export const scratch = (): { path: string } & Disposable => {
  const path = mkdtempSync(join(tmpdir(), 'aegis-backups-'));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
};

export interface Storage extends AsyncDisposable {
  url: string;
  requests: { method: string; path: string; range: string | undefined; authorization: string | undefined }[];
}

/** Files of a folder by ranges, as behind presigned links. */
export const rangeStorage = async (folder: string): Promise<Storage> => {
  const requests: Storage['requests'] = [];
  const server = createServer((request, response) => {
    const { range, authorization } = request.headers;
    requests.push({ method: request.method ?? '', path: request.url ?? '', range, authorization });
    const bytes = readFileSync(join(folder, (request.url ?? '').split('/').at(-1) ?? ''));
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(range ?? '') ?? [];
    const end = Math.min(bytes.length, Number(to) + 1);
    response.writeHead(206, { 'content-range': `bytes ${from}-${end - 1}/${bytes.length}` });
    response.end(bytes.subarray(Number(from), end));
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
