import { zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { AegisError } from '@aegis/protocol/errors';
import { expect, test } from 'vitest';
import { generateIdentity, parseIdentities } from '../src/backup/age/keys.ts';
import type { ManifestLine } from '../src/backup/manifest/lines.ts';
import { readManifest } from '../src/backup/manifest/read.ts';
import { manifestWriter } from '../src/backup/manifest/write.ts';
import { type Chance, chanceOf } from './mutants.ts';

/** Manifests altered before and after they are packed and encrypted (AEGIS_SEED to repeat a run): refused by name, or read as something that a writer
 *  could have written; never an error of another kind. */

const MUTANTS = process.env.AEGIS_LONG ? 200_000 : 1500;
const SEED = Number(process.env.AEGIS_SEED ?? 9);
const SHA = 'c'.repeat(64);
const CODES = ['backups.bad_manifest', 'backups.bad_archive', 'backups.wrong_identity'];

const written = async (lines: readonly ManifestLine[], recipients: string[]): Promise<Buffer> => {
  const pieces: Buffer[] = [];
  const [first] = lines;
  const header = first?.type === 'backup' ? first.header : {};
  const writer = manifestWriter({ write: (bytes) => void pieces.push(Buffer.from(bytes)) }, { header, recipients });
  let end = { tar_bytes: 0, archive: { bytes: 0, sha256: SHA } };
  for (const line of lines) {
    if (line.type === 'entry') await writer.entry(line);
    if (line.type === 'error') await writer.error(line);
    if (line.type === 'frames')
      for (const [tarBytes, packedBytes] of line.frames) await writer.frame(tarBytes, packedBytes);
    if (line.type === 'end') end = line;
  }
  await writer.end(end);
  return Buffer.concat(pieces);
};
const entry = {
  mode: 0o644,
  uid: 0,
  gid: 0,
  user: 'root',
  group: 'root',
  mtime: '1.000000000',
  header_sha256: SHA,
  length: 1024,
};
const LINES: ManifestLine[] = [
  { type: 'backup', header: { run_id: 'r', sources: ['/a'] } },
  { type: 'entry', ...entry, path: Buffer.from('a'), kind: 'directory', size: 0, offset: 0 },
  { type: 'entry', ...entry, path: Buffer.from('a/\xff', 'latin1'), kind: 'file', size: 5, sha256: SHA, offset: 1024 },
  {
    type: 'entry',
    ...entry,
    path: Buffer.from('a/l'),
    kind: 'symlink',
    size: 0,
    target: Buffer.from('..'),
    offset: 2048,
  },
  { type: 'error', path: Buffer.from('a/x'), code: 'EACCES', message: 'It may not be read.' },
  { type: 'frames', frames: [[4096, 700]] },
  { type: 'end', entries: 3, errors: 1, tar_bytes: 4096, archive: { bytes: 700, sha256: SHA } },
];

const PIECES = [
  '"',
  '\\',
  '{',
  '}',
  ',',
  '\n',
  '0',
  '-1',
  '1e9',
  'null',
  '"path":',
  '/',
  '..',
  '\u0000',
  '\xff',
  '"type":"end"',
  '[',
  '512',
  '"x":1,',
].map((text) => Buffer.from(text, 'latin1'));
const mutated = (bytes: Buffer, { below, pick }: Chance): Buffer => {
  const at = below(bytes.length + 1);
  const cut = pick([0, 0, 1, 1, 4, below(40)]);
  const put = pick([
    Buffer.alloc(0),
    pick(PIECES),
    Buffer.from([below(256)]),
    bytes.subarray(below(bytes.length)).subarray(0, below(60)),
  ]);
  return Buffer.concat([bytes.subarray(0, at), put, bytes.subarray(at + cut)]);
};

test(`${MUTANTS} mutants`, { timeout: 60_000 + MUTANTS * 20 }, async () => {
  const { identity, recipient } = generateIdentity();
  const identities = parseIdentities(identity);
  const end = { ...(LINES.at(-1) as ManifestLine & { type: 'end' }), archive: { bytes: 1000, sha256: SHA } };
  const plain = await written(LINES, []);
  const sealed = await written([...LINES.slice(0, -1), end], [recipient]);
  const text = zstdDecompressSync(plain);
  const chance = chanceOf(SEED);
  const outcomes: Record<string, number> = {};
  for (let nr = 0; nr < MUTANTS; nr++) {
    const kind = chance.pick(['text', 'text', 'text', 'packed', 'sealed'] as const);
    const bytes =
      kind === 'text' ? zstdCompressSync(mutated(text, chance)) : mutated(kind === 'packed' ? plain : sealed, chance);
    const lines: ManifestLine[] = [];
    const read = async () => {
      const pieces = async function* () {
        yield bytes;
      };
      for await (const line of readManifest(pieces(), { identities: kind === 'sealed' ? identities : null }))
        lines.push(line);
      return 'read';
    };
    const outcome = await read().catch((fault: unknown) => {
      if (fault instanceof AegisError && CODES.includes(fault.code)) return `${fault.details.reason ?? fault.code}`;
      throw fault;
    });
    outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
    // What is read whole has the one form that a writer gives it.
    if (outcome === 'read' && kind === 'text')
      expect(zstdDecompressSync(await written(lines, []))).toEqual(zstdDecompressSync(bytes));
  }
  if (process.env.AEGIS_LONG) console.log(`manifests: ${JSON.stringify(outcomes)}`);
  expect(Object.keys(outcomes).length).toBeGreaterThan(8);
});
