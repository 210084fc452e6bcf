import * as api from '@aegis/protocol/backups/endpoints';
import { type Route, route } from '../platform/http/route.ts';
import type { BackupsService } from './service.ts';

/** backups/routes: the operators' door. No rules and no SQL here. */
export const backupsRoutes = (backups: BackupsService): Route[] => {
  const { configs, listing, upkeep, own } = backups;
  return [
    route(api.createConfig, ({ actor, body }) => configs.create(actor.name, body)),
    route(api.putConfig, ({ actor, params, body }) => configs.put(actor.name, params.id, body)),
    route(api.listConfigs, ({ query, within }) => configs.list(query, within)),
    route(api.showConfig, ({ params, within }) => configs.show(params.id, within)),
    route(api.deleteConfig, ({ actor, params }) => configs.delete(actor.name, params.id)),
    route(api.assignConfig, ({ actor, params, body }) => configs.assign(actor.name, params.id, body)),
    route(api.runConfig, async ({ params }) =>
      listing.shown(await own.start(await configs.find(params.id), 'request', null)),
    ),
    route(api.probeConfig, ({ params }) => configs.probe(params.id)),
    route(api.configNodes, ({ params, query, within }) => listing.nodesOf(params.id, query, within)),
    route(api.forgetRuns, ({ actor, params, body }) => upkeep.retention.forget(actor.name, params.id, body)),
    route(api.listRuns, ({ query, within }) => listing.list(query, within)),
    route(api.showRun, ({ params, within }) => listing.show(params.id, within)),
    route(api.cancelRun, ({ actor, params, within }) => listing.cancel(actor.name, params.id, within)),
    route(api.runLog, ({ params, query, within }) => listing.log(params.id, query, within)),
    route(api.nodeLog, ({ params, query, within }) => listing.nodeLog(params.id, query, within)),
  ];
};
