import { randomUUID, sign, verify } from 'node:crypto';
import { parseJoinToken } from '@aegis/protocol/access/join-token';
import { generateKeyPair, type KeyPair, publicKeyFromRaw } from '@aegis/protocol/access/keys';
import { openTrustBundle } from '@aegis/protocol/access/trust-bundle';
import { pollCommands } from '@aegis/protocol/commands/endpoints';
import type { BodyOf } from '@aegis/protocol/endpoint';
import {
  apiRetireNode,
  apiShowNode,
  listAgents,
  registerComplete,
  registerInit,
  registerKeyless,
  renewToken,
} from '@aegis/protocol/nodes/endpoints';
import {
  type EnrolmentFacts,
  enrolmentTranscript,
  joinTokenMac,
  type RegisterComplete,
  RegisterInit,
  type RegisterInitAnswer,
  tokenRequestTranscript,
} from '@aegis/protocol/nodes/enrolment';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import * as z from 'zod/mini';
import { handClock, nonce, startTestServer, type TestServer } from './start-test-server.ts';

/** Enrolment as honest and hostile nodes try it, on both databases. */

const raw64 = (keys: KeyPair) => keys.publicRaw.toString('base64');
const refusal = (status: number, code: string) => ({ status, code });

describe.each(['sqlite', 'postgres'] as const)('%s', (storage) => {
  const clock = handClock();
  let server: TestServer;
  beforeAll(async () => {
    server = await startTestServer({ storage, clock });
  });
  afterAll(() => server.close());

  /** The pieces of an enrolment, to be tampered with one by one. */
  const begin = async (
    over: { keys?: KeyPair; joinToken?: string; init?: Partial<RegisterInit>; signedInit?: Partial<RegisterInit> } = {},
  ) => {
    const keys = over.keys ?? generateKeyPair();
    const token = parseJoinToken(over.joinToken ?? (await server.joinToken()));
    const init = z.parse(RegisterInit, {
      token_id: token.id,
      host_id: `node-${randomUUID().slice(0, 8)}`,
      public_key: raw64(keys),
      ...over.init,
    });
    const answer = await server.as('anyone').call(registerInit, { body: init });
    const facts = factsOf({ ...init, ...over.signedInit }, answer);
    return { keys, token, init, answer, facts, proof: proofOf(facts, keys, token.secret) };
  };
  const factsOf = (init: RegisterInit, answer: RegisterInitAnswer): EnrolmentFacts => ({
    fleet: server.running.fleet,
    rootFingerprint: server.running.rootFingerprint,
    serverKey: Buffer.from(answer.server_key, 'base64'),
    challenge: Buffer.from(answer.challenge, 'base64'),
    registrationId: answer.registration_id,
    init,
  });
  const proofOf = (
    facts: EnrolmentFacts,
    keys: KeyPair,
    secret: string,
    by: 'node' | 'server' = 'node',
  ): RegisterComplete => {
    const transcript = enrolmentTranscript(by, facts);
    return {
      registration_id: facts.registrationId,
      signature: sign(null, transcript, keys.privateKey).toString('base64'),
      token_mac: joinTokenMac(secret, transcript).toString('base64'),
    };
  };
  const complete = (body: RegisterComplete) => server.as('anyone').call(registerComplete, { body });
  const total = async () => (await server.as('viewer').call(listAgents)).total;

  test("the server proves itself: its bundle is the pinned root's, its signature is over the whole transcript", async () => {
    const { init, answer, facts } = await begin({
      init: { site: 'fra', labels: { b: '2', a: '1' }, sealing_key: raw64(generateKeyPair('x25519')) },
    });
    const { bundle } = openTrustBundle(answer.trust_bundle, server.running.rootFingerprint, clock.now());
    expect(bundle.keys.map((key) => key.public_key)).toEqual([answer.server_key]);
    const good = (of: EnrolmentFacts) =>
      verify(
        null,
        enrolmentTranscript('server', of),
        publicKeyFromRaw(facts.serverKey),
        Buffer.from(answer.signature, 'base64'),
      );
    expect(good(facts)).toBe(true);
    for (const change of [
      { host_id: 'other' },
      { site: 'ber' },
      { labels: { a: '1' } },
      { public_key: raw64(generateKeyPair()) },
    ])
      expect(good({ ...facts, init: { ...init, ...change } })).toBe(false);
  });

  test('a node enrols, its token works, and the same proof again gets the same answer, also after a restart', async () => {
    const { init, proof } = await begin({
      init: { attrs: { os: 'debian', kernel: '6.1', version: '0.1.0' }, capabilities: ['b', 'a'] },
    });
    const first = await complete(proof);
    expect(await complete(proof)).toEqual(first);
    await server.restart();
    clock.advance(3_600_000); // the registration and its join token have expired since
    expect(await complete(proof)).toEqual(first);
    expect((await server.withToken(first.token).send(pollCommands)).status).toBe(200);
    expect(await server.as('viewer').call(apiShowNode, { params: { id: init.host_id } })).toMatchObject({
      uid: first.agent_uid,
      state: 'active',
      status: 'online',
      keyless: false,
      os: 'debian',
      kernel: '6.1',
      version: '0.1.0',
      capabilities: ['a', 'b'],
    });
  });

  test("site and labels of the join token go over the node's own", async () => {
    const joinToken = await server.joinToken({ site: 'ber', labels: { env: 'prod' } });
    const { init, proof } = await begin({ joinToken, init: { site: 'fra', labels: { env: 'dev', rack: '7' } } });
    await complete(proof);
    expect(await server.as('viewer').call(apiShowNode, { params: { id: init.host_id } })).toMatchObject({
      site: 'ber',
      labels: { env: 'prod', rack: '7' },
    });
  });

  const badToken = refusal(401, 'nodes.bad_join_token');
  const badProof = refusal(403, 'nodes.bad_proof');
  test('wrong proofs are refused, and the good one still works afterwards', async () => {
    const before = await total();
    const { keys, token, facts, proof } = await begin();
    const other = await begin();
    const stranger = generateKeyPair();
    const wrongMac = Buffer.from(joinTokenMac(other.token.secret, enrolmentTranscript('node', facts))).toString(
      'base64',
    );
    const hostile: [RegisterComplete, object][] = [
      [{ ...proof, token_mac: wrongMac }, badToken],
      [{ registration_id: proof.registration_id, signature: proof.signature }, badToken],
      [proofOf(facts, stranger, token.secret), badProof],
      [{ ...proof, signature: other.proof.signature }, badProof],
      [{ ...other.proof, registration_id: proof.registration_id }, badProof], // swapped registration
      [{ ...proof, registration_id: other.proof.registration_id }, badProof],
      [proofOf(facts, keys, token.secret, 'server'), badProof], // the server's own label
      [proofOf({ ...facts, challenge: Buffer.alloc(32) }, keys, token.secret), badProof],
      [proofOf({ ...facts, fleet: 'other' }, keys, token.secret), badProof],
      [proofOf({ ...facts, rootFingerprint: '0'.repeat(64) }, keys, token.secret), badProof],
      [proofOf({ ...facts, serverKey: stranger.publicRaw }, keys, token.secret), badProof],
      ...[{ host_id: 'x' }, { site: 'x' }, { labels: { x: '1' } }, { sealing_key: raw64(stranger) }].map(
        (change): [RegisterComplete, object] => [
          proofOf({ ...facts, init: { ...facts.init, ...change } }, keys, token.secret),
          badProof,
        ],
      ),
      [{ ...proof, registration_id: randomUUID() }, refusal(404, 'nodes.unknown_registration')],
    ];
    for (const [body, expected] of hostile) await expect(complete(body)).rejects.toMatchObject(expected);
    expect(await total()).toBe(before);
    await complete(proof);
    expect(await total()).toBe(before + 1);
  });

  test('unknown, expired, used-up and revoked join tokens and a wrong secret answer all the same', async () => {
    const usedUp = await server.joinToken();
    await complete((await begin({ joinToken: usedUp })).proof);
    const expired = await server.joinToken({ ttlSec: 1 });
    const revoked = await server.joinToken();
    const { revokeJoinToken } = await import('@aegis/protocol/access/endpoints');
    await server.as('admin').call(revokeJoinToken, { params: { id: parseJoinToken(revoked).id } });
    const unknown = revoked.replace(parseJoinToken(revoked).id, 'abcdef0123456789');
    const started = await Promise.all([usedUp, expired, revoked, unknown].map((joinToken) => begin({ joinToken })));
    clock.advance(120_000);
    const answers = await Promise.all(
      started.map(({ proof }) => server.as('anyone').send(registerComplete, { body: proof })),
    );
    const shown = answers.map(({ status, json }) => ({ status, error: (json as { error: unknown }).error }));
    expect(new Set(shown.map((one) => JSON.stringify(one))).size).toBe(1);
    expect(shown[0]).toMatchObject({ status: 401, error: { code: 'nodes.bad_join_token' } });
  });

  test('without a token id nothing begins', async () => {
    const body = { host_id: 'tokenless', public_key: raw64(generateKeyPair()) };
    await expect(server.as('anyone').call(registerInit, { body })).rejects.toMatchObject(badToken);
    await expect(server.as('admin').call(registerInit, { body })).rejects.toMatchObject(badToken);
  });

  test('the last use of a token is given to one of many who race for it', async () => {
    const joinToken = await server.joinToken({ uses: 2 });
    const started = await Promise.all(Array.from({ length: 8 }, () => begin({ joinToken })));
    const outcomes = await Promise.allSettled(started.map(({ proof }) => complete(proof)));
    expect(outcomes.filter(({ status }) => status === 'fulfilled').length).toBe(2);
    for (const outcome of outcomes) if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject(badToken);
  });

  test('one proof sent many times at once is one node and one use', async () => {
    const { proof } = await begin();
    const before = await total();
    const answers = await Promise.all(Array.from({ length: 6 }, () => complete(proof)));
    expect(new Set(answers.map((answer) => answer.token)).size).toBe(1);
    expect(await total()).toBe(before + 1);
  });

  test('a registration expires', async () => {
    const { proof } = await begin();
    clock.advance(5 * 60_000 + 1);
    await expect(complete(proof)).rejects.toMatchObject(refusal(409, 'nodes.registration_expired'));
  });

  test('the same key gets its uid back; another key may not have the name until the node is retired', async () => {
    const keys = generateKeyPair();
    const name = `again-${randomUUID().slice(0, 8)}`;
    const first = await complete((await begin({ keys, init: { host_id: name, labels: { a: '1' } } })).proof);
    const again = await complete((await begin({ keys, init: { host_id: name, attrs: { os: 'new' } } })).proof);
    expect(again.agent_uid).toBe(first.agent_uid);
    expect(await server.as('viewer').call(apiShowNode, { params: { id: name } })).toMatchObject({
      os: 'new',
      labels: { a: '1' },
    });

    const thief = await begin({ init: { host_id: name } });
    await expect(complete(thief.proof)).rejects.toMatchObject(refusal(409, 'nodes.name_taken'));
    const renamed = await begin({ keys, init: { host_id: `${name}-2` } });
    await expect(complete(renamed.proof)).rejects.toMatchObject(refusal(409, 'nodes.already_enrolled'));

    await server.as('admin').call(apiRetireNode, { params: { id: name } });
    await expect(server.withToken(again.token).call(pollCommands)).rejects.toMatchObject(refusal(403, 'nodes.retired'));
    const back = await begin({ keys, init: { host_id: name } });
    await expect(complete(back.proof)).rejects.toMatchObject(refusal(403, 'nodes.retired'));
    const successor = await complete(thief.proof); // the refusal used up neither registration nor join token
    expect(successor.agent_uid).not.toBe(first.agent_uid);
  });

  test('a fresh token needs the key, the time and a new nonce', async () => {
    const node = await server.enrol(`renew-${randomUUID().slice(0, 8)}`);
    const request = (over: { at?: number; uid?: string; keys?: KeyPair; fleet?: string; nonce?: string } = {}) => {
      const facts = {
        agent_uid: over.uid ?? node.uid,
        timestamp: new Date(over.at ?? clock.now()).toISOString(),
        nonce: over.nonce ?? nonce(),
      };
      const transcript = tokenRequestTranscript(over.fleet ?? server.running.fleet, facts);
      return { ...facts, signature: sign(null, transcript, (over.keys ?? node.keys).privateKey).toString('base64') };
    };
    const renew = (body: BodyOf<typeof renewToken>) => server.as('anyone').call(renewToken, { body });
    const good = request({ at: clock.now() - 4 * 60_000 });
    const { token, agent_uid } = await renew(good);
    expect(agent_uid).toBe(node.uid);
    expect((await server.withToken(token).send(pollCommands)).status).toBe(200);
    const attrs = { os: 'Debian 13', kernel: '6.18.1', version: '9.9.9' };
    await renew({ ...request(), attrs, capabilities: ['docker', 'apt', 'apt'] });
    expect(await server.as('viewer').call(apiShowNode, { params: { id: node.uid } })).toMatchObject({
      os: 'Debian 13',
      kernel: '6.18.1',
      version: '9.9.9',
      attrs,
      capabilities: ['apt', 'docker'],
    });
    await expect(renew(good)).rejects.toMatchObject(badProof); // replay
    await expect(renew(request({ keys: generateKeyPair() }))).rejects.toMatchObject(badProof);
    await expect(renew(request({ uid: randomUUID() }))).rejects.toMatchObject(badProof);
    await expect(renew(request({ fleet: 'other' }))).rejects.toMatchObject(badProof);
    await expect(renew({ ...request(), timestamp: new Date(clock.now() + 1000).toISOString() })).rejects.toMatchObject(
      badProof,
    );
    for (const at of [clock.now() - 5 * 60_000 - 1000, clock.now() + 5 * 60_000 + 1000])
      await expect(renew(request({ at }))).rejects.toMatchObject(refusal(403, 'nodes.clock_skew'));
    await server.as('admin').call(apiRetireNode, { params: { id: node.uid } });
    await expect(renew(request())).rejects.toMatchObject(refusal(403, 'nodes.retired'));
  });

  test('a node token ends with its time', async () => {
    const node = await server.enrol(`ends-${randomUUID().slice(0, 8)}`);
    clock.advance(86_400_000 + 1000);
    await expect(node.call(pollCommands)).rejects.toMatchObject(refusal(401, 'access.unauthenticated'));
  });

  test('keyless: a join token or an admin registers, a taken name is 409, other callers are refused', async () => {
    const name = `keyless-${randomUUID().slice(0, 8)}`;
    const body = { node_id: name, attrs: { os: 'ubuntu' } };
    const joinToken = await server.joinToken();
    const { token } = await server.withToken(joinToken).call(registerKeyless, { body });
    expect((await server.withToken(token).send(pollCommands)).status).toBe(200);
    expect(await server.as('viewer').call(apiShowNode, { params: { id: name } })).toMatchObject({
      keyless: true,
      key_id: null,
      os: 'ubuntu',
    });
    await expect(server.as('admin').call(registerKeyless, { body })).rejects.toMatchObject(
      refusal(409, 'nodes.name_taken'),
    );
    const fresh = { node_id: `${name}-2` };
    await expect(server.withToken(joinToken).call(registerKeyless, { body: fresh })).rejects.toMatchObject(badToken);
    const forged = joinToken.replace(parseJoinToken(joinToken).secret, 'A'.repeat(43));
    await expect(server.withToken(forged).call(registerKeyless, { body: fresh })).rejects.toMatchObject(badToken);
    await expect(server.withToken(token).call(registerKeyless, { body: fresh })).rejects.toMatchObject(
      refusal(403, 'access.forbidden'),
    );
    await expect(server.as('operator').call(registerKeyless, { body: fresh })).rejects.toMatchObject(
      refusal(403, 'access.forbidden'),
    );
    await expect(server.as('anyone').call(registerKeyless, { body: fresh })).rejects.toMatchObject(
      refusal(401, 'access.unauthenticated'),
    );
    await server.as('admin').call(registerKeyless, { body: fresh });
  });
});

test('under --dev no join token is needed, and a keyless registration repeated is answered the same', async () => {
  await using server = await startTestServer({ config: { dev: true } });
  const body = { node_id: 'node-1', attrs: { os: 'ubuntu' } };
  const first = await server.as('anyone').call(registerKeyless, { body });
  expect(await server.as('anyone').call(registerKeyless, { body })).toEqual(first);
  const init = { host_id: 'web-1', public_key: raw64(generateKeyPair()) };
  expect((await server.as('anyone').send(registerInit, { body: init })).status).toBe(200);
  const fromPage = await server
    .as('anyone')
    .send(registerInit, { body: init, headers: { origin: 'http://localhost' } });
  expect(fromPage.status).toBe(401);
});

test('keyless nodes can be switched off', async () => {
  await using server = await startTestServer({ config: { 'nodes.keyless': false } });
  const refused = server.as('admin').call(registerKeyless, { body: { node_id: 'node-1' } });
  await expect(refused).rejects.toMatchObject(refusal(403, 'nodes.keyless_disabled'));
});

test('enrolment is limited per address with 429 and Retry-After', async () => {
  await using server = await startTestServer({
    config: { rate_limits_enrolment_burst: 3, rate_limits_enrolment_per_sec: 1 },
    clock: handClock(),
  });
  const body = { registration_id: randomUUID(), signature: `${'A'.repeat(86)}==` };
  const statuses = [];
  for (let at = 0; at < 4; at++) statuses.push(await server.as('anyone').send(registerComplete, { body }));
  expect(statuses.map(({ status }) => status)).toEqual([404, 404, 404, 429]);
  expect(statuses[3]?.headers.get('retry-after')).toBe('1');
});

test('enrolments that are begun and not completed are few for each address, and each is small', async () => {
  const clock = handClock();
  await using server = await startTestServer({ config: { rate_limits_enrolment_pending: 2 }, clock });
  const init = (attrs: RegisterInit['attrs'] = {}) =>
    server.as('anyone').send(registerInit, {
      body: { token_id: randomUUID(), host_id: 'web-1', public_key: raw64(generateKeyPair()), attrs },
    });
  const facts = Object.fromEntries(Array.from({ length: 64 }, (_, at) => [`a${at}`, 'ü'.repeat(1000)]));
  const large = await init(facts);
  expect([large.status, (large.json as { error: { code: string } }).error.code]).toEqual([413, 'http.too_large']);
  const answers = [await init(), await init(), await init()];
  expect(answers.map(({ status }) => status)).toEqual([200, 200, 429]);
  expect(answers[2]?.headers.get('retry-after')).toBe('60');
  await server.restart();
  expect((await init()).status).toBe(429);
  clock.advance(5 * 60_000);
  expect((await init()).status).toBe(200);
});
