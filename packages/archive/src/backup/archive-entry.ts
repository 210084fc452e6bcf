import { hash } from 'node:crypto';
import { type FileCalls, STAT, type Xattr } from '@aegis/native/files';
import { fileData, type Stored } from './file-data.ts';
import type { FrameWriter } from './frames.ts';
import type { HardLinks, Inode } from './hard-links.ts';
import type { Entry } from './manifest/lines.ts';
import type { ManifestWriter } from './manifest/write.ts';
import type { Owners } from './owners.ts';
import type { Found } from './scan.ts';
import type { EntryKind } from './select/selection.ts';
import { ownProblem, type Problem, problemOf } from './source-problem.ts';
import { field, identityOf } from './source-stat.ts';
import { type SparseLayout, sparseLayout } from './sparse.ts';
import { MOST_XATTR_BYTES, manifestTime, paddingOf, type TarEntry, tarHeaders } from './tar-header.ts';

/** One thing that the scan found, into tar and manifest. */

const NOTHING = Buffer.alloc(0);
const NO_XATTRS: readonly Xattr[] = [];
const EMPTY_SHA256 = hash('sha256', NOTHING);

export interface EntryDeps {
  files: FileCalls;
  frames: FrameWriter;
  manifest: ManifestWriter;
  owners: Owners;
  links: HardLinks;
  onProblem(problem: Problem): void | Promise<void>;
  onBytes(count: number): void;
  /** Once it is in the archive (a hard link as what it links to). */
  onEntry(kind: EntryKind): void;
}

/** A promise that is returned must be awaited before the next call, and before the scan goes on. */
export type AddEntry = (found: Found) => void | Promise<void>;

export const entryArchiver = (deps: EntryDeps): AddEntry => {
  const { files, frames, manifest, owners, links, onProblem, onEntry } = deps;
  const headers = tarHeaders();
  const data = fileData(deps);

  /** Null when there are too many of them; then, and when they cannot be read, a problem was noted. */
  const xattrsOf = (found: Found, problems: Problem[]): readonly Xattr[] => {
    try {
      return found.fd >= 0
        ? files.getXattrs(found.fd, MOST_XATTR_BYTES)
        : files.getXattrsAt(found.parentFd, found.name, MOST_XATTR_BYTES);
    } catch (error) {
      const problem = problemOf(found.path, error);
      problems.push(
        problem.code === 'E2BIG'
          ? ownProblem(found.path, 'xattrs_too_large', XATTRS_TOO_LARGE)
          : { ...problem, message: 'is stored without its extended attributes' },
      );
    }
    return NO_XATTRS;
  };

  const layoutOf = (found: Found): SparseLayout | null => {
    const size = field(found.stat, STAT.size);
    if (field(found.stat, STAT.blocks) * 512 >= size) return null;
    return sparseLayout(files.dataSegments(found.fd, size), size);
  };

  const tarEntryOf = (found: Found, kind: TarEntry['kind'], xattrs: readonly Xattr[]): TarEntry => {
    const { stat, path } = found;
    const device = kind === 'character' || kind === 'block';
    return {
      path,
      kind,
      mode: field(stat, STAT.mode) & 0o7777,
      uid: field(stat, STAT.uid),
      gid: field(stat, STAT.gid),
      user: owners.user(field(stat, STAT.uid)),
      group: owners.group(field(stat, STAT.gid)),
      mtimeSec: storableSec(stat),
      mtimeNsec: field(stat, STAT.mtimeNsec),
      dataBytes: 0,
      major: device ? field(stat, STAT.rdevMajor) : 0,
      minor: device ? field(stat, STAT.rdevMinor) : 0,
      xattrs,
    };
  };

  const record = (
    found: Found,
    tar: TarEntry,
    place: { headerSha256: string; offset: number; length: number },
    stored: Stored | null,
    kind: Entry['kind'] = tar.kind,
  ): void | Promise<void> => {
    onEntry(found.kind);
    const entry: Entry = {
      path: tar.path,
      kind,
      mode: tar.mode,
      uid: tar.uid,
      gid: tar.gid,
      user: tar.user,
      group: tar.group,
      size: kind === 'file' ? field(found.stat, STAT.size) : 0,
      mtime: manifestTime(tar.mtimeSec, tar.mtimeNsec),
      header_sha256: place.headerSha256,
      offset: place.offset,
      length: place.length,
    };
    if (stored) entry.sha256 = stored.sha256;
    if (stored?.status) entry.status = stored.status;
    if (tar.target) entry.target = tar.target;
    if (tar.sparseSize !== undefined) entry.sparse = true;
    return manifest.entry(entry);
  };

  /** What has no data area. */
  const addPlain = (found: Found, tar: TarEntry): void | Promise<void> => {
    const header = headers.of(tar);
    const place = { headerSha256: hash('sha256', header), offset: frames.tarBytes, length: header.length };
    const room = frames.append(header);
    return both(room, () => record(found, tar, place, null));
  };

  /** Only when nothing can keep the entry out of the archive any more: later ones refer to it. */
  const keepLink = (found: Found, first: 'changed' | null, problems: Problem[]): void => {
    if (field(found.stat, STAT.links) < 2 || found.kind === 'directory') return;
    const kept = links.remember(inodeOf(found), directoryOf(found), found.name);
    if (first) problems.push(ownProblem(found.path, 'link_lost', CHANGED_SINCE));
    else if (!kept) problems.push(ownProblem(found.path, 'link_lost', NO_ROOM));
  };

  const addFile = (found: Found, first: 'changed' | null, problems: Problem[]): void | Promise<void> => {
    const xattrs = xattrsOf(found, problems);
    const layout = layoutOf(found);
    const size = field(found.stat, STAT.size);
    const tar = tarEntryOf(found, 'file', xattrs);
    tar.dataBytes = layout?.dataBytes ?? size;
    if (layout) tar.sparseSize = size;
    keepLink(found, first, problems);
    const header = headers.of(tar);
    const place = {
      headerSha256: hash('sha256', header),
      offset: frames.tarBytes,
      length: header.length + tar.dataBytes + paddingOf(tar.dataBytes),
    };
    const finish = (stored: Stored): void | Promise<void> => {
      if (stored.status)
        problems.push({ type: 'problem', path: tar.path, code: stored.status, message: stored.message });
      return record(found, tar, place, stored);
    };
    if (!layout && place.length <= frames.room()) return finish(data.storeSmall(found, header));
    return data.store(found, header, layout).then(finish);
  };

  const addFound = (found: Found, problems: Problem[]): void | Promise<void> => {
    const { kind, stat } = found;
    if (kind === 'file' && field(stat, STAT.size) > Number.MAX_SAFE_INTEGER) {
      problems.push(ownProblem(found.path, 'file_too_large', TOO_LARGE));
      return;
    }
    if (storableSec(stat) !== field(stat, STAT.mtimeSec))
      problems.push(ownProblem(found.path, 'time_out_of_range', OUT_OF_RANGE));
    if (kind === 'socket') {
      // Not in the tar, as with GNU tar: a socket is made by who listens on it.
      const place = { headerSha256: EMPTY_SHA256, offset: frames.tarBytes, length: 0 };
      return record(found, tarEntryOf(found, 'fifo', NO_XATTRS), place, null, kind);
    }
    if (kind === 'directory') return addPlain(found, tarEntryOf(found, kind, xattrsOf(found, problems)));
    const first = field(stat, STAT.links) > 1 ? links.first(inodeOf(found)) : null;
    if (Buffer.isBuffer(first)) return addPlain(found, { ...tarEntryOf(found, 'hardlink', NO_XATTRS), target: first });
    if (kind === 'file') return addFile(found, first, problems);
    const tar = tarEntryOf(found, kind, xattrsOf(found, problems));
    if (kind === 'symlink') tar.target = files.readLinkAt(found.parentFd, found.name);
    keepLink(found, first, problems);
    return addPlain(found, tar);
  };

  const attempt = (found: Found, problems: Problem[]): void | Promise<void> => {
    try {
      return addFound(found, problems);
    } catch (error) {
      // Nothing of it was written: content is read only behind its header, and what happens there is a status.
      problems.push(problemOf(found.path, error));
    }
  };
  return (found) => {
    const problems: Problem[] = [];
    const done = attempt(found, problems);
    return done || problems.length > 0 ? both(done, () => tellAll(problems, onProblem)) : undefined;
  };
};

/** Whoever owns a file says what size and time it has; some file systems take 64 bits of both. */
const TOO_LARGE = `has more than ${Number.MAX_SAFE_INTEGER} bytes, holes included: not stored`;
const OUT_OF_RANGE = 'has a time further away than can be recorded: stored with the nearest one';
const XATTRS_TOO_LARGE = `has more than ${MOST_XATTR_BYTES} bytes of extended attributes: stored without`;
const CHANGED_SINCE = 'was changed after its first name was read: stored again, no longer linked to it';
const NO_ROOM = 'has further names, and there are too many such files to remember them all: each is stored by itself';

const both = (first: void | Promise<void>, then: () => void | Promise<void>): void | Promise<void> =>
  first ? first.then(then) : then();

const tellAll = async (problems: readonly Problem[], tell: EntryDeps['onProblem']): Promise<void> => {
  for (const problem of problems) await tell(problem);
};

const storableSec = (stat: Found['stat']): number =>
  Math.min(Math.max(field(stat, STAT.mtimeSec), Number.MIN_SAFE_INTEGER), Number.MAX_SAFE_INTEGER);

const inodeOf = ({ stat }: Found): Inode => ({
  ...identityOf(stat),
  size: field(stat, STAT.size),
  mtimeSec: field(stat, STAT.mtimeSec),
  mtimeNsec: field(stat, STAT.mtimeNsec),
});

const directoryOf = ({ path, name }: Found): Buffer => path.subarray(0, Math.max(path.length - name.length - 1, 0));
