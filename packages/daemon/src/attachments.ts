import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { AegisError } from '@aegis/protocol/errors';
import Database from 'better-sqlite3';
import type { ArtifactView } from './artifacts/view.ts';
import { artifactViews } from './artifacts/view.ts';
import { controlDaemon } from './control.ts';
import { readIdentity } from './nodes/identity.ts';

/** What artifacts this node is to run and runs, without a server: from the daemon that runs, else from its journal, beside what is
 *  pinned in the kernel in either case. */

export interface NodeAttachments {
  node: string;
  uid: string;
  /** Who told: the daemon now, or its journal, which holds what was last seen. */
  source: 'daemon' | 'journal';
  artifacts: ArtifactView[];
  /** Links that are pinned for this node, by their paths below `bpffs`; they outlive the daemon. */
  pins: string[];
}

/** @throws AegisError nodes.not_enrolled | journal.failed */
export const readAttachments = async (dataDir: string, { bpffs = '/sys/fs/bpf' } = {}): Promise<NodeAttachments> => {
  const identity = readIdentity(dataDir);
  if (!identity)
    throw new AegisError('nodes.not_enrolled', `${dataDir} belongs to no node: name the daemon's own --data-dir.`);
  const { name: node, uid } = identity;
  const pins = linksBelow(join(bpffs, 'aegis', uid), bpffs);
  try {
    const answer = (await controlDaemon(dataDir, { op: 'attachments' })) as Pick<NodeAttachments, 'artifacts'>;
    return { node, uid, source: 'daemon', artifacts: answer.artifacts, pins };
  } catch (error) {
    if (!(error instanceof AegisError) || error.code !== 'cli.unreachable') throw error;
  }
  return { node, uid, source: 'journal', artifacts: fromJournal(join(dataDir, 'journal.db')), pins };
};

const fromJournal = (path: string): ArtifactView[] => {
  if (!existsSync(path)) return [];
  let db: Database.Database | null = null;
  try {
    db = new Database(path, { readonly: true, fileMustExist: true, timeout: 2000 });
    // An older release's journal has none of this.
    const known = db.prepare("SELECT 1 FROM sqlite_master WHERE name = 'desired_artifacts'").get();
    return known ? artifactViews({ db }) : [];
  } catch (cause) {
    throw new AegisError(
      'journal.failed',
      `The journal ${path} cannot be read: run this as its owner, and see that no daemon is just starting.`,
      { cause },
    );
  } finally {
    db?.close();
  }
};

/** `<artifact>/links/<link>` of everything that is pinned; nothing when the file system is not there or may not be read. */
const linksBelow = (folder: string, bpffs: string): string[] => {
  const namesIn = (path: string): string[] => {
    try {
      return readdirSync(path);
    } catch {
      return []; // not mounted, gone meanwhile, or not ours to read: nothing to show
    }
  };
  return namesIn(folder)
    .flatMap((artifact) => {
      const links = join(folder, artifact, 'links');
      return namesIn(links).map((link) => join(links, link).slice(bpffs.length + 1));
    })
    .sort();
};
