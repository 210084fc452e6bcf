import type { Envelope } from '@aegis/protocol/access/dsse';
import type { ForHost } from '@aegis/protocol/artifacts/endpoints';
import { AegisError } from '@aegis/protocol/errors';
import type { Clock } from '../platform/clock.ts';
import type { Actor, NodeActor } from '../platform/http/actor.ts';
import type { Within } from '../platform/node-scope.ts';
import type { AssignmentsRepository, HostRow } from './assignments-repository.ts';
import { absentBody, assignmentDirective, presentBody, type Signer, type Templates } from './directives.ts';
import type { KnownHost } from './node-door.ts';
import type { Signers } from './signers.ts';
import { artifactView } from './views.ts';

/** What one node is to run: to operators as a list, to the node itself with the directives that it obeys. */

/** An older directive is issued afresh: whoever has been away for a week still gets one that it accepts. */
const REISSUE_AFTER_MS = 24 * 3_600_000;
/** A thousand nodes that ask at once for the same artifact have it counted once. */
const COUNTS_KEPT_MS = 1000;
const COUNTS_KEPT = 10_000;

export const forHostService = (on: {
  assignments: AssignmentsRepository;
  templateOf: Templates;
  signers: Signers;
  signer: Signer;
  named: (names: readonly string[], within: Within) => Promise<readonly KnownHost[]>;
  clock: Clock;
  newId: () => string;
}) => {
  const { assignments, clock } = on;
  const counted = new Map<string, { count: Promise<number>; at: number }>();
  const countsOf = async (ids: readonly string[]): Promise<Map<string, number>> => {
    const now = clock.now();
    const asked = ids.filter((id) => {
      const known = counted.get(id);
      return !known || Math.abs(now - known.at) >= COUNTS_KEPT_MS;
    });
    if (counted.size + asked.length > COUNTS_KEPT) counted.clear();
    if (asked.length > 0) {
      const counts = assignments.countsOf(asked, null); // whoever asks meanwhile waits for this answer
      for (const id of asked) {
        const count = counts.then((all) => all.get(id) ?? 0);
        count.catch(() => counted.delete(id));
        counted.set(id, { count, at: now });
      }
    }
    return new Map(await Promise.all(ids.map(async (id) => [id, (await counted.get(id)?.count) ?? 0] as const)));
  };

  const reissue = (rows: readonly HostRow[]): Promise<HostRow[]> =>
    assignments.write('artifacts.reissue', async (tx) => {
      const now = clock.now();
      const fresh = rows.map((row) => ({ ...row, directive_id: on.newId(), issued_at: now }));
      for (const row of fresh) await assignments.reissue(tx, row);
      return fresh;
    });

  const directivesOf = async (keyId: string, rows: readonly HostRow[]): Promise<Envelope[]> => {
    const now = clock.now();
    // Of the future: the clock was wrong then, and no node takes what is not issued yet.
    const isOld = ({ issued_at }: HostRow) => now - issued_at >= REISSUE_AFTER_MS || issued_at > now;
    const old = rows.filter(isOld);
    const fresh = old.length === 0 ? rows : [...rows.filter((row) => !isOld(row)), ...(await reissue(old))];
    const signed = await Promise.all(
      fresh.map(async (row) => {
        if (row.present === 0) return [await assignmentDirective(on.signer, keyId, row, absentBody(row))];
        const template = await on.templateOf(row.artifact_id);
        // Null: replaced and deleted since the rows were read; the node is woken for that.
        return template ? [await assignmentDirective(on.signer, keyId, row, presentBody(row, template))] : [];
      }),
    );
    return signed.flat();
  };

  const uidOf = async (host: string, within: Within): Promise<string | undefined> => {
    const known = await on.named([host], within);
    return (known.find(({ uid }) => uid === host) ?? known[0])?.uid;
  };

  const forHost = async (actor: Actor, host: string, within: Within): Promise<ForHost> => {
    const version = on.signers.version();
    const uid = actor.kind === 'node' ? ownUid(actor, host) : await uidOf(host, within);
    if (uid === undefined) return { artifacts: [], total: 0, directives: [], revision: 0, trust_version: version };
    const { revision, rows } = await assignments.ofHost(uid);
    const present = rows.filter((row) => row.present === 1);
    const ids = present.map(({ artifact_id }) => artifact_id);
    const counts = await (within === null ? countsOf(ids) : assignments.countsOf(ids, within));
    const keyId = actor.kind === 'node' ? actor.keyId : null;
    return {
      artifacts: present.map(({ artifact }) =>
        artifactView(artifact, counts.get(artifact.id) ?? 0, on.signers.stateOf),
      ),
      total: present.length,
      directives: keyId === null ? [] : await directivesOf(keyId, rows),
      revision,
      trust_version: version,
    };
  };
  return {
    forHost,
    /** What the node itself is to obey. */
    directivesFor: async ({ uid, keyId }: NodeActor): Promise<Envelope[]> =>
      keyId === null ? [] : directivesOf(keyId, (await assignments.ofHost(uid)).rows),
  };
};
export type ForHostService = ReturnType<typeof forHostService>;

/** @throws AegisError access.forbidden */
const ownUid = (actor: NodeActor, host: string): string => {
  if (host === actor.uid || host === actor.name) return actor.uid;
  throw new AegisError('access.forbidden', 'A node may ask for its own artifacts only: by its own uid or name.');
};
