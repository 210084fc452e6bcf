import { createHash, createHmac, generateKeyPairSync, sign } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { listAudit } from '@aegis/protocol/access/audit-endpoints';
import { createToken, listTokens, revokeToken } from '@aegis/protocol/access/endpoints';
import { type JwtKey, signJwt } from '@aegis/protocol/access/jwt';
import { publicKeyFromRaw } from '@aegis/protocol/access/keys';
import { ackCommands } from '@aegis/protocol/commands/endpoints';
import { listAgents } from '@aegis/protocol/nodes/endpoints';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { tokenKeyPair } from '../src/access/tokens-jwt.ts';
import { loadServerConfig } from '../src/config.ts';
import { issueToken } from '../src/offline.ts';
import { type HandClock, handClock, startTestServer, type TestServer } from './start-test-server.ts';

/** Operator tokens: what is in them, and everything that is refused, by a server with its own key alone and by one with a shared secret. The
 *  attacker here has the signing key, and (where the row is `named`) even the database: each check has to hold by itself. */

const SECRET = 'a secret shared with the gateway, 48 bytes of it';
const DAY_SEC = 86_400;
const json = (part = ''): Record<string, unknown> => JSON.parse(Buffer.from(part, 'base64url').toString('utf8'));
const part = (value: unknown): string =>
  Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url');

describe.each([
  ['a key of its own', null],
  ['a shared secret', SECRET],
] as const)('with %s', (_, secret) => {
  let server: TestServer;
  let clock: HandClock;
  let nodeToken: string;
  let made: { id: string; token: string };
  let key: JwtKey;
  beforeAll(async () => {
    clock = handClock();
    server = await startTestServer({ clock, config: secret === null ? {} : { jwt_signing_secret: secret } });
    nodeToken = (await server.enrol('web-1')).token;
    made = await server
      .as('admin')
      .call(createToken, { body: { name: 'Alice', role: 'admin', ttl_sec: 30 * DAY_SEC } });
    const kid = String(json(made.token.split('.')[0]).kid);
    const { privateKey, publicRaw } = tokenKeyPair(server.dataDir);
    key = secret
      ? { alg: 'HS256', kid, secret: Buffer.from(secret) }
      : { alg: 'EdDSA', kid, privateKey, publicKey: publicKeyFromRaw(publicRaw) };
  });
  afterAll(() => server.close());

  /** As if this text were the one that its row names. */
  const named = async (text: string, use: () => Promise<void>): Promise<void> => {
    const set = (hash: Buffer) =>
      server.running.storage.write('test', async (tx) => {
        await tx.updateTable('access_tokens').set({ secret_sha256: hash }).where('id', '=', made.id).execute();
      });
    await set(createHash('sha256').update(text).digest());
    try {
      await use();
    } finally {
      await set(createHash('sha256').update(made.token).digest());
    }
  };
  const claims = (more: Readonly<Record<string, unknown>> = {}) => ({ ...json(made.token.split('.')[1]), ...more });
  const nowSec = () => Math.floor(clock.now() / 1000);
  const newest = async () => {
    await server.running.audit.append(marker());
    const { items } = await server.as('admin').call(listAudit, { query: { limit: 2 } });
    const { action, outcome, code, count, actor_kind, address, targets } = items[1] ?? {};
    return { action, outcome, code, count, actor_kind, address, targets };
  };
  const expectRefused = async (text: string): Promise<void> => {
    clock.advance(61_000); // within a minute further refusals of an address are only counted
    const answer = await server.withToken(text).send(listTokens);
    expect([answer.status, answer.headers.get('www-authenticate'), answer.json]).toEqual([
      401,
      'Bearer',
      {
        error: { code: 'access.unauthenticated', message: expect.any(String), details: {} },
        request_id: answer.headers.get('x-request-id'),
      },
    ]);
    expect(await newest()).toEqual({
      action: 'listTokens',
      outcome: 'refused',
      code: 'access.unauthenticated',
      count: 1,
      actor_kind: 'nobody',
      address: '127.0.0.1',
      targets: ['/api/v1/tokens'],
    });
  };

  test('what a token says', async () => {
    const [header, payload] = made.token.split('.').slice(0, 2).map(json);
    expect([header, payload]).toEqual([
      { alg: secret ? 'HS256' : 'EdDSA', typ: 'JWT', kid: expect.stringMatching(/^[0-9a-f]{16}$/) },
      {
        iss: server.running.fleet,
        aud: 'aegis-operator',
        sub: 'Alice',
        jti: made.id,
        role: 'admin',
        iat: nowSec(),
        exp: Math.ceil(clock.now() / 1000 + 30 * DAY_SEC),
        rnd: expect.stringMatching(/^[A-Za-z0-9_-]{22}$/),
      },
    ]);
    expect((await server.withToken(made.token).send(listTokens)).status).toBe(200);
    const scoped = await server
      .as('admin')
      .call(createToken, { body: { name: 'Bob', role: 'viewer', scope: 'site=fra' } });
    expect(json(scoped.token.split('.')[1])).toMatchObject({ sub: 'Bob', role: 'viewer', scope: 'site=fra' });
    expect(Date.parse(scoped.expires_at ?? '') - clock.now()).toBe(365 * DAY_SEC * 1000);
  });

  test('the same claims, signed anew and named by the row, are good: the refusals below are not for another reason', async () => {
    const text = signJwt(key, claims());
    await named(text, async () => {
      expect((await server.withToken(text).send(listTokens)).status).toBe(200);
    });
    const ahead = signJwt(key, claims({ iat: nowSec() + 200, nbf: nowSec() + 200 }));
    await named(ahead, async () => {
      expect((await server.withToken(ahead).send(listTokens)).status).toBe(200);
    });
  });

  const bodies: Record<string, () => Record<string, unknown>> = {
    'the audience of nodes': () => claims({ aud: 'aegis-node' }),
    'several audiences': () => claims({ aud: ['aegis-operator', 'aegis-node'] }),
    'no audience': () => claims({ aud: undefined }),
    "another fleet's name": () => claims({ iss: 'other' }),
    'no issuer': () => claims({ iss: undefined }),
    'no end': () => claims({ exp: undefined }),
    'an end that is text': () => claims({ exp: String(nowSec() + 1000) }),
    'an end that is past': () => claims({ exp: nowSec() }),
    'an end that is past, in a fraction': () => claims({ exp: nowSec() - 0.5 }),
    'no beginning': () => claims({ iat: undefined }),
    'a beginning beyond the skew of clocks': () => claims({ iat: nowSec() + 600 }),
    'not before a time beyond the skew of clocks': () => claims({ nbf: nowSec() + 600 }),
    'an id of nobody': () => claims({ jti: '0123456789abcdef' }),
    'an id that is none': () => claims({ jti: "' or 1=1" }),
    'no id': () => claims({ jti: undefined }),
  };
  test.each(Object.entries(bodies))('refused and audited, signature and row are good: %s', async (_what, body) => {
    const text = signJwt(key, body());
    await named(text, () => expectRefused(text));
  });

  const raw: Record<string, () => string> = {
    'the algorithm none': () => `${part({ alg: 'none', typ: 'JWT' })}.${part(claims())}.`,
    'the algorithm none, under our key': () =>
      `${part({ alg: 'none', typ: 'JWT', kid: key.kid })}.${part(claims())}.${made.token.split('.')[2]}`,
    'an unknown key': () => signJwt({ ...key, kid: '0123456789abcdef' }, claims()),
    'a path for a key': () => signJwt({ ...key, kid: '../../../../dev/null' }, claims()),
    'claims that nobody signed': () =>
      made.token
        .split('.')
        .with(1, part(claims({ role: 'admin', sub: 'x' })))
        .join('.'),
    'repeated claims': () => resigned(JSON.stringify(claims()).replace('{', '{"aud":"aegis-node",')),
    'repeated claims, the last one good': () => resigned(JSON.stringify(claims()).replace('{', '{"exp":1,')),
    oversize: () => signJwt(key, claims({ more: 'x'.repeat(8192) })),
    'deep nesting': () => resigned(JSON.stringify(claims()).replace('{', `{"a":${'['.repeat(20)}${']'.repeat(20)},`)),
    'a byte more in base64': () => `${made.token}A`,
    padding: () => `${made.token}==`,
    'a crit header': () => resigned(JSON.stringify(claims()), { crit: ['exp'] }),
    'a key in its own header': () => resigned(JSON.stringify(claims()), { jwk: { kty: 'oct', k: 'AA' } }),
  };
  const resigned = (payload: string, more: Record<string, unknown> = {}): string => {
    const header = { alg: key.alg, typ: 'JWT', kid: key.kid, ...more };
    const bytes = `${part(header)}.${part(payload)}`;
    // Ours signs what it encodes itself: here the bytes are given.
    if (key.alg === 'HS256') return `${bytes}.${createHmac('sha256', key.secret).update(bytes).digest('base64url')}`;
    return `${bytes}.${signBytes(key, bytes)}`;
  };
  test.each(Object.entries(raw))('refused and audited: %s', async (_what, text) => {
    const forged = text();
    await named(forged, () => expectRefused(forged));
  });

  test('refused and audited: the public key used as an HMAC secret, in each of its forms', async () => {
    const { publicRaw, keyId } = tokenKeyPair(server.dataDir);
    const publicKey = publicKeyFromRaw(publicRaw);
    for (const hmac of [
      publicRaw,
      Buffer.from(publicRaw.toString('base64')),
      Buffer.from(publicRaw.toString('hex')),
      publicKey.export({ format: 'pem', type: 'spki' }),
      publicKey.export({ format: 'der', type: 'spki' }),
    ])
      for (const kid of [keyId.slice(0, 16), key.kid, null]) {
        const text = signJwt({ alg: 'HS256', kid, secret: Buffer.from(hmac) }, claims());
        await named(text, () => expectRefused(text));
      }
  });

  test('refused and audited: a token made with the stolen key alone', async () => {
    // Every id is known to who reads the list; which text is good is not.
    await expectRefused(signJwt(key, claims({ rnd: 'AAAAAAAAAAAAAAAAAAAAAA' })));
    await expectRefused(signJwt(key, claims({ exp: nowSec() + 40 * DAY_SEC })));
  });

  test("a node's token is none of an operator, and the reverse", async () => {
    clock.advance(61_000);
    const asOperator = await server.withToken(nodeToken).send(listTokens);
    expect([asOperator.status, asOperator.json]).toMatchObject([403, { error: { code: 'access.forbidden' } }]);
    expect(await newest()).toMatchObject({ action: 'listTokens', outcome: 'refused', actor_kind: 'node' });
    const asNode = await server.withToken(made.token).send(ackCommands, { body: { ids: [] } });
    expect([asNode.status, asNode.json]).toMatchObject([403, { error: { code: 'access.forbidden' } }]);
    expect(await newest()).toMatchObject({ action: 'ackCommands', outcome: 'refused', actor_kind: 'token' });

    // Who has the secret of one kind makes claims of the other.
    const { sub } = json(nodeToken.split('.')[1]);
    const asNodes: JwtKey = {
      alg: 'HS256',
      kid: null,
      secret: Buffer.from(
        secret ?? JSON.parse(readFileSync(join(server.dataDir, 'keys/secrets.json'), 'utf8')).jwt_signing_secret,
      ),
    };
    const good = signJwt(asNodes, { ...claims({ aud: 'aegis-node', sub }) });
    expect((await server.withToken(good).send(ackCommands, { body: { ids: [] } })).status).toBe(200);
    for (const [text, endpoint] of [
      [signJwt(asNodes, claims({ sub })), ackCommands],
      [signJwt(key, claims({ aud: 'aegis-node', sub })), ackCommands],
      [signJwt(asNodes, claims()), listTokens],
      [signJwt(key, { ...json(nodeToken.split('.')[1]), jti: made.id }), listTokens],
    ] as const)
      await named(text, async () => {
        clock.advance(61_000);
        expect((await server.withToken(text).send(endpoint, {})).status).toBe(401);
        expect(await newest()).toMatchObject({ action: endpoint.id, code: 'access.unauthenticated', count: 1 });
      });
  });

  test('a token ends by its own word and by its row, and by its revocation at once', async () => {
    const admin = server.as('admin');
    const short = await admin.call(createToken, { body: { name: 'short', role: 'viewer', ttl_sec: 60 } });
    const as = server.withToken(short.token);
    expect((await as.send(listAgents)).status).toBe(200);
    clock.advance(60_000);
    expect((await as.send(listAgents)).status).toBe(401);
    const long = await admin.call(createToken, { body: { name: 'long', role: 'viewer' } });
    expect((await server.withToken(long.token).send(listAgents)).status).toBe(200);
    await admin.call(revokeToken, { params: { id: long.id } });
    await expectRefused(long.token);
  });

  test('tokens from before they were JWTs stay good until they end', async () => {
    const opaque = `aegis_0011223344556677_${'s'.repeat(43)}`;
    await server.running.storage.write('test', async (tx) => {
      await tx
        .insertInto('access_tokens')
        .values({
          id: '0011223344556677',
          name: 'old',
          role: 'viewer',
          scope: null,
          secret_sha256: createHash('sha256').update('s'.repeat(43)).digest(),
          created_at: clock.now(),
          expires_at: null,
          revoked_at: null,
        })
        .execute();
    });
    expect((await server.withToken(opaque).send(listAgents)).status).toBe(200);
    await expectRefused(opaque.replace(/s$/, 't'));
    await server.as('admin').call(revokeToken, { params: { id: '0011223344556677' } });
    await expectRefused(opaque);
  });
});

test('the key is private and stays; tokens of both kinds are good where a secret is set, and not where another one is', async () => {
  const dataDir = mkdtempSync(join(tmpdir(), 'aegis-tokens-test-'));
  try {
    let tokens: string[] = [];
    const statuses = async (secret: string | null): Promise<number[]> => {
      await using server = await startTestServer({
        dataDir,
        config: secret === null ? {} : { jwt_signing_secret: secret },
      });
      if (tokens.length === 0)
        tokens = [
          await issueToken({ dataDir, role: 'viewer', name: 'own' }),
          await issueToken({ dataDir, role: 'viewer', name: 'shared', jwtSecret: SECRET }),
        ];
      return await Promise.all(tokens.map(async (token) => (await server.withToken(token).send(listAgents)).status));
    };
    expect(await statuses(null)).toEqual([200, 401]);
    expect(statSync(join(dataDir, 'keys/tokens.pem')).mode & 0o777).toBe(0o600);
    expect(await statuses(SECRET)).toEqual([200, 200]);
    expect(await statuses(SECRET.toUpperCase())).toEqual([200, 401]);
    rmSync(join(dataDir, 'keys/tokens.pem'));
    expect(await statuses(SECRET)).toEqual([401, 200]);
    writeFileSync(join(dataDir, 'keys/tokens.pem'), 'x');
    await expect(statuses(SECRET)).rejects.toMatchObject({ code: 'config.invalid' });
  } finally {
    rmSync(dataDir, { recursive: true, force: true });
  }
});

test('a key elsewhere, by the names that the seeds give: its tokens are good, and it has to be what it is said to be', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'aegis-tokens-test-'));
  const dataDir = join(folder, 'data');
  const file = (name: string, text: string | Buffer, mode = 0o600): string => {
    writeFileSync(join(folder, name), text, { mode });
    return join(folder, name);
  };
  const { privateKey, publicKey } = generateKeyPairSync('ed25519');
  const pem = privateKey.export({ format: 'pem', type: 'pkcs8' });
  const own = file('private.pem', pem);
  const open = file('public.pem', publicKey.export({ format: 'pem', type: 'spki' }), 0o644);
  const foreign = generateKeyPairSync('ed25519').publicKey.export({ format: 'pem', type: 'spki' });
  const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'pem', type: 'pkcs8' });
  const withKeys = (AUTH_PRIVATE_KEY_PATH: string, AUTH_PUBLIC_KEY_PATH: string) => {
    const env = { AUTH_PRIVATE_KEY_PATH, AUTH_PUBLIC_KEY_PATH };
    const { token_key, token_public_key } = loadServerConfig({ flags: {}, env }).config;
    return { token_key, token_public_key };
  };
  try {
    const tokenKey = withKeys(own, open);
    await using server = await startTestServer({ dataDir, config: tokenKey });
    const token = await issueToken({ dataDir, role: 'viewer', name: 'x', tokenKey });
    expect((await server.withToken(token).send(listAgents)).status).toBe(200);
    const beside = await issueToken({ dataDir, role: 'viewer', name: 'x' }); // by keys/tokens.pem
    expect((await server.withToken(beside).send(listAgents)).status).toBe(401);
    const refusals = {
      'no file': [join(folder, 'nowhere.pem'), open, 'token_key'],
      'no key': [file('text.pem', 'x'), open, 'token_key'],
      'another kind of key': [file('rsa.pem', rsa), open, 'token_key'],
      'a public key': [file('public-alone.pem', readFileSync(open)), open, 'token_key'],
      'one that others may read': [file('open.pem', pem, 0o640), open, 'open.pem'],
      'the public key of another': [own, file('foreign.pem', foreign), 'token_public_key'],
      'no public key': [own, join(folder, 'nowhere.pem'), 'token_public_key'],
    } as const;
    for (const [what, [priv, pub, named]] of Object.entries(refusals)) {
      const refused = issueToken({ dataDir, role: 'viewer', name: what, tokenKey: withKeys(priv, pub) });
      await expect(refused, what).rejects.toMatchObject({
        code: 'config.invalid',
        message: expect.stringContaining(named),
      });
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

const signBytes = (key: JwtKey & { alg: 'EdDSA' }, bytes: string): string =>
  sign(null, Buffer.from(bytes), key.privateKey).toString('base64url');
const marker = () => ({
  at: 0,
  request_id: 'm',
  actor_kind: 'server',
  actor_id: null,
  actor_name: null,
  key_id: null,
  action: 'marker',
  targets: [],
  summary: [],
  address: null,
  outcome: 'ok' as const,
  code: null,
  count: 1,
});
