import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createToken, listTokens, revokeToken } from '@aegis/protocol/access/endpoints';
import { signJwt } from '@aegis/protocol/access/jwt';
import type { Endpoint } from '@aegis/protocol/endpoint';
import { listAgents } from '@aegis/protocol/nodes/endpoints';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { CHANNEL_UPGRADE } from '../../packages/server/src/channel/gateway.ts';
import { BODY_LIMIT_BYTES } from '../../packages/server/src/platform/http/json-body.ts';
import { handClock, startTestServer, type TestServer } from '../../packages/server/test/start-test-server.ts';
import { allEndpoints } from '../fleet/samples.ts';

/** A gateway in front: deploy/kong/kong.yml as a second, independent validator reads it, against a real server and its routes. */

const PYTHON = '/usr/bin/python3';
const kongYml = new URL('../../deploy/kong/kong.yml', import.meta.url);
const validator = new URL('gateway_validator.py', import.meta.url);
const SECRET = 'a secret shared with the gateway, 48 bytes of it';

interface Plugin {
  name: string;
  config: Record<string, unknown>;
}
interface KongRoute {
  name: string;
  methods?: string[];
  paths: string[];
  strip_path: boolean;
  plugins: Plugin[];
}
interface Kong {
  _format_version: string;
  services: { url: string; routes: KongRoute[] }[];
  consumers: { jwt_secrets: { key: string; algorithm: string; secret: string }[] }[];
}
type Verdict = { refused: string } | { claims: Record<string, unknown>; header: Record<string, unknown> };

let folder: string;
let server: TestServer;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'aegis-gateway-test-'));
  server = await startTestServer({ config: { jwt_signing_secret: SECRET } });
});
afterAll(async () => {
  await server.close();
  rmSync(folder, { recursive: true, force: true });
});

/** As envsubst fills it in. */
const validated = (tokens: readonly string[]): { config: Kong; tokens: Verdict[] } => {
  const values: Record<string, string> = {
    AEGIS_URL: server.url,
    AEGIS_FLEET: server.running.fleet,
    JWT_SIGNING_SECRET: SECRET,
  };
  const file = join(folder, 'kong.yml');
  const text = readFileSync(kongYml, 'utf8').replaceAll(/\$\{(\w+)\}/g, (all, name: string) => values[name] ?? all);
  writeFileSync(file, text, { mode: 0o600 });
  const input = tokens.map((token) => `${token}\n`).join('');
  return JSON.parse(execFileSync(PYTHON, [validator.pathname, file], { encoding: 'utf8', input }));
};
const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');
const claimsOf = (token: string): Record<string, unknown> =>
  JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString('utf8'));

test('a second validator takes our tokens by what kong.yml says, and nothing that was changed', async () => {
  const admin = server.as('admin');
  const made = await admin.call(createToken, { body: { name: 'alice', role: 'operator', ttl_sec: 600 } });
  const node = await server.enrol('web-1');
  const past = handClock(Date.now() - 86_400_000);
  await using before = await startTestServer({
    dataDir: join(folder, 'past'),
    clock: past,
    config: { jwt_signing_secret: SECRET },
  });
  const [header = '', payload = '', signature = ''] = made.token.split('.');
  const forged = (claims: object, secret = SECRET) =>
    signJwt({ alg: 'HS256', kid: null, secret: Buffer.from(secret) }, { ...claimsOf(made.token), ...claims });
  const tokens = {
    operator: made.token,
    node: node.token,
    'another role': [header, part({ ...claimsOf(made.token), role: 'admin' }), signature].join('.'),
    'another signature': [header, payload, signature.replace(/^./, (first) => (first === 'A' ? 'B' : 'A'))].join('.'),
    'no signature': [part({ alg: 'none', typ: 'JWT' }), payload, ''].join('.'),
    'another secret': forged({}, SECRET.toUpperCase()),
    'no end': forged({ exp: undefined }),
    'an end that is past': forged({ exp: Math.floor(Date.now() / 1000) - 1 }),
    "another fleet's": forged({ iss: before.running.fleet }),
    'no issuer': forged({ iss: undefined }),
    'one from before they were JWTs': `aegis_${'0'.repeat(16)}_${'a'.repeat(43)}`,
  };
  const verdicts = validated(Object.values(tokens)).tokens;
  expect(Object.fromEntries(Object.keys(tokens).map((name, at) => [name, verdicts[at]]))).toEqual({
    operator: {
      header: { alg: 'HS256', typ: 'JWT', kid: expect.any(String) },
      claims: {
        iss: server.running.fleet,
        aud: 'aegis-operator',
        sub: 'alice',
        jti: made.id,
        role: 'operator',
        iat: expect.any(Number),
        exp: Math.ceil(Date.parse(made.expires_at ?? '') / 1000),
        rnd: expect.any(String),
      },
    },
    node: {
      header: { alg: 'HS256', typ: 'JWT' },
      claims: {
        iss: server.running.fleet,
        aud: 'aegis-node',
        sub: node.uid,
        iat: expect.any(Number),
        exp: expect.any(Number),
      },
    },
    'another role': { refused: 'InvalidSignatureError' },
    'another signature': { refused: 'InvalidSignatureError' },
    'no signature': { refused: 'InvalidAlgorithmError' },
    'another secret': { refused: 'InvalidSignatureError' },
    'no end': { refused: 'MissingRequiredClaimError' },
    'an end that is past': { refused: 'ExpiredSignatureError' },
    "another fleet's": { refused: 'NoCredentials' },
    'no issuer': { refused: 'NoCredentials' },
    'one from before they were JWTs': { refused: 'DecodeError' },
  });
  expect((await server.withToken(made.token).send(listAgents)).status).toBe(200);

  // What the gateway cannot know, the server does: a revoked one, and one that somebody with the secret made.
  const own = forged({ role: 'admin' });
  await admin.call(revokeToken, { params: { id: made.id } });
  expect(validated([made.token, own]).tokens.map((verdict) => 'claims' in verdict)).toEqual([true, true]);
  expect((await server.withToken(made.token).send(listAgents)).status).toBe(401);
  expect((await server.withToken(own).send(listTokens)).status).toBe(401);
});

test('kong.yml and the contract agree: credentials, algorithm, each route, and how large a body may be', async () => {
  const { config } = validated([]);
  expect(JSON.stringify(config)).not.toContain('${');
  expect([config._format_version, config.consumers]).toEqual([
    '3.0',
    [{ username: 'aegis', jwt_secrets: [{ key: server.running.fleet, algorithm: 'HS256', secret: SECRET }] }],
  ]);
  const [service] = config.services;
  if (!service || config.services.length !== 1) throw new Error('one service');
  expect(service.url).toBe(server.url);
  const { routes } = service;
  const pluginOf = (route: KongRoute, name: string) => route.plugins.find((plugin) => plugin.name === name)?.config;

  const rank = ({ route, prefix }: { route: KongRoute; prefix: string }) =>
    (route.methods === undefined ? 0 : 1000) + prefix.length;
  /** Kong takes the route that asks for most, then the longest prefix. */
  const routeOf = ({ path, method }: Pick<Endpoint, 'path' | 'method'>): KongRoute | undefined =>
    routes
      .filter(({ methods }) => methods === undefined || methods.includes(method))
      .flatMap((route) => route.paths.filter((prefix) => path.startsWith(prefix)).map((prefix) => ({ route, prefix })))
      .toSorted((one, other) => rank(other) - rank(one))[0]?.route;
  const endpoints: Pick<Endpoint, 'path' | 'method' | 'caller' | 'agentKey' | 'bodyLimitBytes' | 'id'>[] = [
    ...(await allEndpoints()),
    CHANNEL_UPGRADE,
  ];
  /** Whose credential is no JWT: the server alone looks at it. */
  const notJwt = ({ id, caller, agentKey }: (typeof endpoints)[number]) =>
    caller === 'anyone' || agentKey === true || id === CHANNEL_UPGRADE.id;
  const wrong = endpoints.flatMap((endpoint) => {
    const route = routeOf(endpoint);
    if (!route) return [`${endpoint.path}: no route`];
    const jwt = pluginOf(route, 'jwt') !== undefined;
    const most = Number(pluginOf(route, 'request-size-limiting')?.allowed_payload_size ?? Infinity);
    return [
      ...(jwt === notJwt(endpoint) ? [`${endpoint.path}: ${jwt ? 'a JWT is asked for' : 'no JWT is asked for'}`] : []),
      ...((endpoint.bodyLimitBytes ?? BODY_LIMIT_BYTES) > most ? [`${endpoint.path}: at most ${most} bytes`] : []),
    ];
  });
  expect(wrong).toEqual([]);
  for (const { name, paths, strip_path, plugins } of routes) {
    expect(strip_path, name).toBe(false);
    expect(
      plugins.map((plugin) => plugin.name),
      name,
    ).toContain('rate-limiting');
    for (const prefix of paths)
      expect(
        endpoints.some(({ path }) => path.startsWith(prefix)),
        `${name}: ${prefix}`,
      ).toBe(true);
  }
  const [jwt] = routes.flatMap((route) => pluginOf(route, 'jwt') ?? []);
  expect(jwt).toEqual({
    key_claim_name: 'iss',
    secret_is_base64: false,
    claims_to_verify: ['exp'],
    header_names: ['authorization'],
    uri_param_names: [],
    cookie_names: [],
    run_on_preflight: false,
  });
});
