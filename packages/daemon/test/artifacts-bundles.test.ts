import { createHash, randomUUID } from 'node:crypto';
import type { ServerResponse } from 'node:http';
import { packBundle } from '@aegis/archive/bundle/pack';
import { signMinisign } from '@aegis/protocol/access/minisign';
import type { PresentBody } from '@aegis/protocol/artifacts/assignment';
import type { StatusReport } from '@aegis/protocol/artifacts/status';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type ArtifactServer, newSigner, type Published } from './artifact-server.ts';
import type { FakeKernel } from './fake-kernel.ts';
import { type HostileStage, hostileStage } from './hostile-stage.ts';
import { waitFor } from './wait-for.ts';

/** Bundles, and assignments of bundles, that a hostile or broken registry or network might give. Each names its reason; none reaches the
 *  engine, and none leaves anything on disk once it is unassigned. */

let stage: HostileStage;
let server: ArtifactServer;
let kernel: FakeKernel;
beforeAll(async () => {
  stage = await hostileStage();
  ({ server, kernel } = stage);
});
afterAll(() => stage[Symbol.asyncDispose]());

const serving = (
  { id }: Published,
  blob: Buffer | ((response: ServerResponse) => unknown) | null,
): Partial<PresentBody> => {
  if (blob) server.blobs.set(id, blob);
  else server.blobs.delete(id);
  return {};
};
const flipped = (bytes: Buffer, at = bytes.length >> 1): Buffer => {
  const copy = Buffer.from(bytes);
  copy[at] = (copy[at] ?? 0) ^ 1;
  return copy;
};
const digest = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');

/** Bundles: what is wrong, how the good assignment and its blob are changed, what is reported. */
const bundles: [
  string,
  (published: Published, body: PresentBody) => Partial<PresentBody> | Promise<Partial<PresentBody>>,
  string,
][] = [
  [
    'a digest that is not the bundle’s',
    (published) => serving(published, flipped(published.bytes)),
    'artifacts.digest_mismatch',
  ],
  [
    'a bundle longer than declared',
    (published) => serving(published, Buffer.concat([published.bytes, Buffer.alloc(1)])),
    'artifacts.digest_mismatch',
  ],
  [
    'a bundle shorter than declared',
    (published) => serving(published, published.bytes.subarray(0, -1)),
    'artifacts.digest_mismatch',
  ],
  [
    'a body that never ends',
    (published) => {
      server.blobs.set(published.id, (response) => {
        response.writeHead(200, { 'content-type': 'application/zstd' });
        const more = (): void => {
          while (!response.destroyed && response.write(Buffer.alloc(65_536))) {}
        };
        response.on('drain', more);
        more();
      });
      return {};
    },
    'artifacts.digest_mismatch',
  ],
  [
    'an answer that breaks off',
    (published) => {
      server.blobs.set(published.id, (response) => {
        response.writeHead(200, { 'content-length': String(published.bytes.length) });
        response.write(published.bytes.subarray(0, 100), () => response.destroy());
      });
      return {};
    },
    'http.unavailable',
  ],
  ['a blob that the server lost', (published) => serving(published, null), 'artifacts.unknown_artifact'],
  [
    'a server that answers 500',
    (published) => serving(published, (response) => response.writeHead(500).end('oops')),
    'http.unavailable',
  ],
  [
    'a proxy that answers a page',
    (published) =>
      serving(published, (response) => response.writeHead(200, { 'content-type': 'text/html' }).end('<html>')),
    'artifacts.digest_mismatch',
  ],
  [
    'a redirect',
    (published) => serving(published, (response) => response.writeHead(302, { location: '/elsewhere' }).end()),
    'http.unavailable',
  ],
  [
    'a compressed answer',
    (published) =>
      serving(published, (response) =>
        response.writeHead(200, { 'content-encoding': 'gzip' }).end(published.bytes.subarray(1)),
      ),
    'artifacts.digest_mismatch',
  ],
  ['a declared size beyond any bundle', () => ({ size: 2 ** 40 }), 'artifacts.bundle_limit'],
  ['unsigned', () => ({ signature: null }), 'artifacts.unsigned'],
  ['a signature that is none', () => ({ signature: 'trust me' }), 'artifacts.bad_signature'],
  [
    'a signature of another bundle',
    async (_, { name }) => ({ signature: (await server.publish({ name }, 'another object')).signature }),
    'artifacts.bad_signature',
  ],
  [
    'a signature for another name',
    ({ bytes }, { version }) => ({ signature: server.sign(bytes, 'other', version) }),
    'artifacts.bad_signature',
  ],
  [
    'a signature for another version',
    ({ bytes }, { name }) => ({ signature: server.sign(bytes, name, '9.9.9') }),
    'artifacts.bad_signature',
  ],
  [
    'a good signature without the trusted comment of an artifact',
    ({ bytes }) => ({
      signature: signMinisign(
        bytes,
        { minisignId: server.signer.minisignId, privateKey: server.signer.key.privateKey },
        { trustedComment: 'timestamp:1 file:x' },
      ),
    }),
    'artifacts.bad_signature',
  ],
  [
    'an unknown signer',
    ({ bytes }, { name, version }) => ({ signature: server.sign(bytes, name, version, newSigner()) }),
    'artifacts.unknown_signer',
  ],
  [
    "an unknown signer under a known signer's id",
    ({ bytes }, { name, version }) => ({
      signature: server.sign(bytes, name, version, { ...newSigner(), minisignId: server.signer.minisignId }),
    }),
    'artifacts.bad_signature',
  ],
  [
    'a revoked signer',
    ({ bytes }, { name, version }) => ({ signature: server.sign(bytes, name, version, server.revokedSigner) }),
    'artifacts.revoked_signer',
  ],
  [
    "the server's own key as signer",
    ({ bytes }, { name, version }) => ({
      signature: server.sign(bytes, name, version, { key: server.serverKey, minisignId: '0123456789ABCDEF' }),
    }),
    'artifacts.unknown_signer',
  ],
  [
    "a vault signature of another bundle's",
    () => ({ signature: `vault:v1:${Buffer.alloc(64, 1).toString('base64')}` }),
    'artifacts.bad_signature',
  ],
  [
    'a signed bundle that is none',
    (published, { name, version }) => {
      const bytes = Buffer.from('this is no bundle at all, though somebody signed it');
      server.blobs.set(published.id, bytes);
      return { sha256: digest(bytes), size: bytes.length, signature: server.sign(bytes, name, version) };
    },
    'artifacts.bad_bundle',
  ],
  [
    'the manifest at odds in its name',
    async (published, body) => impersonated(published, body, { name: 'someone-else' }),
    'artifacts.field_mismatch',
  ],
  [
    'the manifest at odds in its version',
    async (published, body) => impersonated(published, body, { version: '7.0.0' }),
    'artifacts.field_mismatch',
  ],
  [
    'the manifest at odds in a program',
    (_, body) => ({ programs: body.programs.map((one) => ({ ...one, name: 'another' })) }),
    'artifacts.field_mismatch',
  ],
  [
    'the manifest at odds in an attach point',
    () => ({
      programs: [
        {
          name: 'block',
          attach: { kind: 'tc', interface: 'eth1', direction: 'egress', mechanism: 'auto', priority: 50 },
        },
      ],
    }),
    'artifacts.field_mismatch',
  ],
  [
    'a program more',
    (_, { programs }) => ({ programs: [...programs, { name: 'more', attach: { kind: 'sk_lookup' } }] }),
    'artifacts.field_mismatch',
  ],
  ['a program fewer', () => ({ programs: [] }), 'artifacts.field_mismatch'],
  ['the manifest at odds in a map', () => ({ maps: [{ name: 'blocked', keep: false }] }), 'artifacts.field_mismatch'],
  [
    'a map shared that was not',
    () => ({ maps: [{ name: 'blocked', keep: true, share: 'all' }] }),
    'artifacts.field_mismatch',
  ],
  [
    'initial contents of a map',
    () => ({ maps: [{ name: 'blocked', keep: true, initial: [{ key: 1, value: 1 }] }] }),
    'artifacts.field_mismatch',
  ],
  [
    'a constant that may not be set',
    () => ({ constants: { target_ip: '198.51.100.1', magic: 8 } }),
    'artifacts.not_settable',
  ],
  [
    'an unknown constant',
    (_, { constants }) => ({ constants: { ...constants, more: 1 } }),
    'artifacts.unknown_constant',
  ],
  ['a constant left out', () => ({ constants: { magic: 7 } }), 'artifacts.field_mismatch'],
  [
    'a constant of the wrong type',
    () => ({ constants: { target_ip: 'localhost', magic: 7 } }),
    'artifacts.bad_constant',
  ],
  [
    'a constant named as an object’s own field',
    (_, { constants }) => ({ constants: { ...constants, constructor: 1 } }),
    'artifacts.unknown_constant',
  ],
];
/** A bundle whose manifest says something else than what was signed for and assigned. */
const impersonated = async (published: Published, body: PresentBody, change: object): Promise<Partial<PresentBody>> => {
  const manifest = { ...published.manifest, ...change };
  const bytes = await packBundle({ manifest, files: new Map([['probe.bpf.o', Buffer.from('an object')]]) });
  server.blobs.set(published.id, bytes);
  return { sha256: digest(bytes), size: bytes.length, signature: server.sign(bytes, body.name, body.version) };
};

test.each(bundles)('bundle: %s', async (what, change, code) => {
  const calls = kernel.calls.length;
  const name = `b-${bundles.findIndex(([other]) => other === what)}`;
  const published = await server.publish({ name });
  const good = server.bodyOf(published);
  const body = { ...good, ...(await change(published, good)) };
  await stage.give([server.signed(server.directiveOf(body, 1))]);
  const report: StatusReport = await waitFor('the report', () => server.last(name));
  expect(report).toMatchObject({ version: '1.0.0', generation: 1, state: 'failed', attachments: [], reason: { code } });
  expect(report.reason?.message).toMatch(/\.$/);
  stage.unharmed(calls);
  // Only a bundle of the digest that was assigned stays, while it is assigned.
  expect(
    stage.onDisk().filter((file) => !stage.steadyFile().includes(file) && file !== `${body.sha256}.tar.zst`),
  ).toEqual([]);
  await stage.give([server.signed(server.directiveOf({ state: 'absent', name }, 2))]);
  await waitFor('it to be off', () => server.last(name)?.state === 'detached');
  await waitFor('the disk to be as before', () => stage.onDisk().join() === stage.steadyFile().join());
  expect(kernel.calls.slice(calls)).toEqual([`remove ${name}`]);
});

test.each<[string, Record<string, unknown>, string]>([
  [
    'another architecture',
    { architecture: process.arch === 'arm64' ? 'x86_64' : 'aarch64' },
    'artifacts.wrong_architecture',
  ],
  ['a kernel that is too old', { kernel_version: '99.0' }, 'artifacts.kernel_range'],
  ['a kernel that is too new', { kernel_before: '5.16' }, 'artifacts.kernel_range'],
])('bundle: for %s', async (_, source, code) => {
  const calls = kernel.calls.length;
  const name = `k-${randomUUID().slice(0, 8)}`;
  const published = await server.publish({ name, ...source });
  await stage.give([server.signed(server.directiveOf(server.bodyOf(published), 1))]);
  expect(await waitFor('the report', () => server.last(name))).toMatchObject({ state: 'failed', reason: { code } });
  stage.unharmed(calls);
  await stage.give([server.signed(server.directiveOf({ state: 'absent', name }, 2))]);
  await waitFor('it to be off', () => server.last(name)?.state === 'detached');
});
