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
  const { nodePins } = await import('@aegis/daemon/pins');
  const pins = nodePins(dataDir, bpffs);
  const known = await readAttachments(dataDir, { bpffs });
  const found = new Map<string, LocalArtifact>();
  for (const { name, version, running, generation, state, reason } of known.artifacts)
    found.set(pins.keyOf(name), {
      name,
      version,
      running_version: running?.version ?? null,
      generation,
      state,
      reason: reason ?? null,
      links: [],
    });
  for (const key of pins.artifacts()) {
    const attached = pins.attachments(key);
    const links: LocalLink[] = [];
    for (const { program, hook, link } of attached) links.push({ program, hook, ...(await linkFacts(link)) });
    const artifact = found.get(key);
    if (artifact) artifact.links = links;
    else if (links.length > 0) found.set(key, unknownArtifact(attached[0]?.artifact ?? key, links));
  }
  const artifacts = [...found.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  return { node: pins.node, uid: pins.uid, source: known.source, artifacts };
};

/** Pinned, and the journal does not know it: the daemon removes it at its next look. */
const unknownArtifact = (name: string, links: LocalLink[]): LocalArtifact => ({
  name,
  version: null,
  running_version: null,
  generation: null,
  state: 'unknown',
  reason: null,
  links,
});

const NOTHING = { link_id: null, program_id: null, program_tag: null, run_count: 0, run_time_ns: 0 } as const;

/** @param pin null: a clsact filter, which has a record and no link */
const linkFacts = async (pin: string | null): Promise<Omit<LocalLink, 'program' | 'hook'>> => {
  if (pin === null) return { state: 'attached', ...NOTHING };
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
