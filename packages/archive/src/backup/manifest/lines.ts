/** manifest: what stands in a backup's archive, one JSON object a line (docs/backup-format.md), written beside the archive while it is made and
 *  read by restore, verification, `ls` and `diff`. `write.ts` packs and encrypts it as it grows; `read.ts` takes nothing that `write.ts` would
 *  not have written, down to the byte. Invariant: both need little memory whatever the count of entries.
 *  Must not: be trusted before its SHA-256 was compared with a signed statement. */
import * as z from 'zod/mini';

export const MANIFEST_FORMAT = 'aegis-backup-1';
/** Of a path, and of a link's target: deeper trees than this cannot be recorded. */
export const MAX_PATH_BYTES = 256 * 1024;

export const ENTRY_KINDS = [
  'file',
  'directory',
  'symlink',
  'hardlink',
  'character',
  'block',
  'fifo',
  'socket',
] as const;
/** `socket`: recorded, and not in the tar (as GNU tar ignores them), so `length` is 0. */
export type ManifestEntryKind = (typeof ENTRY_KINDS)[number];
export const ENTRY_STATUSES = ['changed', 'shrunk', 'grown', 'unreadable-part'] as const;
/** What befell a file while it was read. `changed`: other bytes or times at the end than at the start; `shrunk`, `unreadable-part`: padded
 *  with zeros up to `size`; `grown`: cut at `size`. */
export type EntryStatus = (typeof ENTRY_STATUSES)[number];

/** What the archive's writer says of an entry. Bytes are bytes: no name is taken for UTF-8. */
export interface Entry {
  /** Relative to `/`, without a slash at either end, as GNU tar stores it; `.` for the root itself. */
  path: Buffer;
  kind: ManifestEntryKind;
  /** Permission bits with setuid, setgid and sticky. */
  mode: number;
  uid: number;
  gid: number;
  /** Empty where the system has no name for it. */
  user: string;
  group: string;
  /** Of a file's content with its holes; 0 for everything else. */
  size: number;
  /** `<sec>.<9 digits>`; before 1970 the seconds are negative and the digits still count forwards, as in statx. */
  mtime: string;
  /** Hex, of a file's data area as it stands in the tar: of the file's content unless `sparse`. */
  sha256?: string;
  /** Hex, of the entry's PAX and ustar header blocks. */
  header_sha256: string;
  /** Of a symlink; of a hard link the path of the first entry, in the form of `path`. */
  target?: Buffer;
  sparse?: boolean;
  status?: EntryStatus;
  /** Of the entry's first byte in the tar, and how many there are, headers and padding included: multiples of 512. */
  offset: number;
  length: number;
}

/** What could not be read, or not whole. */
export interface EntryError {
  path: Buffer;
  /** `ENOENT`, `EACCES`, `changed`, …: for machines. */
  code: string;
  message: string;
}

/** Bytes of tar, and of the zstd frame that holds them (before encryption). */
export type FramePair = readonly [tarBytes: number, packedBytes: number];

export interface ManifestEnd {
  entries: number;
  errors: number;
  /** Of the whole tar, its end blocks included. */
  tar_bytes: number;
  /** As it lies at the destination: packed, and encrypted where it is. */
  archive: { bytes: number; sha256: string };
}

export type ManifestLine =
  | { type: 'backup'; header: Readonly<Record<string, unknown>> }
  | ({ type: 'entry' } & Entry)
  | ({ type: 'error' } & EntryError)
  /** Several such lines in the archive's order; together they are the whole archive. */
  | { type: 'frames'; frames: readonly FramePair[] }
  | ({ type: 'end' } & ManifestEnd);

const MAX_SAFE = Number.MAX_SAFE_INTEGER;
const Text = (most: number) =>
  z.string().check(
    z.maxLength(most),
    z.refine((text) => text.isWellFormed()),
  );
const Count = z.int().check(z.minimum(0), z.maximum(MAX_SAFE));
const Id = z.int().check(z.minimum(0), z.maximum(0xffff_ffff));
const Sha256 = z.string().check(z.regex(/^[0-9a-f]{64}$/));
const Base64 = z.string().check(z.regex(/^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/));
const Blocks = z.int().check(z.minimum(0), z.maximum(MAX_SAFE), z.multipleOf(512));

/** The lines as JSON has them; keys in the order in which they are written. `*_b64` for what is not UTF-8. Entries are read by `read-entry.ts`. */
export const BackupLine = z.looseObject({ type: z.literal('backup'), format: z.literal(MANIFEST_FORMAT) });
export const EntryLine = z.strictObject({
  type: z.literal('entry'),
  path: z.optional(z.string()),
  path_b64: z.optional(Base64),
  kind: z.enum(ENTRY_KINDS),
  mode: z.int().check(z.minimum(0), z.maximum(0o7777)),
  uid: Id,
  gid: Id,
  user: Text(1024),
  group: Text(1024),
  size: Count,
  mtime: z.string().check(z.regex(/^(?:0|-?[1-9]\d{0,18})\.\d{9}$/)),
  sha256: z.optional(Sha256),
  header_sha256: Sha256,
  target: z.optional(z.string()),
  target_b64: z.optional(Base64),
  sparse: z.optional(z.literal(true)),
  status: z.optional(z.enum(ENTRY_STATUSES)),
  offset: Blocks,
  length: Blocks,
});
export const ErrorLine = z.strictObject({
  type: z.literal('error'),
  path: z.optional(z.string()),
  path_b64: z.optional(Base64),
  code: z.string().check(z.regex(/^[A-Za-z0-9_.-]{1,64}$/)),
  message: Text(4096),
});
/** Pairs of a line at most. */
export const MAX_FRAMES_OF_LINE = 4096;
const Pair = z.tuple([
  z.int().check(z.minimum(1), z.maximum(MAX_SAFE)),
  z.int().check(z.minimum(1), z.maximum(MAX_SAFE)),
]);
export const FramesLine = z.strictObject({
  type: z.literal('frames'),
  frames: z.array(Pair).check(z.minLength(1), z.maxLength(MAX_FRAMES_OF_LINE)),
});
export const EndLine = z.strictObject({
  type: z.literal('end'),
  entries: Count,
  errors: Count,
  tar_bytes: Blocks,
  archive: z.strictObject({ bytes: Count, sha256: Sha256 }),
});
/** All but entries. */
export const Line = z.discriminatedUnion('type', [BackupLine, ErrorLine, FramesLine, EndLine]);
export type Line = z.infer<typeof Line>;
