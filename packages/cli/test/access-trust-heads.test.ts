import { chmodSync, mkdtempSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createToken } from '@aegis/protocol/access/endpoints';
import { digestOf } from '@aegis/protocol/access/trust-chain';
import type { TrustDraft } from '@aegis/protocol/access/trust-endpoints';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startTestServer, type TestServer } from '../../server/test/start-test-server.ts';
import { cliOfFile, refused } from './cli-process.ts';

/** `aegis access trust sign` remembers what it signed last: a server that drafts on an older version gets no signature. */

const cli = cliOfFile();
const folder = mkdtempSync(join(tmpdir(), 'aegis-trust-heads-'));
const at = (name: string): string => join(folder, name);
const root = at('root.pem');
let server: TestServer;
let env: Record<string, string>;
let fingerprint = '';
beforeAll(async () => {
  server = await startTestServer();
  const { token } = await server.as('admin').call(createToken, { body: { name: 'cli', role: 'admin' } });
  env = { AEGIS_SERVER: server.url, AEGIS_TOKEN: token };
  renameSync(join(server.dataDir, 'keys', 'root.pem'), root);
  fingerprint = JSON.parse((await run('access', 'trust', 'show', '--json')).stdout).root_fingerprint;
});
afterAll(async () => {
  rmSync(folder, { recursive: true, force: true });
  await server?.close();
});

const run = (...args: string[]) => cli.text(args, { env });
const good = async (...args: string[]): Promise<void> => expect(await run(...args)).toMatchObject({ code: 0 });
const draft = (name: string, lifetime: string) =>
  good('access', 'trust', 'draft', '--lifetime', lifetime, '--out', at(name));
const sign = (name: string, ...args: string[]) =>
  run('access', 'trust', 'sign', at(name), '--key', root, '--yes', ...args);
const bytes = (name: string): string => readFileSync(at(name), 'utf8');
const read = (name: string): TrustDraft => JSON.parse(bytes(name));
const versionOf = (payload: string): number => JSON.parse(Buffer.from(payload, 'base64').toString()).version;
const endOf = (name: string): string => `${versionOf(read(name).payload)}:${digestOf(read(name))}`;
const startOf = (name: string): string => `${versionOf(read(name).before.payload)}:${digestOf(read(name).before)}`;
const list = (): string => join(cli.home, '.config', 'aegis', 'known_heads');
const listed = (head: string): string =>
  `# The newest trust bundles that this user signed, by root; noted at each signature.\n${fingerprint} ${head}\n`;

test('a draft that starts before what was signed last gets no signature', async () => {
  await draft('old.json', '300d');
  await draft('first.json', '301d');
  expect(await sign('first.json')).toMatchObject({ code: 0, stderr: 'aegis: all signatures are there.\n' });
  expect([readFileSync(list(), 'utf8'), statSync(list()).mode & 0o777]).toEqual([listed(endOf('first.json')), 0o600]);
  expect(await sign('first.json'), 'the same draft again').toMatchObject({ code: 0 });
  await good('access', 'trust', 'publish', at('first.json'));
  const unsigned = bytes('old.json');
  expect(await sign('old.json')).toEqual(
    refused(
      `This draft starts at version 1, and you have signed version 2 already (${endOf('first.json')}): what that one changed is not in it. If it was never put in force, compare 'trust.head' of a node ('aegis daemon status --json') with ${startOf('old.json')} and give that with --head; if it was, the server hides it.`,
      1,
    ),
  );
  const other = endOf('first.json');
  expect(await sign('old.json', '--head', other)).toEqual(
    refused(
      `This draft starts at the version ${startOf('old.json')}, not at the one that --head names. Make another draft; if it starts there again, the server may show an older version than is in force.`,
      1,
    ),
  );
  expect(await sign('old.json', '--head', '1')).toEqual(
    refused("--head: give VERSION:DIGEST, as 'aegis access trust show' shows it as head."),
  );
  expect([bytes('old.json'), readFileSync(list(), 'utf8')]).toEqual([unsigned, listed(other)]);
});

test('the next one, and one that others signed in between, are taken', async () => {
  await draft('next.json', '302d');
  expect(await sign('next.json', '--head', endOf('first.json').toUpperCase())).toMatchObject({ code: 0 });
  await good('access', 'trust', 'publish', at('next.json'));
  rmSync(list());
  await draft('third.json', '303d');
  await good('access', 'trust', 'sign', at('third.json'), '--key', root, '--yes');
  expect(readFileSync(list(), 'utf8')).toBe(listed(endOf('third.json')));
});

test('a signed one that was never published is let go by --head, and by nothing else', async () => {
  await draft('instead.json', '304d');
  expect(startOf('instead.json')).toBe(endOf('next.json'));
  expect((await sign('instead.json')).stderr).toMatch(
    /^aegis: This draft starts at version 3, and you have signed version 4/,
  );
  expect(await sign('instead.json', '--head', startOf('instead.json'))).toMatchObject({ code: 0 });
  expect(readFileSync(list(), 'utf8')).toBe(listed(endOf('instead.json')));
});

test('changes of the root are remembered under both roots; signatures that stay here are not', async () => {
  await good('access', 'trust', 'publish', at('instead.json'));
  await good('access', 'keys', 'create', 'next', '--out', folder, '--no-password');
  const rotate = (...args: string[]) =>
    run('access', 'trust', 'rotate-root', '--root-key', at('next.pub'), '--sign-with', root, '--yes', ...args);
  const before = readFileSync(list(), 'utf8');
  expect((await rotate()).stderr).toMatch(
    /0 of 1 signatures of the next root are there, and without it nothing changes/,
  );
  expect(readFileSync(list(), 'utf8')).toBe(before);
  expect((await rotate('--head', endOf('first.json'), '--out', at('root.json'))).stderr).toMatch(
    /not at the one that --head/,
  );
  expect(await rotate('--head', endOf('instead.json'), '--out', at('root.json'))).toMatchObject({ code: 0 });
  const { root: next } = JSON.parse(Buffer.from(read('root.json').payload, 'base64').toString());
  const { rootFingerprintOf } = await import('@aegis/protocol/access/trust-bundle');
  expect(readFileSync(list(), 'utf8')).toBe(
    `${listed(endOf('root.json'))}${rootFingerprintOf(next)} ${endOf('root.json')}\n`,
  );
  await good('access', 'trust', 'sign', at('root.json'), '--key', at('next.key'), '--yes');
  await good('access', 'trust', 'publish', at('root.json'));
});

test('a list that others may write says nothing', async () => {
  await draft('last.json', '305d');
  chmodSync(list(), 0o666);
  const unsigned = bytes('last.json');
  expect(await run('access', 'trust', 'sign', at('last.json'), '--key', at('next.key'), '--yes')).toEqual(
    refused(`${list()} can be written by others, or is no such list. Run: chmod 600 ${list()}`),
  );
  expect(bytes('last.json')).toBe(unsigned);
});
