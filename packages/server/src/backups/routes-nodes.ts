import * as api from '@aegis/protocol/backups/node-endpoints';
import { type Route, route } from '../platform/http/route.ts';
import type { BackupsService } from './service.ts';

/** backups/routes-nodes: the nodes' own door. A node is whoever its token says, never what a body says. */
export const backupsNodeRoutes = (backups: BackupsService): Route[] => [
  route(api.startRun, ({ actor, body }) => backups.runs.start(actor, body)),
  route(api.postProgress, ({ actor, params, body }) => backups.runs.progress(actor, params.id, body)),
  route(api.postRunLog, ({ actor, params, body }) => backups.runs.addLog(actor, params.id, body.lines)),
  route(api.endRun, ({ actor, params, body }) => backups.endRun(actor, params.id, body)),
  route(api.putConfigReports, ({ actor, body }) => backups.report(actor, body)),
];
