import { createHash, randomBytes, randomUUID } from 'node:crypto';
import type { ServerResponse } from 'node:http';
import { completeManifest, packBundle } from '@aegis/archive/bundle/pack';
import { type Directive, signDirective } from '@aegis/protocol/access/directive';
import type { Envelope } from '@aegis/protocol/access/dsse';
import { generateKeyPair, type KeyPair } from '@aegis/protocol/access/keys';
import { signMinisign } from '@aegis/protocol/access/minisign';
import { signTrustBundle, type TrustBundle } from '@aegis/protocol/access/trust-bundle';
import { digestOf } from '@aegis/protocol/access/trust-chain';
import { type AssignmentBody, constantKey, type PresentBody } from '@aegis/protocol/artifacts/assignment';
import { type Manifest, ManifestSource } from '@aegis/protocol/artifacts/manifest';
import { trustedCommentOf } from '@aegis/protocol/artifacts/signature';
import type { StatusReport } from '@aegis/protocol/artifacts/status';
import * as z from 'zod/mini';
import { startContractServer } from './contract-server.ts';
import { Refused } from './refused.ts';

/** The contract server with a registry of artifacts: it publishes, signs, assigns and takes reports, and does all of it wrongly on
 *  request. */

export interface Signer {
  key: KeyPair;
  minisignId: string;
}
export const newSigner = (): Signer => ({
  key: generateKeyPair(),
  minisignId: randomBytes(8).toString('hex').toUpperCase(),
});
export const keyEntry = (
  { key, minisignId }: Signer,
  name: string,
  state: 'active' | 'revoked' = 'active',
): TrustBundle['keys'][number] => ({
  keyid: key.keyId,
  public_key: key.publicRaw.toString('base64'),
  name,
  usage: ['artifacts'],
  minisign_id: minisignId,
  state,
});

export interface Published {
  id: string;
  manifest: Manifest;
  bytes: Buffer;
  signature: string;
}

export const startArtifactServer = async () => {
  const signer = newSigner();
  const revoked = newSigner();
  const blobs = new Map<string, Buffer | ((response: ServerResponse) => unknown)>();
  let directives: Envelope[] = [];
  let revision = 0;
  const reports: StatusReport[] = [];
  const tried: StatusReport[] = [];
  const downloads: string[] = [];
  let kernelReport: unknown = null;
  let refuseReports: Refused | null = null;
  let refusedBeginning = '';

  const keys = [keyEntry(signer, 'alice'), keyEntry(revoked, 'mallory', 'revoked')];
  const server = await startContractServer({
    keys,
    more: [
      {
        pattern: /^GET \/v1\/desired$/,
        handle: () => ({ json: { directives, revision, trust_version: trust.version } }),
      },
      {
        pattern: /^GET \/artifacts\/([^/]+)\/binary$/,
        handle: ({ params: [id = ''], response }) => {
          downloads.push(id);
          const blob = blobs.get(id);
          if (!blob) throw new Refused(404, 'artifacts.unknown_artifact', {}, 'There is no such artifact.');
          if (typeof blob === 'function') blob(response);
          else response.writeHead(200, { 'content-type': 'application/zstd' }).end(blob);
          return 'taken';
        },
      },
      {
        pattern: /^POST \/artifacts\/([^/]+)\/status$/,
        handle: ({ body }) => {
          const report = JSON.parse(body.toString()) as StatusReport;
          if (refuseReports && report.name.startsWith(refusedBeginning)) throw refuseReports;
          tried.push(report);
          const newest = reports.findLast(({ name }) => name === report.name);
          const stored = !newest || newest.generation <= report.generation;
          if (stored) reports.push(report);
          return { json: { stored } };
        },
      },
      {
        pattern: /^PUT \/v1\/kernel-report$/,
        handle: ({ body }) => {
          kernelReport = JSON.parse(body.toString());
          return { json: { stored: true } };
        },
      },
    ],
  });
  let trust: TrustBundle = server.bundleWith();
  const chain: Envelope[] = [];
  server.lies.trustChain = chain;

  const sign = (bytes: Buffer, name: string, version: string, by: Signer = signer): string =>
    signMinisign(
      bytes,
      { minisignId: by.minisignId, privateKey: by.key.privateKey },
      { trustedComment: trustedCommentOf(name, version, Date.now()) },
    );

  const publish = async (
    source: Record<string, unknown> = {},
    object: string | Buffer = 'an object',
    by = signer,
  ): Promise<Published> => {
    const files = new Map([['probe.bpf.o', typeof object === 'string' ? Buffer.from(object) : object]]);
    const manifest = completeManifest(
      z.parse(ManifestSource, {
        name: 'block-icmp',
        version: '1.0.0',
        objects: [{ file: 'probe.bpf.o' }],
        programs: [{ name: 'block', attach: { kind: 'tc', interface: 'eth0', direction: 'egress' } }],
        constants: [
          { name: 'target_ip', type: 'ipv4', value: '198.51.100.1', settable: true },
          { name: 'magic', type: 'u32', value: 7 },
        ],
        maps: [{ name: 'blocked', keep: true }],
        ...source,
      }),
      files,
    );
    const bytes = await packBundle({ manifest, files });
    const id = randomUUID();
    blobs.set(id, bytes);
    return { id, manifest, bytes, signature: sign(bytes, manifest.name, manifest.version, by) };
  };

  const bodyOf = ({ id, manifest, bytes, signature }: Published, change: Partial<PresentBody> = {}): PresentBody => ({
    state: 'present',
    artifact_id: id,
    name: manifest.name,
    version: manifest.version,
    sha256: createHash('sha256').update(bytes).digest('hex'),
    size: bytes.length,
    signature,
    constants: Object.fromEntries(manifest.constants.map((constant) => [constantKey(constant), constant.value])),
    programs: manifest.programs,
    maps: manifest.maps,
    ...change,
  });
  const generations = new Map<string, number>();
  const directiveOf = (body: AssignmentBody, generation: number, change: Partial<Directive> = {}): Directive => ({
    fleet: server.fleet,
    id: randomUUID(),
    kind: 'artifacts.assign',
    targets: { node_keys: [server.nodeKeyId()] },
    issued_at: new Date().toISOString(),
    expires_at: new Date(Date.now() + 7 * 24 * 3_600_000 - 1000).toISOString(),
    max_attempts: 1,
    object_id: body.name,
    generation,
    body,
    ...change,
  });
  const current = new Map<string, Envelope>();
  /** What the node is given from now on. */
  const give = (envelopes: readonly unknown[]): void => {
    directives = envelopes as Envelope[];
    server.setDesired(++revision);
  };

  return Object.assign(server, {
    signer,
    revokedSigner: revoked,
    blobs,
    reports,
    /** Also those that it does not store, of generations that are over. */
    tried,
    downloads,
    sign,
    publish,
    bodyOf,
    directiveOf,
    give,
    kernelReport: () => kernelReport,
    revision: () => revision,
    setRevision: (to: number): void => {
      revision = to;
      server.setDesired(to);
    },
    /** Of artifacts whose names begin so. */
    refuseReports: (refusal: Refused | null, beginning = ''): void => {
      refuseReports = refusal;
      refusedBeginning = beginning;
    },
    signed: (directive: Directive, key = server.serverKey): Envelope => signDirective(directive, key),
    generation: (name: string): number => generations.get(name) ?? 0,
    /** As the real server: the next generation of this artifact, beside what else is assigned. */
    assign: (published: Published, change: Partial<PresentBody> = {}): PresentBody => {
      const body = bodyOf(published, change);
      const generation = (generations.get(body.name) ?? 0) + 1;
      generations.set(body.name, generation);
      current.set(body.name, signDirective(directiveOf(body, generation), server.serverKey));
      give([...current.values()]);
      return body;
    },
    unassign: (name: string): void => {
      const generation = (generations.get(name) ?? 0) + 1;
      generations.set(name, generation);
      current.set(name, signDirective(directiveOf({ state: 'absent', name }, generation), server.serverKey));
      give([...current.values()]);
    },
    /** A new version of the trust bundle. */
    trustKeys: (entries: TrustBundle['keys']): void => {
      const others = trust.keys.filter(({ keyid }) => !entries.some((entry) => entry.keyid === keyid));
      const previous = digestOf(chain.at(-1) ?? server.trustBundle);
      trust = server.bundleWith({ version: trust.version + 1, previous, keys: [...others, ...entries] });
      server.lies.trust = signTrustBundle(trust, server.root);
      chain.push(server.lies.trust);
      give(directives);
    },
    last: (name = 'block-icmp'): StatusReport | undefined => reports.findLast((report) => report.name === name),
  });
};

export type ArtifactServer = Awaited<ReturnType<typeof startArtifactServer>>;
