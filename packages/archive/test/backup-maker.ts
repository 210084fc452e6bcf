import { createHash } from 'node:crypto';
import { generateKeyPair, type KeyPair } from '@aegis/protocol/access/keys';
import type { Identity } from '../src/backup/age/keys.ts';
import { generateIdentity, parseIdentities } from '../src/backup/age/keys.ts';
import type { ByteSink, ByteSource } from '../src/backup/bytes.ts';
import { type CreateOptions, type CreateResult, createArchive } from '../src/backup/create-archive.ts';
import type { Backup } from '../src/backup/restore/backup.ts';
import { openBackup } from '../src/backup/restore/open.ts';
import { everything } from '../src/backup/select/selection.ts';
import { type Statement, signStatement, statementBytes } from '../src/backup/statement.ts';

/** A whole backup in memory, made by the real writer and signed by a node of its own. */

export interface MadeBackup {
  archive: Buffer;
  manifest: Buffer;
  statement: Buffer;
  node: KeyPair;
  identities: Identity[];
  /** The identity file's line, where it is encrypted. */
  identity: string;
  result: CreateResult;
}

export const memorySink = () => {
  const pieces: Buffer[] = [];
  const sink: ByteSink = {
    write: (bytes) => {
      pieces.push(Buffer.from(bytes));
    },
  };
  return { sink, bytes: (): Buffer => Buffer.concat(pieces) };
};

/** In pieces of odd lengths, as a network gives them. */
export const memorySource = (bytes: Buffer, pieceBytes = 77_777): ByteSource & { fetched: [number, number][] } => {
  const fetched: [number, number][] = [];
  return {
    size: bytes.length,
    fetched,
    read: async function* (start, end) {
      fetched.push([start, end]);
      for (let at = start; at < end; at += pieceBytes) yield bytes.subarray(at, Math.min(end, at + pieceBytes));
    },
  };
};

export const makeBackup = async (
  sources: readonly string[],
  { encrypted = false, ...more }: { encrypted?: boolean } & Partial<CreateOptions> = {},
): Promise<MadeBackup> => {
  const { identity, recipient } = generateIdentity();
  const archive = memorySink();
  const manifest = memorySink();
  const result = await createArchive({
    sources: sources.map((source) => Buffer.from(source)),
    select: everything,
    level: 3,
    recipients: encrypted ? [recipient] : [],
    archive: archive.sink,
    manifest: manifest.sink,
    header: { run_id: RUN_ID },
    clock: { now: () => 0 },
    ...more,
  });
  const node = generateKeyPair();
  return {
    archive: archive.bytes(),
    manifest: manifest.bytes(),
    statement: signed(node, encrypted, archive.bytes(), manifest.bytes(), result.totals),
    node,
    identities: parseIdentities(identity),
    identity,
    result,
  };
};

const RUN_ID = '01890000-0000-7000-8000-000000000001';

/** A statement about any two objects, by any node. */
export const signed = (
  node: KeyPair,
  encrypted: boolean,
  archive: Buffer,
  manifest: Buffer,
  totals: Partial<Statement['totals']> = {},
): Buffer =>
  statementBytes(
    signStatement(
      {
        format: 'aegis-backup-1',
        run_id: RUN_ID,
        config_id: RUN_ID,
        node_uid: RUN_ID,
        attempt: 1,
        prefix: 'p/',
        started_at: '2026-01-01T00:00:00.000Z',
        finished_at: '2026-01-01T00:00:01.000Z',
        state: 'completed',
        encrypted,
        archive: { name: 'archive.tar.zst', bytes: archive.length, sha256: sha256(archive) },
        manifest: { name: 'manifest.ndjson.zst', bytes: manifest.length, sha256: sha256(manifest) },
        totals: {
          files: totals.files ?? 0,
          directories: totals.directories ?? 0,
          others: totals.others ?? 0,
          bytes: totals.bytes ?? 0,
          errors: totals.errors ?? 0,
        },
      },
      node,
    ),
  );

export const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

export const openMade = (
  made: MadeBackup,
  {
    archive = memorySource(made.archive),
    identities = made.identities,
  }: { archive?: ByteSource; identities?: Identity[] } = {},
): Promise<Backup> =>
  openBackup({
    archive,
    manifest: memorySource(made.manifest),
    statement: made.statement,
    trustedNodeKeys: new Map([[made.node.keyId, made.node.publicRaw]]),
    identities,
  });
