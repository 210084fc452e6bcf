import * as api from '@aegis/protocol/backups/endpoints';
import { type Route, route } from '../platform/http/route.ts';
import type { BackupsService } from './service.ts';

/** backups/routes: the operators' door. No rules and no SQL here. */
export const backupsRoutes = (backups: BackupsService): Route[] => {
  const { configs, listing, upkeep, own } = backups;
  return [
    route(api.createConfig, ({ actor, body }) => configs.create(actor.name, body)),
    route(api.putConfig, ({ actor, params, body }) => configs.put(actor.name, params.id, body)),
    route(api.listConfigs, ({ query }) => configs.list(query)),
    route(api.showConfig, ({ params }) => configs.show(params.id)),
    route(api.deleteConfig, ({ actor, params }) => configs.delete(actor.name, params.id)),
    route(api.assignConfig, ({ actor, params, body }) => configs.assign(actor.name, params.id, body)),
    route(api.runConfig, async ({ params }) =>
      listing.shown(await own.start(await configs.find(params.id), 'request', null)),
    ),
    route(api.probeConfig, ({ params }) => configs.probe(params.id)),
    route(api.configNodes, ({ params, query }) => listing.nodesOf(params.id, query)),
    route(api.forgetRuns, ({ actor, params, body }) => upkeep.retention.forget(actor.name, params.id, body)),
    route(api.listRuns, ({ query }) => listing.list(query)),
    route(api.showRun, ({ params }) => listing.show(params.id)),
    route(api.cancelRun, ({ actor, params }) => listing.cancel(actor.name, params.id)),
    route(api.runLog, ({ params, query }) => listing.log(params.id, query)),
    route(api.nodeLog, ({ params, query }) => listing.nodeLog(params.id, query)),
  ];
};
