import { join } from 'node:path';
import type { TcPoint } from '@aegis/bpf-loader/tc';
import { AegisError } from '@aegis/protocol/errors';
import { describePoint, parseRecord } from './artifacts/kernel/attachment.ts';
import { artifactKey, isKey, layout } from './artifacts/kernel/layout.ts';
import { listFolder, readRecord } from './artifacts/kernel/pin-folders.ts';
import { readIdentity } from './nodes/identity.ts';

/** The pins of this node as they lie in bpffs, for `aegis daemon attachments|maps|events`. Reads names and records, opens nothing, and needs
 *  neither daemon nor server. */

export interface PinnedAttachment {
  artifact: string;
  program: string;
  /** For people: `tcx egress on eth0`. */
  hook: string;
  /** Null: a hook without links. */
  link: string | null;
  /** A clsact filter: where the kernel is asked for it. */
  filter: TcPoint | null;
  /** A socket that the daemon holds: the pin of the program that it runs. */
  socket: string | null;
}
export interface PinnedMap {
  name: string;
  path: string;
}
export interface NodePins {
  readonly node: string;
  readonly uid: string;
  /** Of everything that anything is pinned of: keys, which `keyOf` makes of names. */
  artifacts(): string[];
  keyOf(artifact: string): string;
  attachments(key: string): PinnedAttachment[];
  /** Of the revision that is in place; null when nothing of the artifact is. */
  loaded(artifact: string): { maps: PinnedMap[]; programs: string[] } | null;
}

/** @throws AegisError nodes.not_enrolled; each function artifacts.not_here where the pins may not be read */
export const nodePins = (dataDir: string, bpffs: string): NodePins => {
  const identity = readable(dataDir, () => readIdentity(dataDir));
  if (!identity)
    throw new AegisError('nodes.not_enrolled', `${dataDir} belongs to no node: name the daemon's own --data-dir.`);
  const places = layout(bpffs, identity.uid);
  return {
    node: identity.name,
    uid: identity.uid,
    artifacts: () => readable(places.node, () => listFolder(places.node)).filter(isKey),
    keyOf: artifactKey,
    attachments: (key) => {
      const paths = places.artifact(key);
      const { records, links } = paths;
      const settled = (): string | null => readable(paths.settled, () => readRecord(paths.settled));
      return readable(records, () => listFolder(records)).flatMap((name) => {
        const record = parseRecord(readRecord(join(records, name)));
        if (record === null) return [];
        const { artifact, program, point } = record;
        const revision = point.kind === 'socket_filter' ? settled() : null;
        return [
          {
            artifact,
            program: program.replace(OBJECT, ''),
            hook: describePoint(point),
            link: point.kind === 'tc' || point.kind === 'socket_filter' ? null : join(links, name),
            filter: point.kind === 'tc' ? point : null,
            socket: revision === null ? null : join(places.revision(paths, revision).programs, program),
          },
        ];
      });
    },
    loaded: (artifact) => {
      const paths = places.artifact(artifactKey(artifact));
      const revision = readable(paths.settled, () => readRecord(paths.settled));
      if (revision === null) return null;
      const { maps, programs } = places.revision(paths, revision);
      return {
        maps: namedMaps(
          maps,
          readable(maps, () => listFolder(maps)),
        ),
        programs: readable(programs, () => listFolder(programs)).map((pin) => join(programs, pin)),
      };
    },
  };
};

/** Stands before a name where an artifact has several objects. */
const OBJECT = /^[0-9a-f]{16}-/;

/** Two objects of one artifact may each have a map of the name: then the pin's own name tells them apart. */
const namedMaps = (folder: string, pins: readonly string[]): PinnedMap[] => {
  const plain = pins.map((pin) => pin.replace(OBJECT, ''));
  return pins.map((pin, index) => {
    const name = plain[index] ?? pin;
    return { name: plain.filter((other) => other === name).length > 1 ? pin : name, path: join(folder, pin) };
  });
};

const readable = <T>(what: string, read: () => T): T => {
  try {
    return read();
  } catch (error) {
    if (error instanceof AegisError) throw error;
    const reason = (error as NodeJS.ErrnoException).code ?? String(error);
    throw new AegisError(
      'artifacts.not_here',
      `${what} cannot be read (${reason}): run this as root, or as the daemon's own user.`,
    );
  }
};
