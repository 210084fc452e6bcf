import type { PinnedAttachment } from '@aegis/daemon/pins';
import { AegisError } from '@aegis/protocol/errors';
import type { NodeFolder } from '../node-folder.ts';
import type { LocalArtifact, LocalAttachments, LocalLink, MeasuredAttachments } from './attachments-text.ts';
import { isNoSuchTarget, isNotFound, isNotPermitted, loaderRefusal } from './kernel-refusal.ts';
import { mapSight } from './map-sight.ts';

/** What this machine's kernel holds of the node's artifacts: the pins in bpffs are opened, and the kernel itself is asked what they are. */
export const kernelSight = (folder: NodeFolder) => {
  const { maps, contents, events } = mapSight(folder);
  return {
    /** @throws AegisError artifacts.not_here when nothing of the artifact that is named is here */
    attachments: (artifact?: string) => attachments(folder, artifact),
    /** Lets the kernel count all programs' runs for as long as `pause` takes. @throws AegisError artifacts.not_here */
    measure: (options: MeasureOptions) => measure(folder, options),
    maps,
    contents,
    events,
  };
};
export type KernelSight = ReturnType<typeof kernelSight>;

export interface MeasureOptions {
  artifact?: string | undefined;
  pause(): Promise<void>;
  /** Milliseconds of a clock that nobody sets. */
  monotonic(): number;
}

const attachments = async ({ dataDir, bpffs }: NodeFolder, artifact?: string): Promise<LocalAttachments> => {
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
    for (const one of attached)
      links.push({ program: one.program, hook: one.hook, ...(await linkFacts(one, known.source === 'daemon')) });
    const artifact = found.get(key);
    if (artifact) artifact.links = links;
    else if (links.length > 0) found.set(key, unknownArtifact(attached[0]?.artifact ?? key, links));
  }
  const artifacts = [...found.values()]
    .filter(({ name }) => artifact === undefined || name === artifact)
    .sort((a, b) => (a.name < b.name ? -1 : 1));
  if (artifact !== undefined && artifacts.length === 0)
    throw new AegisError(
      'artifacts.not_here',
      `There is no artifact '${artifact}' on ${pins.node}. See 'aegis daemon attachments' there, or 'aegis artifacts status'.`,
    );
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

/** @param daemonRuns it holds the sockets that have filters */
const linkFacts = async (
  { link, filter, socket }: PinnedAttachment,
  daemonRuns: boolean,
): Promise<Omit<LocalLink, 'program' | 'hook'>> => {
  try {
    if (link !== null) return await factsOfLink(link);
    if (filter !== null) return await factsOfFilter(filter);
    if (socket !== null && daemonRuns) return await factsOfSocket(socket);
  } catch (error) {
    if (!isNotFound(error)) throw loaderRefusal(error);
  }
  return { state: 'missing', ...NOTHING };
};

const factsOfLink = async (pin: string) => {
  const { openLink } = await import('@aegis/bpf-loader/link');
  using link = openLink(pin);
  const { id, programId, ifindex, cgroupId, netnsInode } = link.info();
  const gone = ifindex === 0 || cgroupId === 0n || netnsInode === 0;
  return { state: gone ? 'detached' : 'attached', link_id: id, ...(await programFacts(programId)) } as const;
};

const factsOfFilter = async (point: NonNullable<PinnedAttachment['filter']>) => {
  const { queryTc } = await import('@aegis/bpf-loader/tc');
  const programId = await queryTc(point).catch((error: unknown) => {
    if (isNoSuchTarget(error)) return 0; // with its interface or namespace it is gone too
    throw error;
  });
  return programId === 0
    ? ({ state: 'detached', ...NOTHING } as const)
    : ({ state: 'attached', link_id: null, ...(await programFacts(programId)) } as const);
};

const factsOfSocket = async (pin: string) => {
  const { openProgram } = await import('@aegis/bpf-loader/program');
  using program = openProgram(pin);
  return { state: 'attached', link_id: null, ...(await programFacts(program.id)) } as const;
};

const programFacts = async (id: number) => {
  const { programById } = await import('@aegis/bpf-loader/program');
  using program = programById(id);
  const { tag, runCount, runTimeNs } = program.info();
  return { program_id: id, program_tag: tag, run_count: runCount, run_time_ns: runTimeNs };
};

const measure = async (
  folder: NodeFolder,
  { artifact, pause, monotonic }: MeasureOptions,
): Promise<MeasuredAttachments> => {
  await attachments(folder, artifact); // what cannot be read, or is not here, is told before anything is counted
  using _counting = await countRuns();
  const from = monotonic();
  const before = await attachments(folder, artifact);
  const links = before.artifacts.flatMap((one) => one.links);
  if (links.length > 0) await pause();
  const after = await attachments(folder, artifact);
  const measuredMs = monotonic() - from;
  const first = new Map(links.map((link) => [link.program_id, link]));
  const measured = (link: LocalLink) => {
    if (link.program_id === null) return null;
    // One that came meanwhile has counted since it was loaded.
    const { run_count = 0, run_time_ns = 0 } = first.get(link.program_id) ?? {};
    const runs = link.run_count - run_count;
    const time_ns = link.run_time_ns - run_time_ns;
    return {
      runs,
      runs_per_sec: Math.round((runs * 10_000) / measuredMs) / 10,
      time_ns,
      ns_per_run: runs === 0 ? null : Math.round(time_ns / runs),
    };
  };
  return {
    ...after,
    measured_ms: Math.round(measuredMs),
    artifacts: after.artifacts.map((one) => ({
      ...one,
      links: one.links.map((link) => ({ ...link, measured: measured(link) })),
    })),
  };
};

const countRuns = async (): Promise<Disposable> => {
  const { enableStats } = await import('@aegis/bpf-loader/kernel');
  try {
    return enableStats();
  } catch (error) {
    if (isNotPermitted(error))
      throw new AegisError(
        'artifacts.not_here',
        'The kernel counts runs for root alone (CAP_SYS_ADMIN): run this as root.',
        {
          cause: error,
        },
      );
    throw loaderRefusal(error);
  }
};
