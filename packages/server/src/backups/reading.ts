import type { grantRestore, ObjectLink, runLinks } from '@aegis/protocol/backups/endpoints';
import type { RestoreSource } from '@aegis/protocol/backups/node-endpoints';
import { isGood, objectNames, type Run, type RunObject } from '@aegis/protocol/backups/run';
import type { ResponseOf } from '@aegis/protocol/endpoint';
import { AegisError } from '@aegis/protocol/errors';
import { type Clock, isoTime } from '../platform/clock.ts';
import type { NodeActor } from '../platform/http/actor.ts';
import type { Log } from '../platform/log.ts';
import type { Within } from '../platform/node-scope.ts';
import type { Place } from './destinations-repository.ts';
import type { GrantsRepository } from './grants-repository.ts';
import type { NodeDoor } from './node-door.ts';
import { unknownRun } from './run-refusals.ts';
import { AGENT_ARCHIVE } from './run-views.ts';
import type { RunsRepository } from './runs-repository.ts';
import { type sealedCredentials, sessionOf } from './s3-access.ts';
import type { Stores } from './stores.ts';
import type { RunRow } from './tables.ts';

/** Ways to the objects of a run for those who restore it: the node itself, another node that was granted it, and operators by links. */

const LINK_SEC = 3600;
const OBJECTS: readonly RunObject[] = ['archive', 'manifest', 'statement'];

export const readingService = (on: {
  runs: RunsRepository;
  grants: GrantsRepository;
  stores: Stores;
  placeOf: (run: RunRow) => Promise<Place>;
  sealed: ReturnType<typeof sealedCredentials>;
  nodes: NodeDoor;
  clock: Clock;
  log: Log;
}) => {
  const isGranted = async (runId: string, nodeUid: string): Promise<boolean> =>
    ((await on.grants.expiryOf(runId, nodeUid)) ?? 0) > on.clock.now();
  return {
    isGranted,
    /** For an hour. @throws AegisError backups.no_link, unknown_object */
    links: async (by: string, run: RunRow, view: Run): Promise<ResponseOf<typeof runLinks>> => {
      requireObjects(run);
      const place = await on.placeOf(run);
      if (place.destination.kind !== 's3')
        throw new AegisError(
          'backups.no_link',
          `The backup lies in ${place.destination.path} of '${run.node_name}': no link leads there. ${
            run.node_uid === null
              ? `On the server's own machine: 'aegis backups restore --from ${place.destination.path}/${run.prefix} --target DIR'.`
              : `Restore it on that node with 'aegis backups restore ${run.id} --node ${run.node_name} --target DIR'; there 'aegis backups ls', 'cat' and 'verify' open it with --from ${place.destination.path}/${run.prefix}.`
          }`,
        );
      const store = on.stores.of(place);
      const links = await Promise.all(
        objectsOf(run).map(async ([object, name]): Promise<ObjectLink> => {
          const key = `${run.prefix}${name}`;
          const { url, expiresAt } = await store.presign('GET', key, LINK_SEC);
          return { object, key, url, expires_at: isoTime(expiresAt) };
        }),
      );
      on.log.info({ run_id: run.id, by }, 'links to the objects of a backup were given out');
      return { run: view, links };
    },
    /** @throws AegisError nodes.unknown_node, backups.unknown_object */
    grant: async (
      by: string,
      run: RunRow,
      { node, ttl_sec }: { node: string; ttl_sec: number },
      within: Within,
    ): Promise<ResponseOf<typeof grantRestore>> => {
      requireObjects(run);
      const { uid, name } = await on.nodes.find(node, within);
      const now = on.clock.now();
      const expires_at = now + ttl_sec * 1000;
      await on.grants.put({ run_id: run.id, node_uid: uid, expires_at, granted_at: now, granted_by: by }, now);
      on.log.info({ run_id: run.id, by, node: name, node_uid: uid }, 'a node may read the backup of a run for a while');
      return { node: name, node_uid: uid, expires_at: isoTime(expires_at) };
    },
    /** @throws AegisError backups.unknown_run, unknown_object, unsupported, destination_failed */
    source: async (actor: NodeActor, runId: string, shown: (run: RunRow) => Promise<Run>): Promise<RestoreSource> => {
      const run = await on.runs.byId(runId);
      if (!run || (run.node_uid !== actor.uid && !(await isGranted(runId, actor.uid)))) throw unknownRun(runId);
      requireObjects(run);
      const place = await on.placeOf(run);
      const keys = await on.nodes.keysOf(actor.uid);
      const maker = run.node_uid === null ? null : await on.nodes.keysOf(run.node_uid);
      return {
        run: await shown(run),
        destination: place.destination,
        prefix: run.prefix,
        // The reader compares it with the key id that the operator trusts.
        node_public_key: maker?.publicKey?.toString('base64') ?? null,
        sealed_credentials: await on.sealed(place, keys?.sealingKey ?? null, sessionOf(run, 'read')),
      };
    },
  };
};
export type ReadingService = ReturnType<typeof readingService>;

/** An agent of the seed writes one archive, in a form of its own. */
const objectsOf = (run: RunRow): (readonly [RunObject, name: string])[] => {
  if (run.cause === 'agent') return [['archive', AGENT_ARCHIVE]];
  const names = objectNames(run.encrypted === 1);
  return OBJECTS.map((object) => [object, names[object]]);
};
const requireObjects = (run: RunRow): void => {
  if (run.removed_at !== null)
    throw new AegisError(
      'backups.unknown_object',
      `The archive of the run ${run.id} was removed ${isoTime(run.removed_at)}. See 'aegis backups runs' for others.`,
    );
  if (!isGood(run.state))
    throw new AegisError(
      'backups.unknown_object',
      `The run ${run.id} is ${run.state}: there is no whole archive of it. See 'aegis backups runs' for others.`,
    );
};
