import type { KeyPair } from '@aegis/protocol/access/keys';
import { packFrame } from '../src/backup/frames.ts';
import type { Entry, EntryError } from '../src/backup/manifest/lines.ts';
import { readManifest } from '../src/backup/manifest/read.ts';
import { manifestWriter } from '../src/backup/manifest/write.ts';
import { paddingOf, type TarEntry, tarHeaders } from '../src/backup/tar-header.ts';
import { unpackFrames } from '../src/backup/zstd/read-frames.ts';
import { type MadeBackup, memorySink, memorySource, sha256, signed } from './backup-maker.ts';

/** Backups as a hostile node would sign them: everything consistent but what a test alters. Not encrypted. */

export interface Parts {
  tar: Buffer;
  entries: Entry[];
  errors: EntryError[];
  header: Readonly<Record<string, unknown>>;
}

const FRAME = 4 * 1024 * 1024;

export const takeApart = async (made: MadeBackup): Promise<Parts> => {
  const parts: Parts = { tar: await unpacked(made.archive), entries: [], errors: [], header: {} };
  for await (const line of readManifest(memorySource(made.manifest).read(0, made.manifest.length), {
    identities: null,
  })) {
    if (line.type === 'entry') {
      const { type: _type, ...entry } = line;
      parts.entries.push(entry);
    } else if (line.type === 'error') parts.errors.push(line);
    else if (line.type === 'backup') parts.header = line.header;
  }
  return parts;
};

const unpacked = async (archive: Buffer): Promise<Buffer> => {
  const all: Buffer[] = [];
  const limits = { packedBytes: 2 * FRAME, contentBytes: 2 * FRAME };
  const refuse = (reason: string, fault: string) => new Error(`${reason}: ${fault}`);
  for await (const piece of unpackFrames(memorySource(archive).read(0, archive.length), limits, refuse))
    all.push(piece);
  return Buffer.concat(all);
};

export interface Lies {
  /** Instead of the tar's frames; the second is what the manifest says of each. */
  frames?: readonly { packed: Buffer; said: readonly [tarBytes: number, packedBytes: number] }[];
  tarBytes?: number;
  archive?: { bytes: number; sha256: string };
}

/** Packed, listed and signed. */
export const putTogether = async (parts: Parts, node: KeyPair, lies: Lies = {}): Promise<MadeBackup> => {
  const frames = lies.frames ?? (await framesOf(parts.tar));
  const archive = Buffer.concat(frames.map(({ packed }) => packed));
  const manifest = memorySink();
  const writer = manifestWriter(manifest.sink, { header: parts.header, recipients: [] });
  for (const entry of parts.entries) await writer.entry(entry);
  for (const error of parts.errors) await writer.error(error);
  for (const { said } of frames) await writer.frame(...said);
  await writer.end({
    tar_bytes: lies.tarBytes ?? parts.tar.length,
    archive: lies.archive ?? { bytes: archive.length, sha256: sha256(archive) },
  });
  return {
    archive,
    manifest: manifest.bytes(),
    statement: signed(node, false, archive, manifest.bytes()),
    node,
    identities: [],
    identity: '',
    result: undefined as never,
  };
};

export const framesOf = async (tar: Buffer): Promise<{ packed: Buffer; said: [number, number] }[]> => {
  const frames: { packed: Buffer; said: [number, number] }[] = [];
  for (let at = 0; at < tar.length; at += FRAME) {
    const piece = tar.subarray(at, at + FRAME);
    const packed = await packFrame(piece, 1);
    frames.push({ packed, said: [piece.length, packed.length] });
  }
  return frames;
};

export interface Member {
  tar: Partial<TarEntry> & { path: Buffer; kind: TarEntry['kind'] };
  data?: Buffer;
  /** What the manifest says otherwise than the header. */
  entry?: Partial<Entry>;
  /** Instead of the real header, as its bytes. */
  header?: (real: Buffer) => Buffer;
}

/** A tar and its entries from scratch. */
export const membersToParts = (members: readonly Member[]): Parts => {
  const headers = tarHeaders();
  const pieces: Buffer[] = [];
  const entries: Entry[] = [];
  let offset = 0;
  for (const { tar: given, data = Buffer.alloc(0), entry: said = {}, header: change } of members) {
    const tar: TarEntry = {
      mode: 0o644,
      uid: 0,
      gid: 0,
      user: 'root',
      group: 'root',
      mtimeSec: 1_700_000_000,
      mtimeNsec: 5,
      dataBytes: data.length,
      major: 0,
      minor: 0,
      xattrs: [],
      ...given,
    };
    const real = Buffer.from(headers.of(tar));
    const header = change ? change(real) : real;
    const padding = Buffer.alloc(paddingOf(data.length));
    pieces.push(header, data, padding);
    const length = header.length + data.length + padding.length;
    entries.push({
      path: tar.path,
      kind: tar.kind,
      mode: tar.mode,
      uid: tar.uid,
      gid: tar.gid,
      user: tar.user,
      group: tar.group,
      size: tar.kind === 'file' ? (tar.sparseSize ?? data.length) : 0,
      mtime: `${tar.mtimeSec}.${String(tar.mtimeNsec).padStart(9, '0')}`,
      ...(tar.kind === 'file' ? { sha256: sha256(data) } : {}),
      header_sha256: sha256(header),
      ...(tar.target ? { target: tar.target } : {}),
      ...(tar.sparseSize === undefined ? {} : { sparse: true }),
      offset,
      length,
      ...said,
    });
    offset += length;
  }
  return { tar: Buffer.concat([...pieces, Buffer.alloc(1024)]), entries, errors: [], header: {} };
};
