import { createHash } from 'node:crypto';
import { constants, zstdCompressSync } from 'node:zlib';
import { MANIFEST_FILE, type Manifest, ManifestSource } from '@aegis/protocol/artifacts/manifest';
import { canonicalJson } from '../src/bundle/canonical-json.ts';
import { completeManifest } from '../src/bundle/pack.ts';
import { tarHeader } from '../src/bundle/tar-header.ts';

/** Makes bundles that `packBundle` would not: any manifest text, any tar header, any frame. */

export interface Entry {
  name: string;
  bytes: Uint8Array;
  /** Changes the header; its checksum is put right afterwards. */
  header?: (header: Buffer) => unknown;
  /** In place of zeros up to the next block. */
  padding?: Uint8Array;
}

/** Two small files that stand for eBPF objects: the format does not look into them. */
export const FILES: ReadonlyMap<string, Buffer> = new Map([
  ['a.o', Buffer.from('\x7fELF one')],
  ['b.o', Buffer.from('\x7fELF two, longer')],
]);
export const SOURCE = {
  name: 'block-icmp',
  version: '1.0.0',
  objects: [{ file: 'a.o' }, { file: 'b.o' }],
  programs: [{ name: 'block', object: 'a.o', attach: { kind: 'tc', interface: 'eth0', direction: 'egress' } }],
  constants: [{ name: 'target_ip', object: 'a.o', type: 'ipv4', value: '192.0.2.9', settable: true }],
};
export const goodManifest = (): Manifest => completeManifest(ManifestSource.parse(SOURCE), FILES);

export const entriesOf = (
  manifest: unknown = goodManifest(),
  files: ReadonlyMap<string, Uint8Array> = FILES,
): Entry[] => [
  { name: MANIFEST_FILE, bytes: typeof manifest === 'string' ? Buffer.from(manifest) : jsonOf(manifest) },
  ...[...files].map(([name, bytes]) => ({ name, bytes })),
];
const jsonOf = (manifest: unknown): Uint8Array =>
  manifest instanceof Uint8Array ? manifest : Buffer.from(canonicalJson(manifest));

export const blockOf = ({ name, bytes, header }: Entry): Buffer => {
  const block = tarHeader(name, bytes.length);
  if (!header) return block;
  header(block);
  return withChecksum(block);
};
export const withChecksum = (block: Buffer): Buffer => {
  block.fill(' ', 148, 156);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return block;
};
export const END = Buffer.alloc(1024);
export const tarOf = (entries: readonly Entry[], end: Uint8Array = END): Buffer =>
  Buffer.concat([
    ...entries.flatMap((entry) => [
      blockOf(entry),
      entry.bytes,
      entry.padding ?? Buffer.alloc((512 - (entry.bytes.length % 512)) % 512),
    ]),
    end,
  ]);

export const squeeze = (content: Uint8Array, params: Record<number, number> = {}): Buffer =>
  zstdCompressSync(content, {
    pledgedSrcSize: content.length,
    params: { [constants.ZSTD_c_checksumFlag]: 1, [constants.ZSTD_c_contentSizeFlag]: 1, ...params },
  });
export const bundleOf = (entries: readonly Entry[], end?: Uint8Array): Buffer => squeeze(tarOf(entries, end));
/** The good bundle with another manifest. */
export const withManifest = (manifest: unknown): Buffer => bundleOf(entriesOf(manifest));
/** The good manifest with some fields otherwise. */
export const manifestWith = (fields: Record<string, unknown>): Record<string, unknown> => ({
  ...goodManifest(),
  ...fields,
});

/** A frame's header by hand (RFC 8878, 3.1.1.1). */
export const frameHeader = (of: {
  contentBytes?: bigint;
  window?: number;
  descriptorBits?: number;
  dictionary?: number;
}): Buffer => {
  const size = Buffer.alloc(of.contentBytes === undefined ? 0 : 8);
  if (of.contentBytes !== undefined) size.writeBigUInt64LE(of.contentBytes);
  const single = of.window === undefined ? 0x20 : 0;
  const descriptor = (of.contentBytes === undefined ? 0 : 0xc0) | single | 0x04 | (of.descriptorBits ?? 0);
  return Buffer.concat([
    Buffer.from([0x28, 0xb5, 0x2f, 0xfd, descriptor]),
    Buffer.from(of.window === undefined ? [] : [of.window]),
    Buffer.from(of.dictionary === undefined ? [] : [of.dictionary]),
    size,
  ]);
};
/** type 0 raw, 1 repeated byte, 2 compressed, 3 reserved. */
export const frameBlock = (type: number, size: number, content: Uint8Array, last = false): Buffer => {
  const header = Buffer.alloc(3);
  header.writeUIntLE((size << 3) | (type << 1) | Number(last), 0, 3);
  return Buffer.concat([header, content]);
};
/** Enough of a checksum for what is refused before it is compared. */
export const NO_CHECKSUM = Buffer.alloc(4);

export const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
