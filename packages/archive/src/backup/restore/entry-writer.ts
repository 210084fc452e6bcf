import type { BatchOutcome } from '@aegis/native/file-batch';
import { EMPTY, type FileCalls, OPEN_DIRECTORY, OPEN_NAME, STAT_FIELDS } from '@aegis/native/files';
import { SystemError } from '@aegis/native/system-error';
import type { Entry } from '../manifest/lines.ts';
import type { TarEntry } from '../tar-header.ts';
import { type EntryReader, type OpenEntry, provenContent, wrongContent } from './entry-reader.ts';
import { nameOf, parentOf } from './path-order.ts';
import { type Choice, type Identity, isNewer, type Placing, type Temporary } from './placing.ts';
import type { SmallFiles } from './small-files.ts';
import { SparseReader } from './sparse-reader.ts';
import type { Level, TargetTree } from './target-tree.ts';

/** One entry into the target. Content is written as it is proven (small files) or under a temporary name until it is (large ones). */

/** `later`: told by `onLater`. */
export type Outcome = 'restored' | 'skipped' | 'later';

export interface EntryWriterDeps {
  files: FileCalls;
  tree: TargetTree;
  placing: Placing;
  overwrite: 'never' | 'if-newer' | 'always';
  /** Device nodes may be made. */
  devices: boolean;
  deleteExtra: boolean;
  /** Reader of an entry that is behind the place where the restore is; closed by the caller of `use`. */
  again<T>(entry: Entry, use: (reader: EntryReader) => Promise<T>): Promise<T>;
  /** Paths that hard links name: what is restored of them is remembered. */
  linkTargets: ReadonlySet<string>;
  onBytes(count: number): void;
  small: SmallFiles;
  /** How a file ended that was to be written later. May throw what ends the restore. */
  onLater(entry: Entry, ended: 'restored' | 'skipped' | { error: unknown }): void;
}

/** Of a first entry that hard links name, of which there may be a million: the entry until this restore has made something of it. */
interface LinkTarget {
  entry: Entry | null;
  /** `path` is null where it is the entry's own. */
  placed: { path: Buffer | null; identity: Identity } | null;
}

export interface EntryWriter {
  /** Either at once or, when not all of the entry is in memory, after waiting.
   *  @throws SystemError, AegisError backups.bad_archive: nothing of it is in the target then */
  write(entry: Entry, reader: EntryReader): Outcome | Promise<Outcome>;
  /** What `write` would do, as far as that can be told without the archive; writes nothing. */
  foresee(entry: Entry): Outcome;
  /** Of an entry that was not chosen: a hard link may need it. */
  pass(entry: Entry): void;
}

export const entryWriter = (deps: EntryWriterDeps): EntryWriter => {
  const { files, tree, placing } = deps;
  const links = new Map<string, LinkTarget>();
  const stat = new Float64Array(STAT_FIELDS);

  const remember = (entry: Entry): void => {
    if (deps.linkTargets.size === 0 || entry.kind === 'hardlink' || entry.kind === 'directory') return;
    const key = entry.path.toString('latin1');
    if (deps.linkTargets.has(key)) links.set(key, { entry, placed: null });
  };
  const linkOf = (path: Buffer): LinkTarget | undefined =>
    links.size === 0 ? undefined : links.get(path.toString('latin1'));

  /** Completes what was made under a temporary name; the descriptor is closed. */
  const complete = (at: Place, fd: number, temporary: Temporary, header: TarEntry): 'restored' | 'skipped' => {
    const { link } = at;
    let identity: Identity | null = null;
    try {
      placing.dress(fd, header, at.path, at.level.inheritsAcl ? 'inherits-acl' : 'clean');
      if (link) identity = placing.identityOf(fd, EMPTY); // of the descriptor: by its name it could be another's soon
    } catch (error) {
      placing.discard(at.level, temporary);
      throw error;
    } finally {
      files.closeFd(fd);
    }
    if (!placing.commit(at.level, temporary, at.name, at.choice)) return 'skipped';
    if (link && identity) {
      link.placed = { path: link.entry?.path.equals(at.path) ? null : Buffer.from(at.path), identity };
      link.entry = null;
    }
    return 'restored';
  };

  const writeSmall = (at: Place, header: TarEntry, data: Buffer): 'restored' | 'skipped' => {
    const { temporary, fd, header: allowed } = placing.createFile(at.level, header);
    try {
      const sink = contentSink(files, fd, header);
      sink.push(data);
      sink.end();
    } catch (error) {
      files.closeFd(fd);
      placing.discard(at.level, temporary);
      throw error;
    }
    deps.onBytes(data.length);
    return complete(at, fd, temporary, allowed);
  };
  /** Whatever takes more than an owner, a mode and a time, or is needed again at once, is written at once. */
  const mayWait = ({ level, choice, link }: Place, entry: Entry, { header, data }: OpenEntry): boolean =>
    entry.kind === 'file' &&
    data !== null &&
    data.length <= MOST_LATER &&
    link === undefined &&
    choice !== 'replace-tree' &&
    !level.inheritsAcl &&
    !placing.gainsPower(header) &&
    header.sparseSize === undefined &&
    header.xattrs.length === 0;
  const writeLater = (at: Place, entry: Entry, header: TarEntry, data: Buffer): void => {
    const { uid, gid, mtimeSec, mtimeNsec } = header;
    deps.small.add({
      level: at.level,
      data,
      sha256: entry.sha256 ?? '',
      mode: placing.modeOf(header),
      owner: placing.ownerOf({ uid, gid }),
      mtimeSec,
      mtimeNsec,
      temporary: placing.temporaryName(),
      name: at.name,
      existing: at.choice === 'replace' ? 'replace' : deps.overwrite === 'always' ? 'replace-unexpected' : 'keep',
      done: (outcome) => {
        if (outcome === 'written') deps.onBytes(data.length);
        deps.onLater(entry, laterOutcome(at, entry, header, data, outcome));
      },
    });
  };
  const laterOutcome = (
    at: Place,
    entry: Entry,
    header: TarEntry,
    data: Buffer,
    outcome: BatchOutcome,
  ): 'restored' | 'skipped' | { error: unknown } => {
    if (outcome === 'written') return 'restored';
    if (outcome === 'taken') return 'skipped';
    if (outcome === 'wrong-digest') return { error: wrongContent(entry) };
    if (outcome !== 'undressed') return { error: outcome };
    try {
      return writeSmall(at, header, data); // once more, for what of it can be set
    } catch (error) {
      return { error };
    }
  };

  const writeLarge = async (at: Place, open: OpenEntry, pieces: AsyncIterable<Buffer>): Promise<Outcome> => {
    const { temporary, fd, header } = placing.createFile(at.level, open.header);
    try {
      const sink = contentSink(files, fd, header);
      for await (const piece of pieces) {
        sink.push(piece);
        deps.onBytes(piece.length);
      }
      sink.end();
    } catch (error) {
      files.closeFd(fd);
      placing.discard(at.level, temporary);
      throw error;
    }
    return complete(at, fd, temporary, header);
  };

  const makeNode = (at: Place, header: TarEntry, type: number, make: (name: Buffer) => void): Outcome => {
    const { name } = placing.withTemporary(make);
    const temporary = { dirFd: at.level.fd, name, folder: null };
    let fd: number;
    try {
      fd = placing.openMade(at.level, name, type);
    } catch (error) {
      placing.discard(at.level, temporary);
      throw error;
    }
    return complete(at, fd, temporary, header);
  };

  /** Everything but files with content, directories and hard links. */
  const writeSpecial = (at: Place, header: TarEntry): Outcome => {
    const { level } = at;
    if (header.kind === 'symlink')
      return makeNode(at, header, TYPES.symlink, (name) => files.symlinkAt(header.target ?? EMPTY, level.fd, name));
    const type = NODE_TYPES.get(header.kind);
    if (type === undefined) throw new SystemError(EINVAL, 'mknodat', at.name);
    if (header.kind !== 'fifo' && !deps.devices) throw new SystemError(EPERM, 'mknodat', at.name); // restore-run.ts has the sentence
    return makeNode(at, header, type, (name) =>
      files.mknodAt(level.fd, name, type | 0o600, header.major, header.minor),
    );
  };
  const writeSocket = (at: Place, entry: Entry): Outcome =>
    makeNode(at, socketHeader(entry), TYPES.socket, (name) => files.mknodAt(at.level.fd, name, TYPES.socket | 0o600));

  const mayReplace = (entry: Entry, found: Float64Array): boolean =>
    deps.overwrite === 'always' || (deps.overwrite === 'if-newer' && isNewer(entry.mtime, found));

  /** @param header null in a dry run */
  const writeDirectory = (entry: Entry, header: TarEntry | null): Outcome => {
    const level = tree.enter(entry, (found) => mayReplace(entry, found));
    let mine = level.fresh || level.absent;
    if (!mine) {
      files.statAt(level.fd, EMPTY, stat);
      mine = mayReplace(entry, stat);
    }
    const seen = level.finish?.seen ?? (deps.deleteExtra ? new Set<string>() : null);
    // Without its path, which the tree knows: of each folder on the way down it would be held until the restore comes back there.
    if (mine || seen) level.finish = { header: mine && header ? { ...header, path: EMPTY } : null, seen };
    return mine ? 'restored' : 'skipped';
  };

  const writeLink = (at: Place, entry: Entry): Outcome | Promise<Outcome> => {
    const first = entry.target ?? EMPTY;
    const link = linkOf(first);
    if (!link) throw new SystemError(ENOENT, 'linkat', at.name);
    const { placed, entry: again } = link;
    // The first name was not wanted, or left as it was: this one gets the content, and the others are linked to it.
    if (again) return deps.again(again, async (reader) => await writeNode({ ...at, link }, again, reader));
    if (!placed) throw new SystemError(ENOENT, 'linkat', at.name);
    const placedPath = placed.path ?? first;
    const from = parentOf(placedPath);
    const shared = from.equals(parentOf(at.path));
    const fromFd = shared
      ? at.level.fd
      : from.length === 0
        ? tree.targetFd
        : files.openBeneath(tree.targetFd, from, OPEN_NAME | OPEN_DIRECTORY);
    let name: Buffer;
    try {
      name = placing.withTemporary((one) => files.linkAt(fromFd, nameOf(placedPath), at.level.fd, one)).name;
    } finally {
      if (!shared && from.length > 0) files.closeFd(fromFd);
    }
    const temporary = { dirFd: at.level.fd, name, folder: null };
    const made = placing.identityOf(at.level.fd, name);
    if (!isSame(made, placed.identity)) {
      placing.discard(at.level, temporary);
      throw new SystemError(ESTALE, 'linkat', at.name);
    }
    if (at.choice === 'replace' && isSame(placing.identityOf(at.level.fd, at.name), made)) {
      placing.discard(at.level, temporary); // a link to it already; a rename would do nothing
      return 'restored';
    }
    return placing.commit(at.level, temporary, at.name, at.choice) ? 'restored' : 'skipped';
  };

  /** A file with content, or a special one. */
  const writeNode = (at: Place, entry: Entry, reader: EntryReader): Outcome | Promise<Outcome> => {
    const now = reader.peek(entry);
    if (now?.data && mayWait(at, entry, now)) {
      writeLater(at, entry, now.header, now.data);
      return 'later';
    }
    if (now && entry.kind !== 'file') return writeSpecial(at, now.header);
    if (now) return writeSmall(at, now.header, provenContent(entry, now.data ?? EMPTY));
    return (async () => {
      const open = await reader.open(entry);
      return entry.kind === 'file' ? writeLarge(at, open, reader.pieces(entry, open)) : writeSpecial(at, open.header);
    })();
  };

  /** Null: what stands there stays. */
  const placeOf = (entry: Entry): Place | null => {
    const level = tree.open(parentOf(entry.path));
    const name = nameOf(entry.path);
    level.finish?.seen?.add(name.toString('latin1'));
    const choice = placing.choose(level, name, entry);
    return choice === 'skip' ? null : { level, path: entry.path, name, choice, link: linkOf(entry.path) };
  };

  return {
    pass: remember,
    write: (entry, reader) => {
      remember(entry);
      if (entry.kind === 'directory') {
        tree.open(parentOf(entry.path)).finish?.seen?.add(nameOf(entry.path).toString('latin1'));
        const now = reader.openNow(entry);
        return now
          ? writeDirectory(entry, now.header)
          : reader.open(entry).then(({ header }) => writeDirectory(entry, header));
      }
      const at = placeOf(entry);
      if (!at) return 'skipped';
      if (entry.kind === 'socket') return writeSocket(at, entry);
      if (entry.kind !== 'hardlink') return writeNode(at, entry, reader);
      const now = reader.openNow(entry);
      return now ? writeLink(at, entry) : reader.open(entry).then(() => writeLink(at, entry));
    },
    foresee: (entry) => {
      if (entry.kind !== 'directory') return placeOf(entry) ? 'restored' : 'skipped';
      tree.open(parentOf(entry.path)).finish?.seen?.add(nameOf(entry.path).toString('latin1'));
      return writeDirectory(entry, null);
    },
  };
};

interface Place {
  level: Level;
  path: Buffer;
  name: Buffer;
  choice: Choice;
  link: LinkTarget | undefined;
}

/** What is larger is written at once: its frame would be held for long. */
const MOST_LATER = 1024 * 1024;

const contentSink = (files: FileCalls, fd: number, { sparseSize }: TarEntry) => {
  let at = 0;
  if (sparseSize === undefined)
    return {
      push: (piece: Buffer): void => {
        if (piece.length > 0) files.writeFrom(fd, piece, 0, piece.length, at);
        at += piece.length;
      },
      end: (): void => undefined,
    };
  const reader = new SparseReader(sparseSize, (offset, bytes) => files.writeFrom(fd, bytes, 0, bytes.length, offset));
  return {
    push: (piece: Buffer): void => reader.push(piece),
    end: (): void => {
      reader.end();
      files.truncateFd(fd, sparseSize);
    },
  };
};

/** A socket is not in the tar: all that there is of it stands in the signed manifest. */
const socketHeader = ({ path, mode, uid, gid, user, group, mtime }: Entry): TarEntry => {
  const [sec = '0', nsec = '0'] = mtime.split('.');
  const time = { mtimeSec: Number(sec), mtimeNsec: Number(nsec) };
  // Any kind that is not a symlink: what follows looks at nothing else of it.
  return { path, kind: 'fifo', mode, uid, gid, user, group, ...time, dataBytes: 0, major: 0, minor: 0, xattrs: [] };
};

const isSame = (a: Identity, b: Identity): boolean =>
  a.device === b.device && a.high === b.high && a.low === b.low && a.uid === b.uid && a.gid === b.gid;

const TYPES = { symlink: 0o120000, socket: 0o140000 } as const;
const NODE_TYPES: ReadonlyMap<TarEntry['kind'], number> = new Map([
  ['fifo', 0o010000],
  ['character', 0o020000],
  ['block', 0o060000],
]);
const EPERM = 1;
const ENOENT = 2;
const EINVAL = 22;
const ESTALE = 116;
