import * as operators from '@aegis/protocol/backups/endpoints';
import * as nodes from '@aegis/protocol/backups/node-endpoints';
import { type Route, route } from '../platform/http/route.ts';
import type { BackupsService } from './service.ts';

/** backups/routes-objects: both doors to the objects of runs in S3: signatures and uploads for nodes, links and checks for operators. */
export const backupsObjectRoutes = (backups: BackupsService): Route[] => {
  const { signing, uploads, reading, verification } = backups.s3;
  const { find, shown } = backups.listing;
  return [
    route(nodes.signRequests, ({ actor, body }) => signing.sign(actor, body)),
    route(nodes.openUpload, ({ actor, params, body }) => uploads.open(actor, params.id, body)),
    route(nodes.closeUpload, ({ actor, params, body }) => uploads.close(actor, params.id, body)),
    route(nodes.restoreSource, ({ actor, params }) => reading.source(actor, params.id, shown)),
    route(operators.runLinks, async ({ actor, params, within }) => {
      const run = await find(params.id, within);
      return reading.links(actor.name, run, await shown(run));
    }),
    route(operators.grantRestore, async ({ actor, params, body, within }) =>
      reading.grant(actor.name, await find(params.id, within), body, within),
    ),
    route(operators.verifyRun, async ({ params, within }) => {
      const run = await find(params.id, within);
      await verification.verify(run);
      return shown(await find(run.id, within));
    }),
  ];
};
