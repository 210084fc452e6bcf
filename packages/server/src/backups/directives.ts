import { MAX_LIFETIME_MS, signDirectiveInPool } from '@aegis/protocol/access/directive';
import type { Envelope } from '@aegis/protocol/access/dsse';
import type { KeyPair } from '@aegis/protocol/access/keys';
import type { ConfigBody } from '@aegis/protocol/backups/directive';
import { type Clock, isoTime } from '../platform/clock.ts';
import type { NodeActor } from '../platform/http/actor.ts';
import type { AssignmentsRepository, NodeRow } from './assignments-repository.ts';

/** A node's configurations as signed directives. A body is stored text that does not change within one generation, so whoever makes it
 *  again makes the same bytes. */

export interface Signer {
  fleet: string;
  key: KeyPair;
}

/** An older directive is issued afresh: whoever has been away for a week still gets one that it accepts. */
const REISSUE_AFTER_MS = 24 * 3_600_000;

export const directivesFor = (on: {
  assignments: AssignmentsRepository;
  signer: Signer;
  clock: Clock;
  newId: () => string;
}) => {
  const { assignments, clock } = on;
  const reissue = (rows: readonly NodeRow[]): Promise<NodeRow[]> =>
    assignments.write('backups.reissue', async (tx) => {
      const now = clock.now();
      const fresh = rows.map((row) => ({ ...row, directive_id: on.newId(), issued_at: now }));
      await assignments.reissue(tx, fresh);
      return fresh;
    });
  const signed = (keyId: string, row: NodeRow): Promise<Envelope> => {
    const body: ConfigBody =
      row.present === 1 ? (JSON.parse(row.body) as ConfigBody) : { state: 'absent', config_id: row.config_id };
    return signDirectiveInPool(
      {
        fleet: on.signer.fleet,
        id: row.directive_id,
        kind: 'backups.config',
        targets: { node_keys: [keyId] },
        issued_at: isoTime(row.issued_at),
        expires_at: isoTime(row.issued_at + MAX_LIFETIME_MS),
        max_attempts: 1,
        object_id: row.config_id,
        generation: row.generation,
        body,
      },
      on.signer.key,
    );
  };
  return async ({ uid, keyId }: NodeActor): Promise<Envelope[]> => {
    if (keyId === null) return []; // it could not tell one of ours from anybody's
    const rows = await assignments.ofNode(uid);
    const now = clock.now();
    // Of the future: the clock was wrong then, and no node takes what is not issued yet.
    const isOld = ({ issued_at }: NodeRow) => now - issued_at >= REISSUE_AFTER_MS || issued_at > now;
    const old = rows.filter(isOld);
    const fresh = old.length === 0 ? rows : [...rows.filter((row) => !isOld(row)), ...(await reissue(old))];
    return Promise.all(fresh.map((row) => signed(keyId, row)));
  };
};
export type DirectivesFor = ReturnType<typeof directivesFor>;
