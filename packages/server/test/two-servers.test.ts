import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createToken, listKeys, revokeKey, revokeToken } from '@aegis/protocol/access/endpoints';
import { artifactBinary, assignArtifact, deleteArtifact } from '@aegis/protocol/artifacts/endpoints';
import { pollCommands } from '@aegis/protocol/commands/endpoints';
import { apiRetireNode, deactivateNode, listAgents } from '@aegis/protocol/nodes/endpoints';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { loadServerConfig } from '../src/config.ts';
import { startServer } from '../src/server.ts';
import { bundle, publish, registry, sentence, signatureOf } from './artifacts-support.ts';
import { create } from './backups-support.ts';
import { until } from './commands-support.ts';
import { freshDatabase } from './shared-postgres.ts';
import { type EnrolledNode, startTestServer, type TestServer } from './start-test-server.ts';

/** Two servers on one database and one data directory: what one changes holds at the other. */

let dataDir: string;
let one: TestServer;
let other: TestServer;
beforeEach(async () => {
  dataDir = mkdtempSync(join(tmpdir(), 'aegis-two-servers-'));
  const databaseUrl = await freshDatabase();
  one = await startTestServer({ dataDir, databaseUrl });
  other = await startTestServer({ dataDir, databaseUrl });
});
afterEach(async () => {
  await Promise.all([one.close(), other.close()]);
  rmSync(dataDir, { recursive: true, force: true });
});

/** The same node, at the other server. */
const at = (server: TestServer, node: EnrolledNode) => server.withToken(node.token);
/** A poll that waits longer than the test may take: what ends it is a wake-up. */
const held = async (server: TestServer, node: EnrolledNode) => {
  const { desired = 0 } = await at(server, node).call(pollCommands, { query: { wait: 0, desired: 0 } });
  const waiting = server.running.commands.dispatch.waiting();
  const answer = at(server, node).call(pollCommands, { query: { wait: 55, desired } });
  await until('the poll to wait', () => server.running.commands.dispatch.waiting() > waiting);
  return { before: desired, answer };
};

test('desired state that changes at one ends the poll that the other holds', async () => {
  const node = await one.enrol('web-1');
  const { publish: put, operator } = await registry(one);
  const artifact = await put('block', '1.0.0');
  const first = await held(other, node);
  await operator.call(assignArtifact, { params: { artifact_id: artifact.artifact_id, host_id: node.uid }, body: {} });
  expect((await first.answer).desired).toBe(first.before + 1);
  const second = await held(other, node);
  await create(one, { nodes: ['web-1'] });
  expect((await second.answer).desired).toBeGreaterThan(second.before);
});

test('bundles are published, fetched and deleted at either', async () => {
  const { publish: put, signer } = await registry(one);
  const artifact = await put('block', '1.0.0');
  const fetched = () => other.as('viewer').send(artifactBinary, { params: { id: artifact.artifact_id } });
  expect((await fetched()).status).toBe(200);
  // Both at once: one artifact, one file.
  const again = await bundle('drop', '1.0.0');
  const signature = signatureOf(again, signer);
  const both = await Promise.all([one, other].map((server) => publish(server.as('operator'), again, signature)));
  expect(both[0]?.artifact_id).toBe(both[1]?.artifact_id);
  await other.as('operator').call(deleteArtifact, { params: { id: artifact.artifact_id } });
  expect((await fetched()).status).toBe(404);
  expect(await one.running.artifacts.library.sweep()).toBe(0);
  const files = readdirSync(join(dataDir, 'blobs'), { recursive: true, encoding: 'utf8' });
  expect(files.filter((name) => /[0-9a-f]{64}$/.test(name))).toHaveLength(1);
});

test('keys that are added or revoked at one are so at the other, whoever changes them in turn', async () => {
  const { signer } = await registry(one);
  const made = await bundle('block', '1.0.0');
  await publish(other.as('operator'), made, signatureOf(made, signer));
  const keys = await registry(other); // another version of the trust bundle, made there
  const listed = async (server: TestServer) => (await server.as('admin').call(listKeys)).items.length;
  expect(await listed(one)).toBe(await listed(other));
  await one.as('admin').call(revokeKey, { params: { id: keys.signer.keys.keyId } });
  const next = await bundle('drop', '1.0.0');
  expect(await sentence(publish(other.as('operator'), next, signatureOf(next, keys.signer)))).toContain(
    'artifacts.revoked_signer',
  );
  expect(existsSync(join(dataDir, 'trust', '4.json'))).toBe(true);
});

test('a server on SQLite shares its directory with none', async () => {
  const { config } = loadServerConfig({ flags: { data_dir: dataDir, listen: ['127.0.0.1:0=all'] }, env: {} });
  await expect(startServer({ config })).rejects.toMatchObject({
    code: 'config.invalid',
    message: expect.stringContaining('Another server runs'),
  });
});

test('what must not overlap takes turns across servers, also after one of them failed', async () => {
  let inside = 0;
  let most = 0;
  const work = (server: TestServer, fails: boolean) =>
    server.running.storage.alone('test', async () => {
      most = Math.max(most, ++inside);
      await server.running.storage.ping();
      inside--;
      if (fails) throw new Error('as told');
    });
  const outcomes = await Promise.allSettled([one, other, one, other].map((server, at) => work(server, at % 2 === 0)));
  expect([most, outcomes.map(({ status }) => status)]).toEqual([1, ['rejected', 'fulfilled', 'rejected', 'fulfilled']]);
});

test('a token that is revoked at one is refused at the other by the next request', async () => {
  const { id, token } = await one.as('admin').call(createToken, { body: { name: 'short', role: 'viewer' } });
  await other.withToken(token).call(listAgents);
  await one.as('admin').call(revokeToken, { params: { id } });
  expect((await other.withToken(token).send(listAgents)).status).toBe(401);
});

test.each([
  ['retired', apiRetireNode, 'nodes.retired'],
  ['deactivated', deactivateNode, 'nodes.deactivated'],
] as const)('a poll that is held ends at once when its node is %s, at either', async (_, end, code) => {
  for (const [nth, at] of [one, other].entries()) {
    const node = await one.enrol(`web-${nth}`);
    const { answer } = await held(at, node);
    const refused = answer.then(
      () => 'answered',
      (error: { code: string }) => error.code,
    );
    await one.as('admin').call(end, { params: { id: node.uid } });
    expect(await refused).toBe(code);
    expect(at.running.commands.dispatch.waiting()).toBe(0);
  }
});

test('a node that is retired at one is refused at the other', async () => {
  const node = await one.enrol('web-1');
  const poll = () => at(other, node).send(pollCommands, { query: { wait: 0 } });
  expect((await poll()).status).toBe(200);
  await one.as('admin').call(apiRetireNode, { params: { id: node.uid } });
  await until('the other to refuse it', async () => (await poll()).status === 403);
});
