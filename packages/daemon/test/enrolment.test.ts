import { sign } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { formatJoinToken } from '@aegis/protocol/access/join-token';
import { generateKeyPair } from '@aegis/protocol/access/keys';
import { signTrustBundle } from '@aegis/protocol/access/trust-bundle';
import { enrolmentTranscript, type RegisterInitAnswer } from '@aegis/protocol/nodes/enrolment';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { loadDaemonConfig } from '../src/config.ts';
import { enrolNode } from '../src/enrol.ts';
import { type ContractServer, startContractServer } from './contract-server.ts';

let dataDir: string;
let server: ContractServer;
beforeEach(async () => {
  dataDir = join(mkdtempSync(join(tmpdir(), 'aegis-enrol-')), 'node');
  server = await startContractServer();
});
afterEach(async () => {
  await server.close();
  rmSync(join(dataDir, '..'), { recursive: true, force: true });
});

const enrol = (flags: Record<string, unknown> = {}) =>
  enrolNode({
    config: loadDaemonConfig({
      flags: { data_dir: dataDir, server: server.url, join_token: server.joinToken, name: 'web-1', ...flags },
      env: {},
    }).config,
  });
const modeOf = (name: string) => (statSync(join(dataDir, name)).mode & 0o777).toString(8);

test('enrols once; again answers the same without asking', async () => {
  const first = await enrol({ labels: 'env=prod,rack=7', site: 'fra' });
  expect(first).toEqual({ uid: expect.any(String), name: 'web-1', fleet: 'test', server: server.url });
  const asked = server.requests.length;
  expect(await enrol()).toEqual(first);
  expect(await enrol({ join_token: undefined, name: undefined, server: undefined })).toEqual(first);
  expect(server.requests.length).toBe(asked);
  expect(['.', 'node.key', 'sealing.key', 'identity.json', 'token.json'].map(modeOf)).toEqual([
    '700',
    '600',
    '600',
    '600',
    '600',
  ]);
  expect(existsSync(join(dataDir, 'enrolment.json'))).toBe(false);
  const everything = ['identity.json', 'token.json'].map((name) => readFileSync(join(dataDir, name), 'utf8')).join();
  expect(everything).not.toContain(server.joinSecret);
});

const signAnswer = (
  answer: RegisterInitAnswer,
  key: ReturnType<typeof generateKeyPair>,
  fleet = 'test',
): RegisterInitAnswer => ({
  ...answer,
  signature: sign(
    null,
    enrolmentTranscript('server', {
      fleet,
      rootFingerprint: server.root.keyId,
      serverKey: Buffer.from(answer.server_key, 'base64'),
      challenge: Buffer.from(answer.challenge, 'base64'),
      registrationId: answer.registration_id,
      init: { host_id: 'web-1', public_key: Buffer.alloc(32).toString('base64') },
    }),
    key.privateKey,
  ).toString('base64'),
});
const flip = (text: string) => (text.startsWith('A') ? `B${text.slice(1)}` : `A${text.slice(1)}`);

test.each<[string, (answer: RegisterInitAnswer) => RegisterInitAnswer]>([
  [
    'a bundle of another root',
    (answer) => {
      const root = generateKeyPair();
      const bundle = server.bundleWith({ root: { threshold: 1, keys: [root.publicRaw.toString('base64')] } });
      return { ...answer, trust_bundle: signTrustBundle(bundle, root) };
    },
  ],
  [
    'a bundle that names the root but is signed by another',
    (answer) => ({ ...answer, trust_bundle: signTrustBundle(server.bundleWith(), generateKeyPair()) }),
  ],
  [
    'an expired bundle',
    (answer) => ({
      ...answer,
      trust_bundle: signTrustBundle(server.bundleWith({ expires_at: '2020-01-01T00:00:00.000Z' }), server.root),
    }),
  ],
  [
    'a server key that the bundle does not list',
    (answer) => {
      const key = generateKeyPair();
      return signAnswer({ ...answer, server_key: key.publicRaw.toString('base64') }, key);
    },
  ],
  [
    'a server key without the usage',
    (answer) => {
      const [key] = server.bundleWith().keys;
      return {
        ...answer,
        trust_bundle: signTrustBundle(
          server.bundleWith({ keys: key ? [{ ...key, usage: ['operate'] }] : [] }),
          server.root,
        ),
      };
    },
  ],
  [
    'a revoked server key',
    (answer) => {
      const [key] = server.bundleWith().keys;
      return {
        ...answer,
        trust_bundle: signTrustBundle(
          server.bundleWith({ keys: key ? [{ ...key, state: 'revoked' }] : [] }),
          server.root,
        ),
      };
    },
  ],
  ['a wrong signature', (answer) => ({ ...answer, signature: flip(answer.signature) })],
  ['a signature over other facts', (answer) => signAnswer(answer, server.serverKey)],
  ['a swapped challenge', (answer) => ({ ...answer, challenge: flip(answer.challenge) })],
  ['a swapped registration', (answer) => ({ ...answer, registration_id: '01890000-0000-7000-8000-000000000000' })],
])('proves nothing to a server that shows %s', async (_, lie) => {
  server.lies.init = lie;
  await expect(enrol()).rejects.toMatchObject({ code: 'access.untrusted' });
  expect(server.requests).toEqual(['POST /agents/register/init']);
  expect(existsSync(join(dataDir, 'identity.json'))).toBe(false);
  delete server.lies.init;
  expect(await enrol()).toMatchObject({ name: 'web-1' });
});

test("a join token of another fleet is of no use with this server's root", async () => {
  const token = formatJoinToken({ id: 'join1', secret: server.joinSecret, rootFingerprint: 'f'.repeat(64) });
  await expect(enrol({ join_token: token })).rejects.toMatchObject({ code: 'access.untrusted' });
});

test('a lost answer to complete is repeated, not enrolled twice', async () => {
  server.lies.loseAnswers = { 'POST /agents/register/complete': 2 }; // also the immediate retry on a stale socket
  await expect(enrol()).rejects.toMatchObject({ code: 'cli.unreachable' });
  expect(existsSync(join(dataDir, 'enrolment.json'))).toBe(true);
  server.lies.loseAnswers = {};
  expect(await enrol()).toMatchObject({ name: 'web-1' });
  expect(server.completions()).toBe(1);
  expect(server.requests.filter((key) => key.endsWith('/init'))).toHaveLength(1);
});

test('without a join token only under insecure_dev', async () => {
  await expect(enrol({ join_token: undefined })).rejects.toMatchObject({ code: 'nodes.not_enrolled' });
  expect(server.requests).toEqual([]);
  expect(await enrol({ join_token: undefined, insecure_dev: true })).toMatchObject({ fleet: 'test' });
});

test('an enrolled directory refuses another server, fleet or name', async () => {
  await enrol();
  await using other = await startContractServer({ fleet: 'other' });
  await expect(enrol({ server: other.url, join_token: other.joinToken })).rejects.toMatchObject({
    code: 'nodes.already_enrolled',
  });
  await expect(enrol({ join_token: other.joinToken })).rejects.toMatchObject({ code: 'nodes.already_enrolled' });
  await expect(enrol({ name: 'web-2' })).rejects.toMatchObject({ code: 'nodes.already_enrolled' });
  // Only whether it is of this fleet's root by now, without a word about this node.
  expect(other.requests).toEqual(['GET /api/v1/trust']);
});

test('a server that moved is followed once it shows the pinned root; nobody else is', async () => {
  const first = await enrol();
  const bare = { join_token: undefined, name: undefined };
  await using moved = await startContractServer({ root: server.root });
  const there = { ...first, server: moved.url };
  expect(await enrol({ ...bare, server: moved.url })).toEqual(there);
  expect(await enrol({ ...bare, server: undefined })).toEqual(there);
  expect(moved.requests).toEqual(['GET /api/v1/trust']);
  expect(await enrol({ name: undefined })).toEqual(first); // back, with its join token
  expect(readFileSync(join(dataDir, 'identity.json'), 'utf8')).toContain(server.url);

  await using stranger = await startContractServer();
  await using otherFleet = await startContractServer({ fleet: 'other', root: server.root });
  await using liar = await startContractServer({
    lies: { trust: signTrustBundle(server.bundleWith(), stranger.root) },
  });
  for (const { url, requests } of [stranger, otherFleet, liar]) {
    await expect(enrol({ ...bare, server: url })).rejects.toMatchObject({ code: 'nodes.already_enrolled' });
    expect(requests).toEqual(['GET /api/v1/trust']);
  }
  await otherFleet.close();
  await expect(enrol({ ...bare, server: otherFleet.url })).rejects.toMatchObject({ code: 'cli.unreachable' });
  expect(await enrol({ ...bare, server: undefined })).toEqual(first);
});

test('a join token that is none is refused without repeating it', async () => {
  const error: Error = await enrol({ join_token: 'aegis1.secretsecret' }).then(
    () => new Error('accepted'),
    (refused) => refused,
  );
  expect(error).toMatchObject({ code: 'nodes.bad_join_token' });
  expect(error.message).not.toContain('secretsecret');
});

test('loose modes and links are refused', async () => {
  mkdirSync(dataDir, { mode: 0o755 });
  await expect(enrol()).rejects.toMatchObject({
    code: 'config.invalid',
    message: expect.stringContaining('chmod 0700'),
  });
  chmodSync(dataDir, 0o700);
  await enrol();
  chmodSync(join(dataDir, 'node.key'), 0o640);
  await expect(enrol()).rejects.toMatchObject({
    code: 'config.invalid',
    message: expect.stringContaining('chmod 0600'),
  });
  rmSync(join(dataDir, 'node.key'));
  writeFileSync(join(dataDir, '../elsewhere'), 'x', { mode: 0o600 });
  symlinkSync(join(dataDir, '../elsewhere'), join(dataDir, 'node.key'));
  await expect(enrol()).rejects.toMatchObject({
    code: 'config.invalid',
    message: expect.stringContaining('symbolic link'),
  });
});
