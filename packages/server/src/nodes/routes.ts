import type { ResponseOf } from '@aegis/protocol/endpoint';
import * as api from '@aegis/protocol/nodes/endpoints';
import type { NodeActor } from '../platform/http/actor.ts';
import { type Route, route } from '../platform/http/route.ts';
import type { EnrolmentService } from './enrolment-service.ts';
import type { KeylessService } from './keyless-service.ts';
import type { OperatorWishes } from './operator-wishes.ts';
import type { NodesService } from './service.ts';

/** What a node is to obey, from all domains. */
export type DesiredOf = (node: NodeActor) => Promise<ResponseOf<typeof api.nodeDesired>>;

/** nodes/routes: the HTTP door of the nodes domain. No rules and no SQL here. */
export const nodesRoutes = (
  nodes: NodesService,
  enrolment: EnrolmentService,
  keyless: KeylessService,
  desiredOf: DesiredOf,
  wishes: OperatorWishes,
): Route[] => {
  const limited = { limitedAs: 'enrolment' } as const;
  return [
    route(
      api.registerInit,
      ({ body, actor, remoteAddress }) => enrolment.init(body, { tokenless: actor?.kind === 'dev', remoteAddress }),
      limited,
    ),
    route(api.registerComplete, ({ body }) => enrolment.complete(body), limited),
    route(api.renewToken, ({ body }) => enrolment.renew(body), limited),
    route(api.registerKeyless, ({ body, actor, bearer }) => keyless.register(body, { actor, bearer }), limited),
    route(api.listAgents, ({ query, within }) => nodes.list(query, within)),
    route(api.showAgent, ({ params, within }) => nodes.show(params.id, within)),
    route(api.apiListNodes, ({ query, within }) => nodes.list(query, within)),
    route(api.apiShowNode, ({ params, within }) => nodes.show(params.id, within)),
    route(api.apiPatchNode, ({ params, body, within }) => nodes.patch(params.id, body, within)),
    route(api.deactivateNode, ({ params, within }) => nodes.setActive(params.id, false, within)),
    route(api.activateNode, ({ params, within }) => nodes.setActive(params.id, true, within)),
    route(api.apiRetireNode, ({ params, within }) => nodes.retire(params.id, within)),
    route(api.showWishes, ({ params, within }) => wishes.show(params.id, within)),
    route(api.signWishes, ({ params, body, within }) => wishes.sign(params.id, body.directives, within)),
    route(api.nodeDesired, ({ actor }) => desiredOf(actor)),
  ];
};
