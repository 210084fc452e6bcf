import * as api from '@aegis/protocol/backups/agent-endpoints';
import type { BodyOf, ResponseOf } from '@aegis/protocol/endpoint';
import { type Route, route } from '../../platform/http/route.ts';
import type { BackupsService } from '../service.ts';

/** backups/agents: seed 004's door. Who an agent is, and how it is, the nodes domain knows. */

export interface AgentsDoor {
  register: (
    by: string,
    body: BodyOf<typeof api.registerAgent>,
  ) => Promise<ResponseOf<typeof api.registerAgent>['agent']>;
  heartbeat: (uid: string, body: BodyOf<typeof api.agentHeartbeat>) => Promise<{ status: string }>;
}

export const agentRoutes = ({ agents }: Pick<BackupsService, 'agents'>, door: AgentsDoor): Route[] => {
  const limited = { limitedAs: 'agent' } as const;
  return [
    route(
      api.registerAgent,
      async ({ actor, body }) => ({ success: true as const, agent: await door.register(actor.name, body) }),
      { limitedAs: 'enrolment' },
    ),
    route(
      api.agentHeartbeat,
      async ({ actor, body }) => ({ success: true as const, ...(await door.heartbeat(actor.uid, body)) }),
      limited,
    ),
    route(api.agentConfigs, ({ actor }) => agents.configs(actor), limited),
    route(api.agentStart, ({ actor, body }) => agents.start(actor, body.configId), limited),
    route(api.agentComplete, ({ actor, body }) => agents.complete(actor, body), limited),
    route(api.agentLog, ({ actor, body }) => agents.log(actor, body), limited),
  ];
};

/** The seed's envelope, beside ours. */
export const agentErrors = (path: string): Readonly<Record<string, unknown>> =>
  path.startsWith('/api/agent/') ? { success: false } : {};
