import { randomBytes } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import * as z from 'zod/mini';
import { generateKeyPair, type KeyPair } from '../access/keys.ts';
import { acceptRequest, chooseVersion, isRequestSigned, makeEphemeral, openAnswer, signRequest } from './handshake.ts';
import { AcceptedAuthentication, AuthenticationRequest } from './messages.ts';

const FLEET = '01a1fd03-ab32-7149-9a1f-9165a79627d9';
const random32 = (): string => randomBytes(32).toString('base64');

const handshake = (node: KeyPair, server: KeyPair) => {
  const parties = { fleet: FLEET, isServerKey: (raw: Buffer) => raw.equals(server.publicRaw) };
  const [mine, theirs] = [makeEphemeral(), makeEphemeral()];
  const request = signRequest(FLEET, node, {
    agent_id: 'web-1',
    public_key: node.publicRaw.toString('base64'),
    timestamp: 1_760_000_000,
    nonce: random32(),
    versions: [2, 1],
    ephemeral_key: mine.publicRaw.toString('base64'),
  });
  const { answer, keys } = acceptRequest({ fleet: FLEET, identity: server, ephemeral: theirs }, request, {
    session_token: 'session-1',
    expires_at: 1_760_086_400,
    version: 1,
    nonce: random32(),
    timestamp: 1_760_000_001,
    sign_messages: false,
    rotation_messages: 1000,
    rotation_sec: 3600,
    heartbeat_sec: 15,
  });
  return { parties, mine, request, answer, keys };
};
const [node, server] = [generateKeyPair(), generateKeyPair()];

test('both sides come to the same keys, another for each direction and each connection', () => {
  const { parties, mine, request, answer, keys } = handshake(node, server);
  expect(z.parse(AuthenticationRequest, JSON.parse(JSON.stringify(request)))).toEqual(request);
  expect(z.parse(AcceptedAuthentication, JSON.parse(JSON.stringify(answer)))).toEqual(answer);
  expect(isRequestSigned(FLEET, request)).toBe(true);
  expect(openAnswer({ ...parties, ephemeral: mine }, request, answer)).toEqual(keys);
  expect(keys.nodeToServer.equals(keys.serverToNode)).toBe(false);
  const again = handshake(node, server).keys;
  expect(
    new Set([keys, again].flatMap((one) => Object.values(one).map((key: Buffer) => key.toString('hex')))).size,
  ).toBe(6);
});

/** Another value of the same kind. */
const altered = (value: unknown): unknown => {
  if (typeof value === 'number') return value + 1;
  if (typeof value === 'boolean') return !value;
  if (Array.isArray(value)) return value.slice(1); // versions: the newest left out
  const text = String(value);
  return /^[A-Za-z0-9+/]+=*$/.test(text) && text.length > 40
    ? Buffer.from(Buffer.from(text, 'base64').map((byte, at) => (at === 5 ? byte ^ 1 : byte))).toString('base64')
    : `${text}x`;
};

describe('what the node said, altered on its way', () => {
  const { request } = handshake(node, server);
  test.each(Object.keys(request))('%s', (field) => {
    const changed = { ...request, [field]: altered(request[field as keyof typeof request]) };
    expect(isRequestSigned(FLEET, changed)).toBe(false);
  });
  test('in another fleet', () => {
    expect(isRequestSigned('another', request)).toBe(false);
  });
});

describe('what the server said, altered on its way', () => {
  const { parties, mine, request, answer } = handshake(node, server);
  test.each(Object.keys(answer).filter((field) => field !== 'success'))('%s', (field) => {
    const changed = { ...answer, [field]: altered(answer[field as keyof typeof answer]) };
    expect(() => openAnswer({ ...parties, ephemeral: mine }, request, changed as AcceptedAuthentication)).toThrow(
      expect.objectContaining({ code: 'channel.bad_handshake' }),
    );
  });
  test('the versions that the node offered: it cannot be talked down', () => {
    const lowered = signRequest(FLEET, node, { ...request, versions: [1] });
    const to = acceptRequest({ fleet: FLEET, identity: server, ephemeral: makeEphemeral() }, lowered, answer);
    expect(() => openAnswer({ ...parties, ephemeral: mine }, request, to.answer)).toThrow(/altered it/);
  });
  test('a server with another key, though it signs well', () => {
    const forged = handshake(node, generateKeyPair()).answer;
    expect(() => openAnswer({ ...parties, ephemeral: mine }, request, forged)).toThrow(/Another server answers/);
  });
  test('a version that nobody offered, signed by the server itself', () => {
    const { answer: odd } = acceptRequest({ fleet: FLEET, identity: server, ephemeral: makeEphemeral() }, request, {
      ...answer,
      version: 3,
    });
    expect(() => openAnswer({ ...parties, ephemeral: mine }, request, odd)).toThrow(
      expect.objectContaining({ code: 'channel.unsupported_version' }),
    );
  });
});

test('keys of small order are refused by both sides', () => {
  const { parties, mine, request, answer } = handshake(node, server);
  const small = [
    Buffer.alloc(32),
    Buffer.from([1, ...Buffer.alloc(31)]),
    Buffer.from('e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800', 'hex'),
    Buffer.from('ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f', 'hex'),
  ];
  for (const point of small) {
    const ephemeral = { ...makeEphemeral(), publicRaw: point };
    const forNode = acceptRequest({ fleet: FLEET, identity: server, ephemeral }, request, answer).answer;
    expect(() => openAnswer({ ...parties, ephemeral: mine }, request, forNode)).toThrow(/let anyone read/);
    const fromNode = signRequest(FLEET, node, { ...request, ephemeral_key: point.toString('base64') });
    expect(() =>
      acceptRequest({ fleet: FLEET, identity: server, ephemeral: makeEphemeral() }, fromNode, answer),
    ).toThrow(/let anyone read/);
  }
});

test('the newest common version is chosen', () => {
  expect(chooseVersion([9, 1, 4])).toBe(1);
  expect(chooseVersion([9])).toBeNull();
});
