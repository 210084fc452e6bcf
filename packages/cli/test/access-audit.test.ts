import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createToken, revokeToken } from '@aegis/protocol/access/endpoints';
import { sql } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startTestServer, type TestServer } from '../../server/test/start-test-server.ts';
import { cliOfFile, refused } from './cli-process.ts';

/** `aegis access audit` with the real server, and without any. */

const cli = cliOfFile();
let server: TestServer;
let folder: string;
let env: Record<string, string>;
beforeAll(async () => {
  server = await startTestServer();
  const { token, id } = await server.as('admin').call(createToken, { body: { name: 'cli', role: 'admin' } });
  await server.as('admin').send(revokeToken, { params: { id: `not-${id}` } });
  await server.running.audit.signHead();
  env = { AEGIS_SERVER: server.url, AEGIS_TOKEN: token };
  folder = mkdtempSync(join(tmpdir(), 'aegis-audit-'));
});
afterAll(async () => {
  rmSync(folder, { recursive: true, force: true });
  await server?.close();
});
const audit = (args: readonly string[], more: { env?: Record<string, string>; stdin?: string } = {}) =>
  cli.text(['access', 'audit', ...args], { env, ...more });
const at = (name: string): string => join(folder, name);
const OFFLINE = { env: {} };

test('listed, exported, verified offline; a changed line is named', async () => {
  const listed = (await audit(['list'])).stdout.split('\n').map((line) => line.split(/ {2,}/));
  expect(listed.slice(0, 5).map(([seq, _, who, action, outcome, from]) => [seq, who, action, outcome, from])).toEqual([
    ['SEQ', 'WHO', 'ACTION', 'OUTCOME', 'FROM'],
    ['4', 'test-admin', 'revokeToken', 'refused access.unknown_token', '127.0.0.1'],
    ['3', 'test-admin', 'revokeToken', 'begun', '127.0.0.1'],
    ['2', 'test-admin', 'createToken', 'ok', '127.0.0.1'],
    ['1', 'test-admin', 'createToken', 'begun', '127.0.0.1'],
  ]);
  const { entries } = JSON.parse((await audit(['list', '--outcome', 'ok', '--since', '1h', '--json'])).stdout);
  expect(entries).toMatchObject([{ seq: 2, action: 'createToken', summary: ['name=cli', 'role=admin'] }]);

  const exported = await audit(['export', '--out', at('a.ndjson'), '--head-out', at('head.json'), '--json']);
  expect(JSON.parse(exported.stdout)).toEqual({ entries: 4, file: at('a.ndjson'), head_file: at('head.json') });
  expect(statSync(at('a.ndjson')).mode & 0o777).toBe(0o600);
  const root = server.running.rootFingerprint;
  const good = await audit(['verify', at('a.ndjson'), '--head', at('head.json'), '--root', root], OFFLINE);
  expect(good).toEqual({
    code: 0,
    stdout: `fleet:   ${server.running.fleet}\nroot:    ${root}\nentries: 4 (1 to 4)\nsigned:  signed up to entry 4\nkept:    1 of 1 heads fit\nverdict: intact\n`,
    stderr: '',
  });
  const text = readFileSync(at('a.ndjson'), 'utf8');
  const line = 1 + text.split('\n').findIndex((one) => one.includes('"seq":3,'));
  const changed = await audit(['verify', '-', '--json'], { env: {}, stdin: text.replace('"seq":3,', '"seq":3.0,') });
  expect(changed.code).toBe(0); // the same number
  const forged = text.replace('"outcome":"refused"', '"outcome":"ok"');
  const found = await audit(['verify', '-', '--json'], { env: {}, stdin: forged });
  expect(found.code).toBe(1);
  expect(JSON.parse(found.stdout)).toMatchObject({
    intact: false,
    root_pinned: false,
    findings: [{ what: 'changed', line: line + 1, seq: 4 }],
  });
  expect(await audit(['verify', at('a.ndjson'), '--root', 'ab'.repeat(32)], OFFLINE)).toMatchObject({ code: 1 });
});

test('the server itself is verified; what is gone is told by the head that was kept', async () => {
  await audit(['export', '--out', at('b.ndjson'), '--head-out', at('kept.json')]);
  expect(await audit(['verify', '--head', at('kept.json')])).toMatchObject({ code: 0 });
  for (const text of [
    'delete from access_audit where seq > 2',
    'update access_audit_head set seq = 2, hash = (select hash from access_audit where seq = 2)',
    'delete from access_audit_signed',
  ])
    await server.running.storage.write('test', (tx) => sql.raw(text).execute(tx));
  expect(await audit(['verify'])).toMatchObject({ code: 0 });
  const { code, stdout } = await audit(['verify', '--head', at('kept.json')]);
  expect({ code, first: stdout.split('\n')[0] }).toEqual({
    code: 1,
    first: 'truncated (entry 4): A head that was kept shows that entry 4 was there, and it is gone.',
  });
});

test('files are never written over, nor left half; what is no export or head is said', async () => {
  writeFileSync(at('mine'), 'mine');
  expect(await audit(['export', '--out', at('mine')])).toEqual(
    refused(`${at('mine')} cannot be written (EEXIST). Name a file that is not there yet.`),
  );
  expect(readFileSync(at('mine'), 'utf8')).toBe('mine');
  await server.running.storage.write('test', (tx) => sql.raw('delete from access_audit_signed').execute(tx));
  expect(await audit(['export', '--out', at('c'), '--head-out', at('d')])).toMatchObject({ code: 1 });
  expect([existsSync(at('c')), existsSync(at('d'))]).toEqual([false, false]);
  expect(await audit(['verify', at('mine')], OFFLINE)).toMatchObject({ code: 1 });
  expect(await audit(['verify', at('none')], OFFLINE)).toEqual(
    refused(`${at('none')} cannot be read (ENOENT). Name an export.`),
  );
  expect(await audit(['verify', at('mine'), '--head', at('mine')], OFFLINE)).toEqual(
    refused(`--head ${at('mine')}: it holds no signed head. Name a file of 'aegis access audit export --head-out'.`),
  );
});
