import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import type { registerAgent } from '@aegis/protocol/backups/agent-endpoints';
import type { ResponseOf } from '@aegis/protocol/endpoint';
import { AegisError } from '@aegis/protocol/errors';
import type { Attrs } from '@aegis/protocol/nodes/node';
import type { Clock } from '../platform/clock.ts';
import type { NodeActor } from '../platform/http/actor.ts';
import { attrColumns, keylessRow } from './enrolled-row.ts';
import { nameTaken } from './enrolment-service.ts';
import type { NodesRepository } from './repository.ts';
import { actorOfRow } from './service.ts';

/** Seed 004's keyless agents: registered by an operator, known by an API key alone. The key is 256 random bits, shown once, and stored as its
 *  SHA-256 (a slow hash guards passwords; a random key needs none). Each use asks the database, so that a key is refused at once when its
 *  agent is deactivated or deleted, by whichever server. */

const PREFIX = 'aegis-agent-';
const KEY = /^aegis-agent-[A-Za-z0-9_-]{43}$/;

export interface SaidStatus {
  version?: string | undefined;
  platform?: string | undefined;
  status?: 'online' | 'offline' | 'error' | undefined;
}

export const agentsService = (on: {
  nodes: NodesRepository;
  clock: Clock;
  newId: () => string;
  allowed: boolean;
  seen: (uid: string) => void;
  /** Told of each node that is new or changed. */
  changed: (uid: string) => void;
}) => ({
  /** @throws AegisError nodes.keyless_disabled, nodes.name_taken */
  register: async (
    by: string,
    { name, platform }: { name: string; platform?: string | undefined },
  ): Promise<ResponseOf<typeof registerAgent>['agent']> => {
    if (!on.allowed)
      throw new AegisError(
        'nodes.keyless_disabled',
        "This server takes no keyless nodes (nodes.keyless). Enrol with a key: 'aegis register'.",
      );
    const apiKey = `${PREFIX}${randomBytes(32).toString('base64url')}`;
    const uid = on.newId();
    const now = on.clock.now();
    const attrs = { display_name: name, ...(platform === undefined ? {} : { platform, os: platform }) };
    const row = { ...keylessRow(uid, nodeNameOf(name, uid), attrs, null, now), last_seen: null };
    await on.nodes.write('nodes.register-agent', async (tx) => {
      if (!(await on.nodes.insert(tx, row))) throw nameTaken(row.name);
      await on.nodes.addApiKey(tx, { key_sha256: hashOf(apiKey), node_uid: uid, created_at: now, created_by: by });
    });
    on.changed(uid);
    return { id: uid, name, apiKey, status: 'offline', node: row.name };
  },
  /** For authentication. @throws AegisError access.unauthenticated, nodes.retired, nodes.deactivated */
  agentOf: async (apiKey: string): Promise<NodeActor> => {
    const hash = KEY.test(apiKey) ? hashOf(apiKey) : '';
    const known = hash === '' ? undefined : await on.nodes.byApiKey(hash);
    if (!known || !timingSafeEqual(Buffer.from(known.key_sha256), Buffer.from(hash)))
      throw new AegisError(
        'access.unauthenticated',
        'This API key is not known here. Register the agent anew (POST /api/agent/register) and keep the key that it shows.',
      );
    const actor = actorOfRow(known);
    on.seen(actor.uid);
    return actor;
  },
  heartbeat: async (uid: string, { version, platform, status }: SaidStatus): Promise<{ status: string }> => {
    const isNew = await on.nodes.write('nodes.heartbeat', async (tx) => {
      const row = await on.nodes.byUidIn(tx, uid);
      if (!row) return false;
      const said = {
        ...(JSON.parse(row.attrs) as Attrs),
        ...(version === undefined ? {} : { version }),
        ...(platform === undefined ? {} : { platform, os: platform }),
      };
      const columns = attrColumns(said);
      const differs = row.keyless === 1 && columns.attrs !== row.attrs; // a node with a key tells these when it renews its token
      await on.nodes.update(tx, uid, {
        ...(differs ? columns : {}),
        said_status: status === undefined || status === 'online' ? null : status,
        last_seen: on.clock.now(),
      });
      return differs;
    });
    if (isNew) on.changed(uid);
    return { status: status ?? 'online' };
  },
});
export type AgentsService = ReturnType<typeof agentsService>;

const hashOf = (apiKey: string): string => createHash('sha256').update(apiKey).digest('hex');

/** A name of a node out of what a person calls an agent: "David's MacBook" → Davids-MacBook. */
const nodeNameOf = (name: string, uid: string): string =>
  name
    .normalize('NFKD')
    .replace(/['’\p{M}]/gu, '')
    .replace(/[^A-Za-z0-9._:-]+/g, '-')
    .replace(/^[^A-Za-z0-9]+|-+$/g, '')
    .slice(0, 128) || `agent-${uid.slice(-12)}`;
