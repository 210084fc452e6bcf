import type { Clock } from '../platform/clock.ts';
import type { Log } from '../platform/log.ts';
import { loop } from '../platform/loop.ts';
import type { OneAtATime } from '../platform/one-at-a-time.ts';
import { type AssignmentChanges, HostsGone } from './assignments.ts';
import type { AssignmentsRepository } from './assignments-repository.ts';
import type { ConfigsRepository, ConfigTargets } from './configs-repository.ts';
import type { Candidate, DesiredDoor, NodeDoor } from './node-door.ts';
import { parseTargets, type Targets } from './targets.ts';

/** Keeps what nodes have in step with what configurations name: at once for nodes that have just enrolled or changed, and for all by
 *  the loop, which also repairs what a crash or another server process left undone. */

const EVERY_MS = 60_000;
const BY = 'selector';
/** Nodes at once whose change is looked at for themselves; more wait for the next such look. */
const NODES_AT_ONCE = 500;

export const reconciler = (on: {
  configs: ConfigsRepository;
  assignments: AssignmentsRepository;
  changes: AssignmentChanges;
  nodes: NodeDoor;
  desired: DesiredDoor;
  inTurn: OneAtATime;
  clock: Clock;
  log: Log;
}) => {
  const { configs, assignments } = on;
  const waiting = new Set<string>();
  let working = false;

  /** @param only other nodes stay as they are */
  const bring = async (
    config: ConfigTargets,
    hosts: readonly Candidate[],
    only: ReadonlySet<string> | undefined,
  ): Promise<void> => {
    try {
      const outcome = await configs.write('backups.reconcile', async (tx) => {
        const row = await configs.lock(tx, config.id);
        // Changed since: that change looked at the nodes after we did.
        if (!row || row.deleted_at !== null || row.revision !== config.revision) return null;
        return on.changes.apply(
          tx,
          {
            configId: row.id,
            anew: false,
            bytes: Buffer.byteLength(row.body),
            hosts,
            ...(only ? { only } : {}),
            by: BY,
            now: on.clock.now(),
          },
          'leave out',
        );
      });
      if (!outcome) return;
      on.desired.changed(outcome.revisions);
      if (outcome.full.length > 0)
        on.log.warn(
          { config_id: config.id, nodes: outcome.full.slice(0, 20), count: outcome.full.length },
          'a backup configuration selects nodes that have as many configurations as one node may: they do not get it',
        );
    } catch (error) {
      if (!(error instanceof HostsGone)) throw error; // the next turn sees the nodes that are left
    }
  };

  /** What goes wrong with one configuration holds up no other. */
  const alone = async (
    config: ConfigTargets,
    work: (includes: Targets['includes']) => Promise<void>,
  ): Promise<void> => {
    try {
      await work(parseTargets(JSON.parse(config.targets) as string[]).includes);
    } catch (err) {
      on.log.warn(
        { config_id: config.id, err },
        'the nodes of a backup configuration were not compared; the next turn does it',
      );
    }
  };
  const compareAll = async (): Promise<void> => {
    const [all, candidates, present] = [
      await configs.targets(),
      await on.nodes.candidates(),
      await assignments.present(),
    ];
    const has = new Map<string, Set<string>>();
    for (const { config_id, node_uid } of present) {
      const uids = has.get(config_id) ?? new Set();
      has.set(config_id, uids.add(node_uid));
    }
    for (const config of all) {
      await alone(config, async (includes) => {
        const wanted = candidates.filter(includes);
        const held = has.get(config.id) ?? new Set();
        if (wanted.length !== held.size || wanted.some(({ uid }) => !held.has(uid)))
          await bring(config, wanted, undefined);
      });
      await new Promise((resolve) => setImmediate(resolve)); // others are answered between two configurations
    }
  };
  const compareSome = async (uids: readonly string[]): Promise<void> => {
    const all = await configs.targets();
    if (all.length === 0) return;
    const candidates = (await Promise.all(uids.map(on.nodes.candidate))).filter((one) => one !== null);
    const held = new Map(
      await Promise.all(candidates.map(async ({ uid }) => [uid, await assignments.presentOf(uid)] as const)),
    );
    for (const config of all)
      await alone(config, async (includes) => {
        const differing = candidates.filter((node) => includes(node) !== held.get(node.uid)?.has(config.id));
        if (differing.length > 0)
          await bring(config, differing.filter(includes), new Set(differing.map(({ uid }) => uid)));
      });
  };
  const work = async (): Promise<void> => {
    working = true;
    try {
      while (waiting.size > 0) {
        const uids = [...waiting].slice(0, NODES_AT_ONCE);
        for (const uid of uids) waiting.delete(uid);
        await on.inTurn(() => compareSome(uids));
      }
    } catch (err) {
      on.log.warn({ err }, 'changed nodes were not compared with the backup configurations; the loop does it');
    } finally {
      working = false;
    }
  };

  return {
    /** One that enrolled, or whose labels, site, capabilities or the like changed. */
    nodeChanged: (uid: string): void => {
      waiting.add(uid);
      if (!working) setImmediate(() => void (working || work()));
    },
    turn: (): Promise<void> => on.inTurn(compareAll),
    start: (signal: AbortSignal): void =>
      loop({ name: 'backups.reconcile', everyMs: EVERY_MS, turn: () => on.inTurn(compareAll), signal, log: on.log }),
  };
};
export type Reconciler = ReturnType<typeof reconciler>;
