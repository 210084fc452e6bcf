import { createHash } from 'node:crypto';
import { join } from 'node:path';

/** Where what stands below `<bpffs>/aegis/<node uid>`. A bpf file system refuses dots in names and holds no plain files: names are
 *  hexadecimal digests or C names, facts are the texts of symbolic links, which nobody follows. */

/** The first 16 hexadecimal digits of SHA-256 over the parts. */
export const key16 = (...parts: readonly string[]): string =>
  createHash('sha256').update(parts.join('\0')).digest('hex').slice(0, 16);

export const artifactKey = (name: string): string => key16(name);
export const isKey = (text: string): boolean => /^[0-9a-f]{16}$/.test(text);

export interface ArtifactPaths {
  readonly base: string;
  /** Pinned links by key; `<key>-next` while one replaces another. */
  readonly links: string;
  /** What each attachment is, by the same keys; of a clsact filter there is only this. */
  readonly records: string;
  readonly revisions: string;
  /** Maps that outlive their revision, by digest of their name. */
  readonly kept: string;
  /** Names the revision that was put in place completely. */
  readonly settled: string;
}

export interface RevisionPaths {
  readonly base: string;
  readonly programs: string;
  readonly maps: string;
  /** What was loaded, in pieces. */
  readonly facts: string;
}

export interface Layout {
  readonly bpffs: string;
  readonly aegis: string;
  readonly node: string;
  readonly shared: string;
  /** One record for each clsact qdisc that we made. */
  readonly qdiscs: string;
  artifact(key: string): ArtifactPaths;
  revision(artifact: ArtifactPaths, revision: string): RevisionPaths;
}

export const NEXT = '-next';
/** A revision that is being made. */
export const NEW = '-new';
/** One that is being replaced by the same, loaded anew. */
export const OLD = '-old';

export const layout = (bpffs: string, nodeUid: string): Layout => {
  if (!/^[A-Za-z0-9_-]{1,64}$/.test(nodeUid)) throw new TypeError('a node uid has 1 to 64 of A-Z a-z 0-9 _ -');
  const aegis = join(bpffs, 'aegis');
  const node = join(aegis, nodeUid);
  return {
    bpffs,
    aegis,
    node,
    shared: join(node, 'shared'),
    qdiscs: join(node, 'qdiscs'),
    artifact: (key) => {
      const base = join(node, key);
      return {
        base,
        links: join(base, 'links'),
        records: join(base, 'records'),
        revisions: join(base, 'revisions'),
        kept: join(base, 'kept'),
        settled: join(base, 'settled'),
      };
    },
    revision: ({ revisions }, revision) => {
      const base = join(revisions, revision);
      return { base, programs: join(base, 'programs'), maps: join(base, 'maps'), facts: join(base, 'facts') };
    },
  };
};

/** The pin of a program or map of an object: its C name, and before it the object's digest where the manifest names one. */
export const pinName = ({ object, name }: { object?: string | undefined; name: string }): string => {
  const plain = /^[A-Za-z0-9_]{1,128}$/.test(name) ? name : key16(name);
  return object === undefined ? plain : `${key16(object)}-${plain}`;
};
