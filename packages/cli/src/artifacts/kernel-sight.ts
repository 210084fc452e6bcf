import { join } from 'node:path';
import { AegisError } from '@aegis/protocol/errors';
import type { NodeFolder } from '../node-folder.ts';
import type { LocalArtifact, LocalAttachments, LocalLink } from './attachments-text.ts';
import { isNotFound, loaderRefusal } from './kernel-refusal.ts';
import { mapSight } from './map-sight.ts';

/** What this machine's kernel holds of the node's artifacts: the pins in bpffs are opened, and the kernel itself is asked what they are. */
export const kernelSight = (folder: NodeFolder) => {
  const { maps, contents, events } = mapSight(folder);
  return { attachments: () => attachments(folder), maps, contents, events };
};
export type KernelSight = ReturnType<typeof kernelSight>;

const attachments = async ({ dataDir, bpffs }: NodeFolder): Promise<LocalAttachments> => {
  const { readAttachments } = await import('@aegis/daemon/attachments');
  const { artifactKey, isKey, layout, listFolder } = await import('@aegis/daemon/pins');
  const known = await readAttachments(dataDir, { bpffs });
  const places = layout(bpffs, known.uid);
  const found = new Map<string, LocalArtifact>();
  for (const one of known.artifacts)
    found.set(artifactKey(one.name), {
      name: one.name,
      version: one.version,
      running_version: one.running?.version ?? null,
      generation: one.generation,
      state: one.state,
      reason: one.reason ?? null,
      links: [],
    });
  for (const key of listed(() => listFolder(places.node))) {
    if (!isKey(key)) continue;
    const { records, links } = places.artifact(key);
    const seen = await linksOf(records, links);
    const artifact = found.get(key);
    if (artifact) artifact.links = seen.map(({ link }) => link);
    // Left by a release or a daemon that the journal does not know of.
    else if (seen.length > 0)
      found.set(key, {
        name: seen[0]?.artifact ?? key,
        version: null,
        running_version: null,
        generation: null,
        state: 'unknown',
        reason: null,
        links: seen.map(({ link }) => link),
      });
  }
  const artifacts = [...found.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  return { node: known.node, uid: known.uid, artifacts };
};

/** @throws AegisError artifacts.not_here where the pins may not be read */
const listed = (list: () => string[]): string[] => {
  try {
    return list();
  } catch (error) {
    const reason = (error as NodeJS.ErrnoException).code ?? String(error);
    throw new AegisError('artifacts.not_here', `The pins of this node cannot be read (${reason}): run this as root.`);
  }
};

const linksOf = async (records: string, links: string): Promise<{ artifact: string; link: LocalLink }[]> => {
  const { describePoint, listFolder, parseRecord, readRecord } = await import('@aegis/daemon/pins');
  const seen: { artifact: string; link: LocalLink }[] = [];
  for (const key of listed(() => listFolder(records))) {
    const record = parseRecord(readRecord(join(records, key)));
    if (record === null) continue;
    const { artifact, program, point } = record;
    const told = await linkFacts(join(links, key), point.kind === 'tc');
    seen.push({ artifact, link: { program, hook: describePoint(point), ...told } });
  }
  return seen;
};

const NOTHING = { link_id: null, program_id: null, program_tag: null, run_count: 0, run_time_ns: 0 } as const;

/** @param linkless a clsact filter, which has a record and no link */
const linkFacts = async (pin: string, linkless: boolean): Promise<Omit<LocalLink, 'program' | 'hook'>> => {
  if (linkless) return { state: 'attached', ...NOTHING };
  const { openLink } = await import('@aegis/bpf-loader/link');
  const { programById } = await import('@aegis/bpf-loader/program');
  try {
    using link = openLink(pin);
    const { id, programId, ifindex, cgroupId, netnsInode } = link.info();
    const gone = ifindex === 0 || cgroupId === 0n || netnsInode === 0;
    using program = programById(programId);
    const { tag, runCount, runTimeNs } = program.info();
    return {
      state: gone ? 'detached' : 'attached',
      link_id: id,
      program_id: programId,
      program_tag: tag,
      run_count: runCount,
      run_time_ns: runTimeNs,
    };
  } catch (error) {
    if (isNotFound(error)) return { state: 'missing', ...NOTHING };
    throw loaderRefusal(error);
  }
};
