import { randomBytes, sign } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { completeManifest, packBundle } from '@aegis/archive/bundle/pack';
import type { Directive } from '@aegis/protocol/access/directive';
import { type Envelope, openEnvelope, PAYLOAD_TYPES } from '@aegis/protocol/access/dsse';
import { addKey, showTrust } from '@aegis/protocol/access/endpoints';
import { generateKeyPair, type KeyPair, keyIdOf, publicKeyFromRaw } from '@aegis/protocol/access/keys';
import { formatMinisignPublicKey, signMinisign } from '@aegis/protocol/access/minisign';
import {
  type Artifact,
  artifactsForHost,
  assignArtifact,
  createArtifact,
  unassignArtifact,
} from '@aegis/protocol/artifacts/endpoints';
import { ManifestSource } from '@aegis/protocol/artifacts/manifest';
import { trustedCommentOf } from '@aegis/protocol/artifacts/signature';
import { renewToken as renewTokenEndpoint } from '@aegis/protocol/nodes/endpoints';
import { tokenRequestTranscript } from '@aegis/protocol/nodes/enrolment';
import * as z from 'zod/mini';
import { type EnrolledNode, nonce, type TestServer } from './start-test-server.ts';
import { Refused, type TestClient } from './test-client.ts';

/** What the tests of the artifacts domain say often. */

export interface Signatory {
  keys: KeyPair;
  minisignId: string;
  /** As `minisign -G` writes it. */
  publicKey: string;
}
export const signatory = (): Signatory => {
  const keys = generateKeyPair();
  const minisignId = randomBytes(8).toString('hex').toUpperCase();
  return { keys, minisignId, publicKey: formatMinisignPublicKey({ minisignId, raw: keys.publicRaw }) };
};
/** A key that the fleet trusts for artifacts. */
export const trustedSignatory = async (admin: TestClient, name = 'release'): Promise<Signatory> => {
  const made = signatory();
  await admin.call(addKey, { body: { name, public_key: made.publicKey, usage: ['artifacts'] } });
  return made;
};

export interface Bundled {
  name: string;
  version: string;
  bytes: Buffer;
}
export const bundle = async (
  name: string,
  version: string,
  more: Partial<ManifestSource> = {},
  object: Buffer = Buffer.from(`the object of ${name} ${version}`),
): Promise<Bundled> => {
  const files = new Map([[`${name}.bpf.o`, object]]);
  const source = z.parse(ManifestSource, {
    name,
    version,
    description: `what ${name} is for`,
    objects: [{ file: `${name}.bpf.o` }],
    programs: [{ name: 'drop', attach: { kind: 'cgroup_skb', cgroup: '/', direction: 'egress' } }],
    constants: [
      { name: 'target_ip', type: 'ipv4', value: '192.0.2.1', settable: true },
      { name: 'fixed', type: 'u32', value: 7 },
    ],
    maps: [{ name: 'counters', keep: true }],
    tags: ['test'],
    metadata: { target_ip: '192.0.2.1' },
    ...more,
  });
  return { name, version, bytes: await packBundle({ manifest: completeManifest(source, files), files }) };
};

export const signatureOf = ({ name, version, bytes }: Bundled, by: Signatory): string =>
  signMinisign(
    bytes,
    { minisignId: by.minisignId, privateKey: by.keys.privateKey },
    { trustedComment: trustedCommentOf(name, version, Date.now()) },
  );

export const publish = (client: TestClient, one: Bundled, signature?: string): Promise<Artifact> =>
  client.call(createArtifact, {
    body: {
      name: one.name,
      version: one.version,
      data: one.bytes.toString('base64'),
      ...(signature === undefined ? {} : { signature }),
    },
  });

/** A server with one trusted signing key, and what publishes with it. */
export const registry = async (server: TestServer) => {
  const signer = await trustedSignatory(server.as('admin'));
  const operator = server.as('operator');
  return {
    signer,
    operator,
    publish: async (name: string, version: string, more: Partial<ManifestSource> = {}): Promise<Artifact> => {
      const made = await bundle(name, version, more);
      return publish(operator, made, signatureOf(made, signer));
    },
  };
};

export const forHost = (node: EnrolledNode) => node.call(artifactsForHost, { params: { host_id: node.uid } });

/** What a node reads of its directives, checked as it checks them. */
export const directivesOf = async (server: TestServer, node: EnrolledNode): Promise<Directive[]> => {
  const { trust_bundle } = await server.as('anyone').call(showTrust);
  const { keys } = JSON.parse(Buffer.from(trust_bundle.payload, 'base64').toString()) as {
    keys: { public_key: string; usage: string[] }[];
  };
  const raw = Buffer.from(keys.find(({ usage }) => usage.includes('serve'))?.public_key ?? '', 'base64');
  return (await forHost(node)).directives.map((envelope: Envelope) => {
    const opened = openEnvelope(envelope, PAYLOAD_TYPES.directive, new Map([[keyIdOf(raw), publicKeyFromRaw(raw)]]));
    if (opened.signedBy.length !== 1) throw new Error('the directive is not signed by the server');
    return JSON.parse(opened.payload.toString()) as Directive;
  });
};

/** A node's token ends after a day. */
export const renewToken = (server: TestServer, node: EnrolledNode, nowMs: number) => {
  const request = { agent_uid: node.uid, timestamp: new Date(nowMs).toISOString(), nonce: nonce() };
  const transcript = tokenRequestTranscript(server.running.fleet, request);
  return server.as('anyone').call(renewTokenEndpoint, {
    body: { ...request, signature: sign(null, transcript, node.keys.privateKey).toString('base64') },
  });
};

/** Status, code and sentence with which something is refused. */
export const sentence = async (work: Promise<unknown>): Promise<string> => {
  try {
    await work;
  } catch (error) {
    if (error instanceof Refused) return error.message;
    throw error;
  }
  return 'it was not refused';
};

/** What contradicts itself: counts and bytes per node against the rows. */
export const drift = async ({ running }: TestServer): Promise<unknown[]> => {
  const { read } = running.storage;
  const desired = await read.selectFrom('artifacts_desired').selectAll().execute();
  const rows = await read
    .selectFrom('artifacts_assignments as a')
    .innerJoin('artifacts', 'artifacts.id', 'a.artifact_id')
    .select(['a.node_uid', 'a.present', 'a.constants', 'artifacts.manifest_bytes'])
    .execute();
  return desired.filter(({ node_uid, present, bytes }) => {
    const own = rows.filter((row) => row.node_uid === node_uid && row.present === 1);
    return (
      present !== own.length || bytes !== own.reduce((sum, row) => sum + row.manifest_bytes + row.constants.length, 0)
    );
  });
};

/** The digests of the bundles that it stores. */
export const blobsOf = ({ dataDir }: TestServer): string[] =>
  readdirSync(join(dataDir, 'blobs'), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map(({ name }) => name)
    .sort();

export const assign = (
  server: TestServer,
  artifact_id: string,
  host_id: string,
  constants?: Record<string, string | number>,
) =>
  server
    .as('operator')
    .call(assignArtifact, { params: { artifact_id, host_id }, body: constants === undefined ? {} : { constants } });
export const unassign = (server: TestServer, artifact_id: string, host_id: string) =>
  server.as('operator').call(unassignArtifact, { params: { artifact_id, host_id } });
