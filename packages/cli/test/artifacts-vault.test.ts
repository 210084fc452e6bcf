import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { createServer, type IncomingHttpHeaders } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type ArtifactFolder, BUNDLE, packedFolder } from './artifact-folder.ts';

/** Signing through Vault's transit engine. There is no Vault here: a small HTTP server answers as its documentation says the engine does
 *  (POST /v1/:mount/sign/:name, X-Vault-Token, errors as {"errors": […]}), and signs for real. */

const TOKEN = 'hvs.TopSecretTokenOfAPipeline';
let author: ArtifactFolder;
beforeAll(async () => {
  author = await packedFolder();
});
afterAll(() => author?.[Symbol.dispose]());

interface Transit extends AsyncDisposable {
  url: string;
  requests: { path: string; headers: IncomingHttpHeaders }[];
}
type Answer = { status: number; body: string } | 'silence' | 'hang up';

const transit = async (key: KeyObject, answer?: Answer): Promise<Transit> => {
  const requests: Transit['requests'] = [];
  const server = createServer(async (request, response) => {
    const pieces: Buffer[] = [];
    for await (const piece of request) pieces.push(piece as Buffer);
    requests.push({ path: `${request.method} ${request.url}`, headers: request.headers });
    const reply = (status: number, body: unknown) =>
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
    if (answer === 'silence') return;
    if (answer === 'hang up') return void request.socket.destroy();
    if (answer) return void response.writeHead(answer.status).end(answer.body);
    if (request.headers['x-vault-token'] !== TOKEN) return void reply(403, { errors: ['permission denied'] });
    const { input } = JSON.parse(Buffer.concat(pieces).toString()) as { input: string };
    if (request.url !== '/v1/transit/sign/artifacts') return void reply(404, { errors: [] });
    const signature = sign(null, Buffer.from(input, 'base64'), key).toString('base64');
    reply(200, { request_id: '1', data: { key_version: 3, signature: `vault:v3:${signature}` } });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    [Symbol.asyncDispose]: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
};

const { privateKey } = generateKeyPairSync('ed25519');
const rawPublic = () => {
  const key = createPublicKey(createPrivateKey(privateKey.export({ format: 'pem', type: 'pkcs8' })));
  return key.export({ format: 'der', type: 'spki' }).subarray(-32).toString('base64');
};
const signing = (env: Record<string, string>, ...more: string[]) =>
  author.aegis(['artifacts', 'sign', BUNDLE, '--vault', 'artifacts', ...more], { env });

test("Vault's signature is written, and verified by the key as Vault shows it", async () => {
  await using vault = await transit(privateKey);
  const env = { VAULT_ADDR: `${vault.url}/`, VAULT_TOKEN: TOKEN, VAULT_NAMESPACE: 'team' };
  const signed = await signing(env);
  expect({ ...signed, stdout: signed.stdout.replace(/[0-9a-f]{64}/, '<sha256>') }).toEqual({
    code: 0,
    stdout: `signature: ${BUNDLE}.minisig
artifact:  block-icmp@1.0.0
sha256:    <sha256>
key:       artifacts of Vault's transit
`,
    stderr: '',
  });
  expect(vault.requests.map(({ path }) => path)).toEqual(['POST /v1/transit/sign/artifacts']);
  expect(vault.requests[0]?.headers).toMatchObject({ 'x-vault-token': TOKEN, 'x-vault-namespace': 'team' });
  writeFileSync(author.at('vault.pub'), `${rawPublic()}\n`);
  const verified = await author.aegis(['artifacts', 'verify', BUNDLE, '--public-key', 'vault.pub', '--json']);
  expect({ code: verified.code, ...JSON.parse(verified.stdout) }).toMatchObject({
    code: 0,
    valid: true,
    name: 'block-icmp',
    signer: { name: 'vault.pub' },
  });
  const other = generateKeyPairSync('ed25519').publicKey.export({ format: 'der', type: 'spki' }).subarray(-32);
  writeFileSync(author.at('other.pub'), other.toString('base64'));
  const refused = await author.aegis(['artifacts', 'verify', BUNDLE, '--public-key', 'other.pub', '--json']);
  expect({ code: refused.code, error: JSON.parse(refused.stderr).error.code }).toEqual({
    code: 1,
    error: 'artifacts.bad_signature',
  });
});

test.each<[string, Answer | undefined, Record<string, string>, string[], string]>([
  [
    'a token that may not',
    undefined,
    { VAULT_TOKEN: 'hvs.another' },
    [],
    "Vault does not let this token sign with 'artifacts': it needs 'update' on transit/sign/artifacts (permission denied).",
  ],
  [
    'an engine that is elsewhere',
    undefined,
    {},
    ['--vault-mount', 'keys/transit'],
    "Vault has nothing at /v1/keys/transit/sign/artifacts: see 'vault list keys/transit/keys', or name the engine with --vault-mount.",
  ],
  [
    'a sealed server',
    { status: 503, body: '{"errors":["Vault is sealed"]}' },
    {},
    [],
    'Vault is sealed or not ready: unseal it, then try again.',
  ],
  [
    'a failing server',
    { status: 500, body: '{"errors":["1 error occurred:\\n\\t* internal"]}' },
    {},
    [],
    'Vault answered 500 (1 error occurred: * internal). See its log.',
  ],
  ['a standby that points elsewhere', { status: 307, body: '' }, {}, [], 'Vault answered 307. See its log.'],
  [
    'a key of another type',
    { status: 200, body: '{"data":{"signature":"vault:v1:MEUCIQ=="}}' },
    {},
    [],
    "Vault's answer is no Ed25519 signature: the key 'artifacts' has to be of type ed25519.",
  ],
  [
    'a web page',
    { status: 200, body: '<html>' },
    {},
    [],
    "Vault's answer is no Ed25519 signature: the key 'artifacts' has to be of type ed25519.",
  ],
  [
    'an answer without an end',
    { status: 200, body: 'x'.repeat(100_000) },
    {},
    [],
    'What answers at <url> is no Vault server. Is VAULT_ADDR right?',
  ],
  [
    'silence',
    'silence',
    { VAULT_CLIENT_TIMEOUT: '0.2s' },
    [],
    'Vault at <url> did not answer within 0.2 s. Is VAULT_ADDR right?',
  ],
  ['a broken connection', 'hang up', {}, [], 'Cannot reach Vault at <url> (ECONNRESET). Is VAULT_ADDR right?'],
])('%s', async (_, answer, env, more, sentence) => {
  await using vault = await transit(privateKey, answer);
  const { code, stdout, stderr } = await signing(
    { VAULT_ADDR: vault.url, VAULT_TOKEN: TOKEN, ...env },
    '-o',
    'none',
    ...more,
  );
  expect({ code, stdout, stderr: stderr.replaceAll(vault.url, '<url>') }).toEqual({
    code: 1,
    stdout: '',
    stderr: `aegis: ${sentence}\n`,
  });
  expect(stderr).not.toContain('hvs.');
});

test.each<[string, Record<string, string>, string[], string]>([
  ['no token', {}, [], "VAULT_TOKEN is not set, or is no token: 'vault login' gives one."],
  [
    'a token with a line feed',
    { VAULT_TOKEN: 'a\nb' },
    [],
    "VAULT_TOKEN is not set, or is no token: 'vault login' gives one.",
  ],
  [
    'no URL',
    { VAULT_TOKEN: TOKEN, VAULT_ADDR: 'vault' },
    [],
    'VAULT_ADDR is no URL of a Vault server: write https://host:8200.',
  ],
  [
    'a readable way to another machine',
    { VAULT_TOKEN: TOKEN, VAULT_ADDR: 'http://vault.example:8200' },
    [],
    'VAULT_ADDR is http:// to another machine, and the token would travel readable for all: use https://.',
  ],
  [
    'no time',
    { VAULT_TOKEN: TOKEN, VAULT_CLIENT_TIMEOUT: 'soon' },
    [],
    'VAULT_CLIENT_TIMEOUT is no number of seconds up to 600.',
  ],
  [
    'no certificate',
    { VAULT_TOKEN: TOKEN, VAULT_CACERT: '/nowhere.pem' },
    [],
    '/nowhere.pem is not there. Correct VAULT_CACERT.',
  ],
  [
    'a path for a mount',
    { VAULT_TOKEN: TOKEN, VAULT_ADDR: 'http://127.0.0.1:1' },
    ['--vault-mount', '../sys?'],
    "'../sys?' and 'artifacts' are no mount and key of a Vault server's transit engine.",
  ],
])('%s is refused before anything is sent', async (_, env, more, sentence) => {
  expect(await signing(env, ...more)).toEqual({ code: 2, stdout: '', stderr: `aegis: ${sentence}\n` });
});

test('a server that says the token back does not get it into an error', async () => {
  await using vault = await transit(privateKey, { status: 400, body: `{"errors": ["no such token: ${TOKEN}"]}` });
  const { code, stdout, stderr } = await signing({ VAULT_ADDR: vault.url, VAULT_TOKEN: TOKEN });
  expect({ code, stdout, stderr }).toEqual({
    code: 1,
    stdout: '',
    stderr: 'aegis: Vault answered 400 (no such token: [VAULT_TOKEN]). See its log.\n',
  });
});
