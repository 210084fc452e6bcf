import type { Entry } from '../manifest/lines.ts';
import type { Backup, ChangedField, Difference } from './backup.ts';
import { comparePaths, isRoot } from './path-order.ts';
import { badManifest } from './refusals.ts';

/** What changed from one backup to another, in the order of paths. Both are read side by side, so memory does not grow; a manifest whose entries are
 *  not in that order (several sources that overlap) is sorted in memory.
 *  @throws AegisError backups.bad_manifest */
export async function* diff(before: Backup, after: Backup): AsyncGenerator<Difference, void, undefined> {
  const olds = inOrder(before);
  const news = inOrder(after);
  let old = await nextOf(olds);
  let fresh = await nextOf(news);
  try {
    while (old || fresh) {
      const order = !old ? 1 : !fresh ? -1 : compare(old.path, fresh.path);
      if (order < 0 && old) {
        yield { change: 'removed', path: old.path, before: old, fields: [] };
        old = await nextOf(olds);
      } else if (order > 0 && fresh) {
        yield { change: 'added', path: fresh.path, after: fresh, fields: [] };
        fresh = await nextOf(news);
      } else if (old && fresh) {
        const fields = changedFields(old, fresh);
        if (fields.length > 0) yield { change: 'modified', path: fresh.path, before: old, after: fresh, fields };
        old = await nextOf(olds);
        fresh = await nextOf(news);
      }
    }
  } finally {
    await olds.return();
    await news.return();
  }
}

const compare = (a: Buffer, b: Buffer): number =>
  isRoot(a) || isRoot(b) ? Number(isRoot(b)) - Number(isRoot(a)) : comparePaths(a, b);

const nextOf = async (entries: AsyncGenerator<Entry, void, undefined>): Promise<Entry | null> =>
  (await entries.next()).value ?? null;

async function* inOrder(backup: Backup): AsyncGenerator<Entry, void, undefined> {
  if (backup.sorted) {
    yield* backup.entries();
    return;
  }
  if (backup.end.entries > MOST_SORTED)
    throw badManifest('order', `its ${backup.end.entries} entries are not in the order of their paths`);
  const all: Entry[] = [];
  for await (const entry of backup.entries()) all.push(entry);
  yield* all.sort((a, b) => compare(a.path, b.path));
}
const MOST_SORTED = 1_000_000;

const changedFields = (a: Entry, b: Entry): ChangedField[] => {
  const kind = plainKind(a) !== plainKind(b);
  const checks: readonly (readonly [ChangedField, boolean])[] = [
    ['kind', kind],
    // A sparse file's digest is of map and data: another map of the same content counts as changed.
    ['content', !kind && a.kind === b.kind && a.sha256 !== b.sha256],
    ['size', a.kind === b.kind && a.size !== b.size],
    ['mode', a.mode !== b.mode],
    ['owner', a.uid !== b.uid || a.gid !== b.gid],
    ['mtime', a.mtime !== b.mtime],
    ['target', a.kind === b.kind && !(a.target ?? EMPTY).equals(b.target ?? EMPTY)],
  ];
  const fields = checks.flatMap(([field, is]) => (is ? [field] : []));
  // Of what is in the headers only attributes and device numbers are not among these.
  return fields.length === 0 && a.header_sha256 !== b.header_sha256 && a.user === b.user && a.group === b.group
    ? ['attributes']
    : fields;
};

/** Which of its names a file was first met under says nothing about it. */
const plainKind = ({ kind }: Entry): string => (kind === 'hardlink' ? 'file' : kind);
const EMPTY = Buffer.alloc(0);
