import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { showTrust } from '@aegis/protocol/access/endpoints';
import { generateKeyPair } from '@aegis/protocol/access/keys';
import {
  artifactsForHost,
  assignArtifact,
  deleteArtifact,
  listArtifacts,
  unassignArtifact,
} from '@aegis/protocol/artifacts/endpoints';
import { expect, test } from 'vitest';
import { bundle, publish } from '../../packages/server/test/artifacts-support.ts';
import { enrolThrough } from '../../packages/server/test/start-test-server.ts';
import { Refused, testClient } from '../../packages/server/test/test-client.ts';
import { managedProcess } from '../faults/process.ts';
import { waitFor } from '../faults/wait.ts';
import { faultsIn } from '../fleet/database.ts';
import { cleanEnv, root } from '../fleet/fleet.ts';

/** The server dies at each commit, each step of a blob and each answer of an artifact's life on it. The points enumerate themselves. */

test('published, assigned, taken off and deleted: whenever the server dies, a careful client ends where it wanted to', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'aegis-publish-crash-'));
  const dataDir = join(folder, 'data');
  const flags = JSON.stringify({ dev: true, data_dir: dataDir, listen: ['127.0.0.1:0=all'] });
  await using server = managedProcess(
    'the server',
    [process.execPath, join(root, 'packages/server/test/server-process.ts'), flags],
    join(folder, 'server.log'),
    cleanEnv(folder),
  );
  let url = '';
  const start = async (env: Record<string, string> = {}): Promise<void> => {
    const ready = (await server.start(env)) as { addresses: { all: string } } | null;
    if (ready) url = ready.addresses.all;
  };
  const dev = testClient(
    () => url,
    async () => undefined,
  );
  /** Again until it is answered, as whoever got no answer does. What a repeat finds done is done. */
  const surely = async (what: string, work: () => Promise<unknown>, doneCode?: string): Promise<void> => {
    await waitFor(what, async () => {
      if (!server.running) await start();
      try {
        await work();
        return true;
      } catch (error) {
        if (!(error instanceof Refused)) return false;
        if (error.code === doneCode) return true;
        if (error.status === 503) return false;
        throw error;
      }
    });
  };
  const life = async (name: string): Promise<void> => {
    const made = await bundle(name, '1.0.0');
    let id = '';
    await surely('published', async () => {
      id = (await publish(dev, made)).artifact_id;
    });
    const params = { artifact_id: id, host_id: 'n' };
    await surely('assigned', () => dev.call(assignArtifact, { params, body: {} }));
    await surely('taken off', () => dev.call(unassignArtifact, { params }));
    await surely('deleted', () => dev.call(deleteArtifact, { params: { id } }), 'artifacts.unknown_artifact');
  };
  const blobs = (): string[] =>
    readdirSync(join(dataDir, 'blobs'), { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => entry.name);

  await start();
  const trust = await dev.call(showTrust);
  const { fleet } = JSON.parse(Buffer.from(trust.trust_bundle.payload, 'base64').toString()) as { fleet: string };
  const identity = { fleet, rootFingerprint: trust.root_fingerprint };
  const { token, agent_uid } = await enrolThrough(dev, { host_id: 'n' }, generateKeyPair(), undefined, identity);
  const node = testClient(
    () => url,
    async () => token,
  );
  await server.kill9();
  const trace = join(folder, 'trace');
  await start({ AEGIS_CRASH_TRACE: trace });
  await life('traced');
  const points = readFileSync(trace, 'utf8').trim().split('\n');
  expect(points).toEqual(
    expect.arrayContaining(['server.blob-before-rename#1', 'server.after-commit.artifacts.assign#1']),
  );

  for (const [index, point] of points.entries()) {
    await server.kill9();
    await start({ AEGIS_CRASH_AT: point });
    const name = `life-${index}`;
    await life(name);
    if (server.running) await server.kill9();
    await start();
    const { directives } = await node.call(artifactsForHost, { params: { host_id: agent_uid } });
    const wishes = directives.map(({ payload }) => JSON.parse(Buffer.from(payload, 'base64').toString()) as object);
    // Two changes, however often they were asked for; nothing is left on the disk.
    expect([point, wishes.find((wish) => 'object_id' in wish && wish.object_id === name)]).toMatchObject([
      point,
      { generation: 2, body: { state: 'absent', name } },
    ]);
    expect([point, blobs(), (await dev.call(listArtifacts)).total]).toEqual([point, [], 0]);
  }
  await server.stop();
  expect(faultsIn(dataDir)).toEqual([]);
  rmSync(folder, { recursive: true, force: true });
}, 240_000);
