import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { showTrust } from '@aegis/protocol/access/endpoints';
import { parseJoinToken } from '@aegis/protocol/access/join-token';
import { openTrustBundle } from '@aegis/protocol/access/trust-bundle';
import { listAgents } from '@aegis/protocol/nodes/endpoints';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { loadServerConfig } from '../src/config.ts';
import { MIGRATIONS } from '../src/migrations.ts';
import {
  initialiseServer,
  issueJoinToken,
  issueToken,
  listJoinTokens,
  listTokens,
  migrateServer,
  revokeToken,
} from '../src/offline.ts';
import { startServer } from '../src/server.ts';
import { freshDatabase } from './shared-postgres.ts';
import { startTestServer } from './start-test-server.ts';

/** The data directory: what init makes, which modes are refused, what works beside a running server, what one directory excludes. */

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'aegis-data-test-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));
const start = (dataDir: string, more: Record<string, unknown> = {}) =>
  startServer({
    config: loadServerConfig({ flags: { data_dir: dataDir, listen: ['127.0.0.1:0'], ...more }, env: {} }).config,
  });
const mode = (path: string) => (statSync(path).mode & 0o777).toString(8);

test('init makes private files and is safe to repeat', async () => {
  const dataDir = join(folder, 'a', 'b');
  const first = await initialiseServer({ dataDir, fleet: 'lab' });
  expect(first).toMatchObject({ fleet: 'lab', created: true });
  expect(readdirSync(join(dataDir, 'keys')).sort()).toEqual(['root.pem', 'secrets.json', 'server.pem']);
  expect(mode(dataDir)).toBe('700');
  for (const name of ['fleet.json', 'aegis.db', 'keys/root.pem', 'keys/server.pem', 'keys/secrets.json'])
    expect(`${name} ${mode(join(dataDir, name))}`).toBe(`${name} 600`);
  const keys = readFileSync(join(dataDir, 'keys/root.pem'), 'utf8');
  expect(await initialiseServer({ dataDir })).toEqual({ ...first, created: false });
  expect(readFileSync(join(dataDir, 'keys/root.pem'), 'utf8')).toBe(keys);
  await expect(initialiseServer({ dataDir, fleet: 'other' })).rejects.toMatchObject({ code: 'config.invalid' });
});

test('an init that died on its way is finished with the keys that it had made', async () => {
  const dataDir = join(folder, 'data');
  const { rootFingerprint } = await initialiseServer({ dataDir, fleet: 'lab' });
  for (const name of ['fleet.json', 'aegis.db', 'aegis.db-wal', 'aegis.db-shm'])
    rmSync(join(dataDir, name), { force: true });
  rmSync(join(dataDir, 'keys/server.pem'));
  expect(await initialiseServer({ dataDir, fleet: 'lab' })).toEqual({ fleet: 'lab', rootFingerprint, created: true });
});

test('a directory that was never initialised is refused with what to do', async () => {
  await expect(start(join(folder, 'none'))).rejects.toMatchObject({
    code: 'config.invalid',
    message: expect.stringContaining("Run 'aegis server init --data-dir"),
  });
  expect(existsSync(join(folder, 'none'))).toBe(false);
});

test('the root key may be kept elsewhere; nothing else may be missing', async () => {
  const dataDir = join(folder, 'data');
  await initialiseServer({ dataDir });
  renameSync(join(dataDir, 'keys/root.pem'), join(folder, 'root.pem'));
  await (await start(dataDir)).close();
  renameSync(join(dataDir, 'keys/server.pem'), join(folder, 'server.pem'));
  await expect(start(dataDir)).rejects.toMatchObject({ message: expect.stringContaining('server.pem is missing') });
});

test.each<[string, (dataDir: string) => void, RegExp]>([
  ['a key that others may read', (dir) => chmodSync(join(dir, 'keys/server.pem'), 0o640), /chmod 600/],
  ['secrets that others may read', (dir) => chmodSync(join(dir, 'keys/secrets.json'), 0o604), /chmod 600/],
  [
    'a link for a key',
    (dir) => {
      renameSync(join(dir, 'keys/server.pem'), join(dir, 'elsewhere.pem'));
      symlinkSync(join(dir, 'elsewhere.pem'), join(dir, 'keys/server.pem'));
    },
    /plain file/,
  ],
  [
    'a folder for a key',
    (dir) => {
      rmSync(join(dir, 'keys/server.pem'));
      mkdirSync(join(dir, 'keys/server.pem'));
    },
    /plain file/,
  ],
  ['damaged secrets', (dir) => writeFileSync(join(dir, 'keys/secrets.json'), '{"jwt'), /damaged/],
])('refused: %s', async (_, spoil, message) => {
  const dataDir = join(folder, 'data');
  await initialiseServer({ dataDir });
  spoil(dataDir);
  await expect(start(dataDir)).rejects.toMatchObject({
    code: 'config.invalid',
    message: expect.stringMatching(message),
  });
});

test("another fleet's server key is refused", async () => {
  const [one, two] = [join(folder, 'one'), join(folder, 'two')];
  await initialiseServer({ dataDir: one });
  await initialiseServer({ dataDir: two });
  renameSync(join(two, 'keys/server.pem'), join(one, 'keys/server.pem'));
  await expect(start(one)).rejects.toMatchObject({ message: expect.stringContaining('not the key that the fleet') });
});

test('a directory that others may write to is refused', async () => {
  const dataDir = join(folder, 'data');
  mkdirSync(dataDir);
  chmodSync(dataDir, 0o777);
  await expect(initialiseServer({ dataDir })).rejects.toMatchObject({ message: expect.stringContaining('chmod 700') });
});

test('one server per data directory', async () => {
  await using server = await startTestServer();
  await expect(start(server.dataDir)).rejects.toMatchObject({
    message: expect.stringContaining('Another server runs'),
  });
  await server.restart();
});

test('the lock is private, also where the directory is not, and where an older server made it otherwise', async () => {
  const dataDir = join(folder, 'data');
  await initialiseServer({ dataDir });
  chmodSync(dataDir, 0o755);
  await (await start(dataDir)).close();
  expect(mode(join(dataDir, 'server.lock'))).toBe('600');
  chmodSync(join(dataDir, 'server.lock'), 0o644);
  await (await start(dataDir)).close();
  expect(mode(join(dataDir, 'server.lock'))).toBe('600');
});

test.each<[string, (lock: string) => void, RegExp]>([
  [
    'a folder for the lock',
    (lock) => mkdirSync(lock),
    /server\.lock cannot be locked \(no plain file\)\. See that it is a plain/,
  ],
  ['a link for the lock', (lock) => symlinkSync('/nowhere', lock), /server\.lock cannot be locked \(no plain file\)/],
  ['no database for a lock', (lock) => writeFileSync(lock, 'x'.repeat(5000)), /cannot be locked \(SQLITE_NOTADB\)/],
])('refused, and not as another server: %s', async (_, spoil, message) => {
  const dataDir = join(folder, 'data');
  await initialiseServer({ dataDir });
  spoil(join(dataDir, 'server.lock'));
  await expect(start(dataDir)).rejects.toMatchObject({
    code: 'config.invalid',
    message: expect.stringMatching(message),
  });
});

test('two fleets do not share one PostgreSQL database', async () => {
  const databaseUrl = await freshDatabase();
  await initialiseServer({ dataDir: join(folder, 'one'), databaseUrl });
  await expect(initialiseServer({ dataDir: join(folder, 'two'), databaseUrl })).rejects.toMatchObject({
    code: 'config.invalid',
    message: expect.stringContaining('belongs to the fleet'),
  });
});

test('migrations are told with their times, and told as old the second time', async () => {
  await using server = await startTestServer();
  const { dataDir } = server;
  const { migrations } = await migrateServer({ dataDir });
  expect(migrations).toEqual(
    MIGRATIONS.map(({ number, name }) => ({ number, name, appliedAt: expect.any(Number), now: false })),
  );
  await expect(migrateServer({ dataDir: join(dataDir, 'nowhere') })).rejects.toMatchObject({ code: 'config.invalid' });
});

test('tokens are made, listed and revoked beside a running server, at once', async () => {
  await using server = await startTestServer();
  const { dataDir } = server;
  const text = await issueToken({ dataDir, role: 'operator', name: 'ci', ttlSec: 60 });
  expect(text).toMatch(/^eyJ[A-Za-z0-9_-]+\.eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{86}$/);
  expect((await server.withToken(text).send(listAgents)).status).toBe(200);
  const [made] = await listTokens({ dataDir });
  expect(made).toMatchObject({ name: 'ci', role: 'operator', revoked_at: null });
  await revokeToken({ dataDir, id: made?.id ?? '' });
  expect((await server.withToken(text).send(listAgents)).status).toBe(401);
  await expect(revokeToken({ dataDir, id: 'nobody' })).rejects.toMatchObject({ code: 'access.unknown_token' });
  const join_ = parseJoinToken(await issueJoinToken({ dataDir, ttlSec: 60, uses: 3, site: 'fra', labels: { a: '1' } }));
  expect(await listJoinTokens({ dataDir })).toMatchObject([
    { id: join_.id, uses: 3, used: 0, site: 'fra', labels: { a: '1' } },
  ]);
  for (const name of readdirSync(dataDir).filter((one) => one.startsWith('aegis.db'))) {
    const bytes = readFileSync(join(dataDir, name));
    for (const part of text.split('.').slice(1)) expect(bytes.includes(part)).toBe(false);
    expect(bytes.includes(join_.secret)).toBe(false);
  }
});

test('anyone may read the trust bundle, which the root signed', async () => {
  await using server = await startTestServer();
  const { trust_bundle, root_fingerprint } = await server.as('anyone').call(showTrust);
  const { bundle } = openTrustBundle(trust_bundle, server.running.rootFingerprint, Date.now());
  expect({ fleet: bundle.fleet, root: root_fingerprint }).toEqual({
    fleet: server.running.fleet,
    root: server.running.rootFingerprint,
  });
});
