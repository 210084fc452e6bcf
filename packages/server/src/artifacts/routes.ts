import * as api from '@aegis/protocol/artifacts/endpoints';
import { AegisError } from '@aegis/protocol/errors';
import type { Actor, OperatorActor } from '../platform/http/actor.ts';
import { type Route, route } from '../platform/http/route.ts';
import { binaryAnswer } from './binary-answer.ts';
import type { Publication } from './publish.ts';
import type { ArtifactsService } from './service.ts';

/** artifacts/routes: the registry door, for operators and nodes. A node is whoever its token says, never what a body says. */
export const artifactsRoutes = (artifacts: ArtifactsService): Route[] => {
  const { library, assign, status } = artifacts;
  return [
    route(api.createArtifact, async ({ actor, body, form, reply }) => {
      const publication = form ? ofForm(actor, form) : body ? ofJson(actor, body) : null;
      if (!publication) throw new AegisError('http.malformed', 'The request has no body. Send the bundle.');
      const { id, created } = await artifacts.publish(publication);
      const artifact = await library.show(id, null);
      if (created) return artifact;
      return reply.header('content-type', 'application/json; charset=utf-8').send(JSON.stringify(artifact)); // 200, not 201
    }),
    route(api.listArtifacts, ({ query, within }) => library.list(query, within)),
    route(api.showArtifact, ({ params, within }) => library.detail(params.id, within)),
    route(api.artifactBinary, async ({ actor, params, headers, reply }) => {
      const found =
        actor.kind === 'node' ? await library.binaryFor(actor.uid, params.id) : await library.binary(params.id);
      const answer = binaryAnswer(found, headers);
      return reply
        .code(answer.status)
        .headers(answer.headers)
        .send(answer.bytes ?? undefined);
    }),
    route(api.deleteArtifact, ({ params }) => library.delete(params.id)),
    route(api.artifactsForHost, ({ actor, params, within }) => artifacts.forHost(actor, params.host_id, within)),

    route(api.assignArtifact, ({ actor, params, body, within }) =>
      assign.assign(nameOf(actor), params.artifact_id, params.host_id, body.constants, within),
    ),
    route(api.unassignArtifact, ({ actor, params, within }) =>
      assign.unassign(nameOf(actor), params.artifact_id, params.host_id, within),
    ),
    route(api.putHosts, ({ actor, params, body, within }) =>
      assign.putHosts(nameOf(actor), params.artifact_id, body.hosts, body.constants, within),
    ),
    route(api.assignMany, ({ actor, body, within }) => assign.assignMany(nameOf(actor), body, within)),
    route(api.unassignMany, ({ actor, body, within }) => assign.unassignMany(nameOf(actor), body, within)),

    route(api.postStatus, ({ actor, params, body }) => status.report(actor.uid, params.id, body)),
    route(api.artifactStatus, ({ params, query, within }) => status.ofArtifact(params.id, query, within)),
    route(api.allStatus, ({ query, within }) => status.all(query, within)),
    route(api.putKernelReport, ({ actor, body }) => status.putKernel(actor.uid, body)),
    route(api.showKernelReport, ({ params, within }) => status.kernel(params.id, within)),
  ];
};

const nameOf = (actor: Exclude<Actor, { kind: 'node' }>): string => actor.name;

const ofJson = (actor: OperatorActor, { data, signature, ...fields }: api.NewArtifact): Publication => ({
  by: nameOf(actor),
  bundle: () => decodeBase64(data),
  fields,
  signature: signature ?? null,
});
const ofForm = (actor: OperatorActor, { bundle, signature, ...fields }: api.ArtifactForm): Publication => ({
  by: nameOf(actor),
  bundle: () => Buffer.from(bundle.buffer, bundle.byteOffset, bundle.byteLength),
  fields,
  signature: signature ?? null,
});

/** Node.js passes over what is no base64: what is left out shows in the length. */
const decodeBase64 = (text: string): Buffer => {
  const bytes = Buffer.from(text, 'base64');
  const padding = text.endsWith('==') ? 2 : text.endsWith('=') ? 1 : 0;
  if (text.length % 4 !== 0 || bytes.length !== (text.length / 4) * 3 - padding)
    throw new AegisError('http.malformed', "The body's field 'data' is not base64 with padding (RFC 4648, section 4).");
  return bytes;
};
