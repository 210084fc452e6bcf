import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { addKey, listKeys, revokeKey } from '@aegis/protocol/access/endpoints';
import { parseStrictJson } from '@aegis/protocol/access/strict-json';
import {
  assignArtifact,
  deleteArtifact,
  postStatus,
  putHosts,
  unassignArtifact,
} from '@aegis/protocol/artifacts/endpoints';
import { apiRetireNode } from '@aegis/protocol/nodes/endpoints';
import { sql } from 'kysely';
import pg from 'pg';
import { describe, expect, test } from 'vitest';
import { waitFor } from '../../../test/faults/wait.ts';
import {
  blobsOf,
  bundle,
  directivesOf,
  forHost,
  publish,
  registry,
  renewToken,
  sentence,
  signatory,
  signatureOf,
} from './artifacts-support.ts';
import { STORAGES } from './commands-support.ts';
import { handClock, startTestServer } from './start-test-server.ts';

/** What a restored node, a wrong clock, a full disk and refused uploads do to the registry. */

test('a refused upload leaves no blob: of a version that is another one, or is one too many', async () => {
  await using server = await startTestServer({ config: { artifacts_max_artifacts: 2 } });
  const { operator, signer, publish: release } = await registry(server);
  const first = await release('a', '1.0.0');
  await operator.call(deleteArtifact, { params: { id: first.artifact_id } });
  const other = await bundle('a', '1.0.0', { description: 'another' });
  expect(await sentence(publish(operator, other, signatureOf(other, signer)))).toMatch(/^409 artifacts.version_taken/);
  expect(blobsOf(server)).toEqual([]);
  const kept = [await release('b', '1.0.0'), await release('b', '1.0.1')].map(({ checksum }) => checksum).sort();
  expect(await sentence(release('b', '1.0.2'))).toMatch(/artifacts.limit/);
  expect(blobsOf(server)).toEqual(kept);
});

test('a key for whose bundle the disk has no room is not added, and the server starts again', async () => {
  const dataDir = mkdtempSync(join(tmpdir(), 'aegis-full-'));
  const trust = join(dataDir, 'trust');
  mkdirSync(trust, { mode: 0o700 });
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=28k,mode=0700', 'tmpfs', trust]);
  try {
    await using server = await startTestServer({ dataDir });
    const admin = server.as('admin');
    let added = 1;
    let refused = '';
    for (; refused === ''; added++) {
      const public_key = signatory().publicKey;
      refused = await sentence(
        admin.call(addKey, { body: { name: `${'n'.repeat(120)}${added}`, public_key, usage: ['artifacts'] } }),
      );
      if (refused === 'it was not refused') refused = '';
      else added--;
    }
    expect(refused).toBe(
      "503 http.unavailable: The server's disk is full: nothing was stored. Free some space on it; then send the request again.",
    );
    await server.restart();
    expect((await admin.call(listKeys, { query: { limit: 1000 } })).items).toHaveLength(added);
    expect(readdirSync(trust).filter((name) => name.startsWith('.'))).toEqual([]);
  } finally {
    execFileSync('umount', [trust]);
    rmSync(dataDir, { recursive: true, force: true });
  }
});

test('what is published is read by nodes when it is assigned, however deep it is', async () => {
  await using server = await startTestServer();
  const { operator, publish: release } = await registry(server);
  const node = await server.enrol('web-1');
  const nested = (levels: number): unknown => (levels === 0 ? 1 : [nested(levels - 1)]);
  const withDepth = (levels: number) => ({
    maps: [{ name: 'm', keep: false, initial: [{ key: 1, value: nested(levels) }] }],
  });
  const { artifact_id } = await release('a', '1.0.0', withDepth(19));
  await operator.call(assignArtifact, { params: { artifact_id, host_id: 'web-1' } });
  const [envelope] = (await forHost(node)).directives;
  expect(parseStrictJson(Buffer.from(envelope?.payload ?? '', 'base64').toString())).toMatchObject({ object_id: 'a' });
  await expect(release('a', '1.0.1', withDepth(20))).rejects.toThrow('nested more than 24 levels deep');
});

describe.each(STORAGES)('%s', (storage) => {
  test('a node that was restored from before a confirmed unassignment is told of it again', async () => {
    await using server = await startTestServer({ storage });
    const { operator, publish: release } = await registry(server);
    const node = await server.enrol('web-1');
    const { artifact_id } = await release('a', '1.0.0');
    const address = { artifact_id, host_id: 'web-1' };
    await operator.call(assignArtifact, { params: address });
    await operator.call(unassignArtifact, { params: address });
    const report = (generation: number, state: 'attached' | 'detached') =>
      node.call(postStatus, {
        params: { id: artifact_id },
        body: { name: 'a', generation, state, at: new Date().toISOString() },
      });
    expect(await report(2, 'detached')).toEqual({ stored: true });
    const before = await forHost(node);
    expect(before.directives).toEqual([]);
    // Its disk is an older one: it has what it had then, and says so.
    expect(await report(1, 'attached')).toEqual({ stored: false });
    const after = await forHost(node);
    expect(after.revision).toBeGreaterThan(before.revision);
    expect(await directivesOf(server, node)).toEqual([
      expect.objectContaining({ generation: 3, object_id: 'a', body: { state: 'absent', name: 'a' } }),
    ]);
    expect(await report(1, 'attached')).toEqual({ stored: false });
    expect((await forHost(node)).revision).toBe(after.revision);
  });

  test('what a revoked key signed is taken off some of its nodes by their set, and put on none', async () => {
    await using server = await startTestServer({ storage });
    const { operator, signer, publish: release } = await registry(server);
    for (const name of ['web-1', 'web-2', 'web-3']) await server.enrol(name);
    const { artifact_id } = await release('a', '1.0.0');
    const put = (...hosts: string[]) => operator.call(putHosts, { params: { artifact_id }, body: { hosts } });
    await put('web-1', 'web-2');
    await server.as('admin').call(revokeKey, { params: { id: signer.minisignId } });
    expect(await sentence(put('web-1', 'web-2', 'web-3'))).toMatch(/artifacts.revoked_signer/);
    expect(await sentence(put('web-3'))).toMatch(/artifacts.revoked_signer/);
    expect(await put('web-2')).toEqual({ added: [], removed: ['web-1'], unchanged: ['web-2'] });
    expect(await put()).toEqual({ added: [], removed: ['web-2'], unchanged: [] });
  });

  test('what a clock of the future has issued is issued anew once it is right', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock });
    const { operator, publish: release } = await registry(server);
    const node = await server.enrol('web-1');
    const { artifact_id } = await release('a', '1.0.0');
    const ahead = 360 * 24 * 3_600_000; // less than a token lives
    clock.advance(ahead);
    await operator.call(assignArtifact, { params: { artifact_id, host_id: 'web-1' } });
    clock.advance(-ahead);
    const token = await renewToken(server, node, clock.now());
    const again = { ...node, ...server.withToken(token.token) };
    const [directive] = await directivesOf(server, again);
    expect(Date.parse(directive?.issued_at ?? '')).toBeLessThanOrEqual(clock.now());
    expect(directive?.generation).toBe(1);
  });
});

test('another server process assigns to a node while it is retired: nothing of it stays', async () => {
  await using server = await startTestServer({ storage: 'postgres' });
  const { operator, publish: release } = await registry(server);
  const node = await server.enrol('web-1');
  const [{ artifact_id: kept }, { artifact_id: late }] = [await release('a', '1.0.0'), await release('b', '1.0.0')];
  await operator.call(assignArtifact, { params: { artifact_id: kept, host_id: 'web-1' } });
  const other = new pg.Client({ connectionString: server.databaseUrl });
  await other.connect();
  try {
    await other.query('begin');
    await other.query('select * from artifacts_desired where node_uid = $1 for update', [node.uid]);
    await other.query(
      `insert into artifacts_assignments
       select node_uid, 'b', node_name, 1, 1, $1, assigned_at, assigned_by, directive_id, issued_at, 0, constants
       from artifacts_assignments where node_uid = $2`,
      [late, node.uid],
    );
    const retired = server.as('admin').call(apiRetireNode, { params: { id: 'web-1' } });
    await waitFor('the retirement to wait for the other process', async () => {
      const { rows } = await sql`
        select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()
      `.execute(server.running.storage.read);
      return rows.length > 0;
    });
    await other.query('commit');
    await retired;
  } finally {
    await other.end();
  }
  expect(await server.running.storage.read.selectFrom('artifacts_assignments').selectAll().execute()).toEqual([]);
});
