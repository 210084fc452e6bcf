import type { AssignAnswer, Assignment, HostsAnswer } from '@aegis/protocol/artifacts/endpoints';
import { AegisError } from '@aegis/protocol/errors';
import type * as z from 'zod/mini';
import type { Clock } from '../platform/clock.ts';
import type { Within } from '../platform/node-scope.ts';
import type { Tx } from '../tables.ts';
import type { AssignmentsRepository } from './assignments-repository.ts';
import type { DesiredState } from './desired.ts';
import { type Change, type DesiredChanges, type Host, isSame, type Wish } from './desired-changes.ts';
import type { LibraryService } from './library.ts';
import type { KnownHost, NodeDoor } from './node-door.ts';
import type { ArtifactHead, ArtifactsRepository } from './repository.ts';
import { checkedSettings, type Settings } from './settings.ts';
import type { Signers } from './signers.ts';
import { parseReference, unknownArtifact } from './versions.ts';
import { assignmentView } from './views.ts';

/** Assignments: who is to run what. All nodes of one request change in one transaction, or none does; their polls are woken after it. */

const NAMES_SHOWN = 5;

type Answered = z.infer<typeof AssignAnswer>['assignments'][number];

export const assignService = (on: {
  artifacts: ArtifactsRepository;
  assignments: AssignmentsRepository;
  changes: DesiredChanges;
  desired: DesiredState;
  library: LibraryService;
  signers: Signers;
  nodes: NodeDoor;
  clock: Clock;
}) => {
  const { artifacts, assignments, library, nodes } = on;

  /** @throws AegisError artifacts.unknown_host */
  const hostsNamed = async (names: readonly string[], within: Within): Promise<KnownHost[]> => {
    const known = await nodes.named(names, within);
    // A node chooses its name: one that is another node's uid must not come in its way.
    const found = new Map([
      ...known.map((host) => [host.name, host] as const),
      ...known.map((host) => [host.uid, host] as const),
    ]);
    refuseUnknown(names.filter((name) => !found.has(name)));
    return [...new Map(names.flatMap((name) => found.get(name) ?? []).map((host) => [host.uid, host])).values()];
  };
  /** Nodes by names and selectors. Those without a key are refused by name, and no selector reaches them.
   *  @throws AegisError artifacts.unknown_target, artifacts.unsupported, commands.bad_selector */
  const hostsTargeted = async (targets: readonly string[], within: Within): Promise<Host[]> => {
    const found = await nodes.resolve(targets, within).catch((error: unknown) => {
      throw asUnknownTarget(error);
    });
    const named = new Set(targets);
    refuseKeyless(found.filter(({ uid, name }) => named.has(uid) || named.has(name)));
    const hosts = found.filter(({ keyId }) => keyId !== null);
    if (hosts.length === 0)
      throw new AegisError(
        'artifacts.unknown_target',
        "Only nodes without a key are meant, and those obey no directive. See 'aegis nodes list'.",
      );
    return hosts.map(({ uid, name }) => ({ uid, name }));
  };
  const refuseRetired = async (tx: Tx, hosts: readonly Host[]): Promise<void> => {
    const active = await nodes.activeIn(
      tx,
      hosts.map(({ uid }) => uid),
    );
    refuseUnknown(hosts.filter(({ uid }) => !active.has(uid)).map(({ name }) => name));
  };
  const stillThere = async (tx: Tx, artifact: ArtifactHead): Promise<ArtifactHead> => {
    const row = await artifacts.byIdIn(tx, artifact.id);
    if (!row) throw unknownArtifact(artifact.id);
    return row;
  };
  const told = (changes: readonly Change[]): void =>
    on.desired.changed(
      changes.filter(({ changed }) => changed).map(({ after, revision }) => [after.node_uid, revision]),
    );

  const settingsFor = async (artifact: ArtifactHead, given: Settings | undefined): Promise<string> =>
    given === undefined || Object.keys(given).length === 0
      ? '{}'
      : JSON.stringify(checkedSettings(await library.constantsOf(artifact.id), given));
  const presence = (artifact: ArtifactHead, constants: string): Wish => ({
    kind: 'present',
    artifactId: artifact.id,
    manifestBytes: artifact.manifest_bytes,
    constants,
  });

  const assignTo = async (
    by: string,
    artifact: ArtifactHead,
    hosts: readonly Host[],
    settings: Settings | undefined,
  ): Promise<Change[]> => {
    on.signers.refuseUntrusted(artifact);
    const wish = presence(artifact, await settingsFor(artifact, settings));
    const changes = await assignments.write('artifacts.assign', async (tx) => {
      await stillThere(tx, artifact);
      const made = await on.changes(tx, {
        name: artifact.name,
        hosts,
        by,
        now: on.clock.now(),
        wishFor: () => wish,
      });
      await refuseRetired(tx, hosts);
      return made;
    });
    told(changes);
    return changes;
  };

  const unassignFrom = async (
    by: string,
    name: string,
    hosts: readonly Host[],
    artifactId: string | null,
  ): Promise<Change[]> => {
    const changes = await assignments.write('artifacts.unassign', (tx) =>
      on.changes(tx, {
        name,
        hosts,
        by,
        now: on.clock.now(),
        wishFor: (before) => (artifactId !== null && before?.artifact_id !== artifactId ? null : { kind: 'absent' }),
      }),
    );
    told(changes);
    return changes;
  };

  /** With the versions before and after, which the rows name by id. */
  const answersOf = async (changes: readonly Change[]): Promise<Answered[]> => {
    const ids = new Set(
      changes.flatMap(({ before, after }) => [after.artifact_id, before?.artifact_id ?? after.artifact_id]),
    );
    const versions = await artifacts.versionsById([...ids]);
    return changes.map(({ before, after, changed }) => ({
      ...assignmentView(after, versions.get(after.artifact_id) ?? ''),
      previous_version: before?.present === 1 ? (versions.get(before.artifact_id) ?? null) : null,
      changed,
    }));
  };
  const onlyOne = async (changes: readonly Change[]): Promise<Assignment & { changed: boolean }> => {
    const [answer] = await answersOf(changes);
    if (!answer) throw new AegisError('http.internal', 'The assignment is not there after it was made.');
    const { previous_version: _, ...shown } = answer;
    return shown;
  };
  const planned = async (name: string, hosts: readonly Host[], by: string, wish: Wish): Promise<Change[]> => {
    const rows = await assignments.ofName(
      name,
      hosts.map(({ uid }) => uid),
    );
    return hosts.flatMap((host) => {
      const before = rows.get(host.uid);
      if (wish.kind !== 'present' && !before) return [];
      const changed = !isSame(before, wish);
      return [
        {
          before,
          after: changed || !before ? draft(name, host, before, wish, by, on.clock.now()) : before,
          changed,
          revision: 0,
        },
      ];
    });
  };

  return {
    /** @throws AegisError artifacts.unknown_artifact, unknown_host, unsupported, unknown_constant, not_settable, bad_constant,
     *  revoked_signer, limit */
    assign: async (by: string, artifactId: string, host: string, settings: Settings | undefined, within: Within) => {
      const artifact = await library.find(artifactId);
      const hosts = await hostsNamed([host], within);
      refuseKeyless(hosts);
      return onlyOne(await assignTo(by, artifact, hosts, settings));
    },

    /** What is off already stays off. @throws AegisError artifacts.unknown_artifact, unknown_host, not_assigned */
    unassign: async (by: string, artifactId: string, host: string, within: Within): Promise<Assignment> => {
      const artifact = await library.find(artifactId);
      const hosts = await hostsNamed([host], within);
      const changes = await unassignFrom(by, artifact.name, hosts, artifact.id);
      if (!changes.some(({ after }) => after.artifact_id === artifact.id)) throw notAssigned(artifact, hosts);
      const { changed: _, ...assignment } = await onlyOne(changes);
      return assignment;
    },

    /** The whole set of one version's nodes within; nodes on other versions of the name stay as they are. Without `settings` a node that has
     *  the artifact keeps its own. @throws as `assign` */
    putHosts: async (
      by: string,
      artifactId: string,
      names: readonly string[],
      settings: Settings | undefined,
      within: Within,
    ): Promise<z.infer<typeof HostsAnswer>> => {
      const artifact = await library.find(artifactId);
      const hosts = await hostsNamed(names, within);
      refuseKeyless(hosts);
      const given = await settingsFor(artifact, settings);
      const wanted = new Set(hosts.map(({ uid }) => uid));
      const changes = await assignments.write('artifacts.put-hosts', async (tx) => {
        const current = await stillThere(tx, artifact);
        const gone = (await assignments.holdersIn(tx, artifact.id, within))
          .filter(({ node_uid }) => !wanted.has(node_uid))
          .map(({ node_uid, node_name }) => ({ uid: node_uid, name: node_name }));
        const made = await on.changes(tx, {
          name: artifact.name,
          hosts: [...hosts, ...gone],
          by,
          now: on.clock.now(),
          wishFor: (before, { uid }) => {
            if (!wanted.has(uid)) return { kind: 'absent' };
            const keeps = settings === undefined && before?.present === 1 && before.artifact_id === artifact.id;
            return presence(artifact, keeps ? before.constants : given);
          },
        });
        await refuseRetired(tx, hosts);
        // Only what is put on: what a revoked key signed must be easy to take off.
        if (made.some(({ changed, after }) => changed && after.present === 1)) on.signers.refuseUntrusted(current);
        return made;
      });
      told(changes);
      const named = (which: (change: Change) => boolean) =>
        changes
          .filter(which)
          .map(({ after }) => after.node_name)
          .sort();
      return {
        added: named(({ changed, after }) => changed && after.present === 1),
        removed: named(({ changed, after }) => changed && after.present === 0),
        unchanged: named(({ changed }) => !changed),
      };
    },

    /** By name and selectors. A dry run shows the generations that would be. @throws as `assign`, and artifacts.unknown_target */
    assignMany: async (
      by: string,
      request: { artifact: string; targets: readonly string[]; constants?: Settings | undefined; dry_run: boolean },
      within: Within,
    ): Promise<AssignAnswer> => {
      const artifact = await library.resolve(request.artifact);
      const hosts = await hostsTargeted(request.targets, within);
      on.signers.refuseUntrusted(artifact);
      const changes = request.dry_run
        ? await planned(artifact.name, hosts, by, presence(artifact, await settingsFor(artifact, request.constants)))
        : await assignTo(by, artifact, hosts, request.constants);
      return { artifact: await library.show(artifact.id, within), assignments: await answersOf(changes) };
    },

    /** `name` takes off whatever version is there, `name@version` or an id only that one. Nodes that a selector reaches and that do not
     *  have it are left out. @throws AegisError artifacts.unknown_artifact, unknown_target, not_assigned */
    unassignMany: async (
      by: string,
      request: { artifact: string; targets: readonly string[]; dry_run: boolean },
      within: Within,
    ): Promise<AssignAnswer> => {
      const reference = parseReference(request.artifact);
      const artifact = await library.resolve(request.artifact);
      const exact = 'id' in reference || reference.version !== null ? artifact.id : null;
      const hosts = await hostsTargeted(request.targets, within);
      const rows = await assignments.ofName(
        artifact.name,
        hosts.map(({ uid }) => uid),
      );
      const has = ({ uid }: Host) => {
        const row = rows.get(uid);
        return row !== undefined && (exact === null || row.artifact_id === exact);
      };
      const named = new Set(request.targets);
      const missing = hosts.filter((host) => !has(host) && (named.has(host.uid) || named.has(host.name)));
      const those = hosts.filter(has);
      if (missing.length > 0 || those.length === 0)
        throw notAssigned(
          exact === null ? { name: artifact.name, version: null } : artifact,
          missing.length > 0 ? missing : hosts,
        );
      const changes = request.dry_run
        ? await planned(artifact.name, those, by, { kind: 'absent' })
        : await unassignFrom(by, artifact.name, those, exact);
      return {
        artifact: exact === null ? null : await library.show(artifact.id, within),
        assignments: await answersOf(changes),
      };
    },
  };
};
export type AssignService = ReturnType<typeof assignService>;

/** As it would be. */
const draft = (
  name: string,
  host: Host,
  before: Change['before'],
  wish: Wish,
  by: string,
  now: number,
): Change['after'] => ({
  node_uid: host.uid,
  name,
  node_name: host.name,
  generation: (before?.generation ?? 0) + 1,
  present: wish.kind === 'present' ? 1 : 0,
  artifact_id: wish.kind === 'present' ? wish.artifactId : (before?.artifact_id ?? ''),
  assigned_at: now,
  assigned_by: by,
  directive_id: '',
  issued_at: now,
  confirmed: 0,
  constants: wish.kind === 'present' ? wish.constants : '{}',
});

const shownNames = (names: readonly string[]): string => {
  const shown = names.slice(0, NAMES_SHOWN).map((name) => `'${name.slice(0, 128)}'`);
  return `${shown.join(', ')}${names.length > shown.length ? ` and ${names.length - shown.length} more` : ''}`;
};
const refuseUnknown = (names: readonly string[]): void => {
  if (names.length === 0) return;
  throw new AegisError(
    'artifacts.unknown_host',
    `No node named ${shownNames(names)}: nothing was assigned. See 'aegis nodes list'.`,
    { details: { unknown: names.slice(0, 100).map((name) => name.slice(0, 128)) } },
  );
};
const refuseKeyless = (hosts: readonly KnownHost[]): void => {
  const keyless = hosts.filter(({ keyId }) => keyId === null).map(({ name }) => name);
  if (keyless.length === 0) return;
  throw new AegisError(
    'artifacts.unsupported',
    `${shownNames(keyless)} ${keyless.length === 1 ? 'is a poller without a key and obeys' : 'are pollers without a key and obey'} no directive. Enrol with 'aegis register' to run artifacts there.`,
  );
};
const notAssigned = (artifact: { name: string; version: string | null }, hosts: readonly Host[]): AegisError =>
  new AegisError(
    'artifacts.not_assigned',
    `${artifact.name}${artifact.version === null ? '' : ` ${artifact.version}`} is not assigned to ${shownNames(hosts.map(({ name }) => name))}. See 'aegis artifacts status'.`,
  );
const asUnknownTarget = (error: unknown): unknown =>
  error instanceof AegisError && ['commands.unknown_target', 'commands.no_target'].includes(error.code)
    ? new AegisError('artifacts.unknown_target', error.message, { details: error.details, cause: error })
    : error;
