import { mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createToken, showTrust } from '@aegis/protocol/access/endpoints';
import { generateKeyPair, keyPairFromPem } from '@aegis/protocol/access/keys';
import {
  readTrustPayload,
  rootFingerprintOf,
  signTrustBundle,
  type TrustBundle,
} from '@aegis/protocol/access/trust-bundle';
import { digestOf } from '@aegis/protocol/access/trust-chain';
import type { TrustDraft } from '@aegis/protocol/access/trust-endpoints';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startTestServer, type TestServer } from '../../server/test/start-test-server.ts';
import { cliOfFile } from './cli-process.ts';

/** `aegis access trust rotate-root --sign-with` at a server that was taken over: what it drafts is signed only if it is what was asked for. */

const cli = cliOfFile();
const folder = mkdtempSync(join(tmpdir(), 'aegis-trust-liar-'));
const at = (name: string): string => join(folder, name);
const mallory = generateKeyPair();
const mallorys = mallory.publicRaw.toString('base64');
const rootFile = at('root.pem');
let server: TestServer;
let token: string;
let lie: (draft: TrustDraft) => TrustDraft;
const published: string[] = [];
const front = createServer((request, response) => {
  const chunks: Buffer[] = [];
  request.on('data', (chunk: Buffer) => chunks.push(chunk));
  request.on('end', async () => {
    const { method = 'GET', url = '/', headers } = request;
    if (url === '/api/v1/trust' && method === 'POST') published.push(Buffer.concat(chunks).toString());
    const answer = await fetch(new URL(url, server.url), {
      method,
      headers: {
        authorization: headers.authorization ?? '',
        ...(headers['content-type'] ? { 'content-type': headers['content-type'] } : {}),
      },
      ...(method === 'GET' ? {} : { body: Buffer.concat(chunks) }),
    });
    const text = await answer.text();
    const told = url === '/api/v1/trust/draft' && answer.ok ? JSON.stringify(lie(JSON.parse(text))) : text;
    response.writeHead(answer.status, { 'content-type': 'application/json' }).end(told);
  });
});
beforeAll(async () => {
  server = await startTestServer();
  token = (await server.as('admin').call(createToken, { body: { name: 'cli', role: 'admin' } })).token;
  renameSync(join(server.dataDir, 'keys', 'root.pem'), rootFile);
  await new Promise<void>((resolve) => front.listen(0, '127.0.0.1', resolve));
  expect((await cli.text(['access', 'keys', 'create', 'next', '--out', folder, '--no-password'])).code).toBe(0);
});
afterAll(async () => {
  front.closeAllConnections();
  front.close();
  rmSync(folder, { recursive: true, force: true });
  await server?.close();
});

const base64 = (bundle: TrustBundle): string => Buffer.from(JSON.stringify(bundle)).toString('base64');
const after =
  (change: (bundle: TrustBundle) => Partial<TrustBundle>) =>
  (draft: TrustDraft): TrustDraft => {
    const bundle = readTrustPayload(draft.payload);
    return { ...draft, payload: base64({ ...bundle, ...change(bundle) }) };
  };
const mallorysKey: TrustBundle['keys'][number] = {
  keyid: mallory.keyId,
  public_key: mallorys,
  name: 'server 9',
  usage: ['serve', 'operate'],
  state: 'active',
};
let forgedRoot = '';
/** A version that never was, of a root that the signer's key is one of: what it lists already would not be shown as a change. */
const neverWas = (draft: TrustDraft): TrustDraft => {
  const bundle = readTrustPayload(draft.before.payload);
  const forged = {
    ...bundle,
    root: { threshold: 1, keys: [...bundle.root.keys, mallorys] },
    merges: [{ version: bundle.version, digest: digestOf(draft.before) }],
    keys: [...bundle.keys, mallorysKey],
  };
  forgedRoot = rootFingerprintOf(forged.root);
  const before = signTrustBundle(forged, mallory);
  const { root, issued_at, expires_at } = readTrustPayload(draft.payload);
  const next = { ...forged, version: bundle.version + 1, previous: digestOf(before), issued_at, expires_at, root };
  return { ...draft, before, payload: base64(next) };
};
const rotate = (...args: string[]) =>
  cli.text(['access', 'trust', 'rotate-root', '--root-key', at('next.pub'), '--sign-with', rootFile, ...args], {
    env: { AEGIS_SERVER: `http://127.0.0.1:${(front.address() as AddressInfo).port}`, AEGIS_TOKEN: token },
  });

test('signs nothing but what was asked for', async () => {
  const lies: [string, (draft: TrustDraft) => TrustDraft][] = [
    ['another root', after(() => ({ root: { threshold: 1, keys: [mallorys] } }))],
    ['its own root beside', after(({ root }) => ({ root: { threshold: 1, keys: [...root.keys, mallorys] } }))],
    ['a key of its own', after(({ keys }) => ({ keys: [...keys, mallorysKey] }))],
    ['a key left out', after(() => ({ keys: [] }))],
    ['another use', after(({ keys }) => ({ keys: keys.map((key) => ({ ...key, usage: ['serve', 'operate'] })) }))],
    ['another chain', after(() => ({ merges: [{ version: 7, digest: 'a'.repeat(64) }] }))],
    ['another fleet', after(() => ({ fleet: 'mallorys' }))],
    ['for ever', after(() => ({ expires_at: '2999-01-01T00:00:00.000Z' }))],
    ['far ahead', after(({ version }) => ({ version: version + 5 }))],
    ['another predecessor', after(() => ({ previous: 'a'.repeat(64) }))],
    ['a version that never was', neverWas],
  ];
  const told: string[] = [];
  for (const [name, one] of lies) {
    lie = one;
    const { code, stderr } = await rotate('--yes', '--out', at(`${name}.json`));
    told.push(`${name}: ${code} ${stderr.trimEnd()}`);
  }
  const other = (what: string) =>
    `1 aegis: The server drafted something else than was asked for (${what}): nothing was signed. Somebody may have taken it over.`;
  expect(told).toEqual([
    `another root: ${other('the root')}`,
    `its own root beside: ${other('the root')}`,
    `a key of its own: ${other('the keys')}`,
    `a key left out: ${other('the keys')}`,
    `another use: ${other('the keys')}`,
    `another chain: ${other('the versions that it also follows')}`,
    `another fleet: ${other('the fleet')}`,
    `for ever: ${other('the expiry')}`,
    `far ahead: ${other('the version')}`,
    `another predecessor: ${other('the version')}`,
    `a version that never was: 1 aegis: Nobody can say from these keys alone that the root ${forgedRoot} is in force: compare it with what you wrote down, and give it with --root.`,
  ]);
  expect(published).toEqual([]);
});

test('shows what it signs, and asks', async () => {
  lie = (draft) => draft;
  const { version } = readTrustPayload((await server.as('anyone').call(showTrust)).trust_bundle.payload);
  const asked = await rotate();
  expect([asked.code, asked.stdout]).toEqual([2, '']);
  expect(asked.stderr).toMatch(
    new RegExp(
      `^root fingerprint [0-9a-f]{64}\nfleet .*, version ${version} → ${version + 1}\nexpires .*\n! root .*\n {2}becomes .*\naegis: Without a terminal nobody can be asked: add --yes if it is meant\\.\n$`,
    ),
  );
  expect(published).toEqual([]);
  expect((await rotate('--root', 'f'.repeat(64), '--yes')).stderr).toMatch(/not of the one that --root names/);
  const rootId = keyPairFromPem(readFileSync(rootFile, 'utf8')).keyId;
  expect(await rotate('--sign-with', at('next.key'), '--root', rootId, '--yes')).toMatchObject({ code: 0 });
  expect(published).toHaveLength(1);
});
