/** restore: a backup opened for whoever wants something of it: list, compare, read, verify, restore. The CLI and the daemon call
 *  `openBackup` (open.ts) with sources of bytes and with the node keys that they trust.
 *  Invariant: what is given out or written was proven on the way: statement by a trusted node key → size and SHA-256 of manifest and
 *  archive → header and content of each entry. Must not: believe a name, size or order that only the archive says; write outside the
 *  target; follow a link that it finds. */
import type { Identity } from '../age/keys.ts';
import type { ByteSource } from '../bytes.ts';
import type { Entry, EntryError, ManifestEnd } from '../manifest/lines.ts';
import type { Statement } from '../statement.ts';

export interface OpenBackupOptions {
  archive: ByteSource;
  manifest: ByteSource;
  /** statement.json as it lies at the destination. */
  statement: Buffer;
  /** Key id → raw Ed25519 public key, from the caller's own trust store, never from the server that holds the backup. */
  trustedNodeKeys: ReadonlyMap<string, Buffer>;
  /** Needed where the backup is encrypted; see `parseIdentities`. */
  identities: readonly Identity[];
  /** Where a large manifest is kept while the backup is open, as it came (encrypted where it is), in a file without a name. */
  spoolDir?: string;
  signal?: AbortSignal;
}

/** True for entries that are wanted. */
export type EntryFilter = (entry: Entry) => boolean;

export interface Backup extends AsyncDisposable {
  /** The statement's payload, verified. */
  readonly statement: Statement;
  /** Key id of the node that signed. */
  readonly signedBy: string;
  /** Fields of the manifest's first line. */
  readonly header: Readonly<Record<string, unknown>>;
  readonly end: ManifestEnd;
  /** Entries come in the order of their paths, component by component. */
  readonly sorted: boolean;
  readonly encrypted: boolean;
  /** Entries in the archive's order, read anew for each call; memory does not grow with their number. */
  entries(filter?: EntryFilter): AsyncIterable<Entry>;
  /** What could not be backed up, or not whole. */
  errors(): AsyncIterable<EntryError>;
  /** A file's content, holes as zeros; of a hard link the content of its first name. Fetches only the frames that hold it. What comes is proven
   *  only when the iteration ends without an error.
   *  @param path as in the manifest, a slash before it allowed
   *  @throws AegisError backups.unknown_object, backups.bad_archive */
  read(path: Buffer | string): AsyncIterable<Buffer>;
  /** @throws AegisError backups.unsafe_target, backups.bad_archive, backups.bad_manifest, backups.cancelled; what befalls single entries is in the result */
  restore(options: RestoreOptions): Promise<RestoreResult>;
  verify(options?: VerifyOptions): Promise<VerifyResult>;
  close(): Promise<void>;
}

export type Overwrite = 'never' | 'if-newer' | 'always';

export interface RestoreOptions {
  /** The folder below which the backup's paths are laid out; made when it is missing. May itself be reached through symlinks: it is the caller's word. */
  target: string;
  /** Patterns of paths (paths.ts): what matches one, and all below it. Absent or empty: everything. */
  paths?: readonly string[];
  /** What is there already: `never` touches it (default), `if-newer` replaces what is older than the backup's. */
  overwrite?: Overwrite;
  /** Tells what would happen, fetches no content, and changes nothing. */
  dryRun?: boolean;
  /** Removes what the backup does not have, in folders that it has. Not with `overwrite: never`, and not with `paths`. */
  deleteExtra?: boolean;
  /** Owners by number, ACLs, device nodes, and extended attributes of the system; root only. Without it everything belongs to the caller. */
  owners?: boolean;
  /** Also setuid, setgid and file capabilities; needs `owners`. */
  setuid?: boolean;
  signal?: AbortSignal;
  onProgress?(progress: RestoreProgress): void;
  progressMs?: number;
  /** Each thing that is done (or, in a dry run, would be done). */
  onEntry?(action: RestoreAction, path: Buffer): void;
  /** For progress; the process's own by default. Milliseconds. */
  clock?: { now(): number };
}

export type RestoreAction = 'restored' | 'skipped' | 'deleted';

export interface RestoreProgress {
  entries: number;
  entriesTotal: number;
  bytes: number;
  /** Of the archive, as it lies at the destination. */
  archiveBytes: number;
  errors: number;
  /** Where it is now. */
  path: Buffer;
}

export interface RestoreResult {
  restored: number;
  /** There already, and left as it was. */
  skipped: number;
  deleted: number;
  /** Of content written. */
  bytes: number;
  errorCount: number;
  /** The first 1,000 of them. */
  errors: readonly EntryError[];
  /** True when the archive was read whole and its SHA-256 was the signed one: not in a dry run, and not where only parts were fetched. */
  archiveVerified: boolean;
}

export interface VerifyOptions {
  /** Share of the archive to fetch and check, 0 < sample ≤ 1; 1 (default) is all of it with its SHA-256. */
  sample?: number;
  /** For the choice of a sample; Math.random by default. */
  random?: () => number;
  signal?: AbortSignal;
  onProgress?(progress: RestoreProgress): void;
  progressMs?: number;
  clock?: { now(): number };
}

export interface VerifyResult {
  /** Entries whose header and content were compared, and bytes of content. */
  entries: number;
  bytes: number;
  /** Fetched, as it lies at the destination. */
  archiveBytes: number;
  errorCount: number;
  /** The first 1,000 of them. */
  errors: readonly EntryError[];
  /** The whole archive was read and its SHA-256 is the signed one. */
  archiveVerified: boolean;
}

export type Change = 'added' | 'removed' | 'modified';
export type ChangedField = 'kind' | 'content' | 'size' | 'mode' | 'owner' | 'mtime' | 'target' | 'attributes';
export interface Difference {
  change: Change;
  path: Buffer;
  before?: Entry;
  after?: Entry;
  /** Of a modified one. */
  fields: readonly ChangedField[];
}
