import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  artifactsForHost,
  assignArtifact,
  deleteArtifact,
  listArtifacts,
  unassignArtifact,
} from '@aegis/protocol/artifacts/endpoints';
import { expect, test } from 'vitest';
import { bundle, publish } from '../../packages/server/test/artifacts-support.ts';
import { faultsIn } from '../fleet/database.ts';
import { mortalServer } from '../fleet/mortal-server.ts';

/** The server dies at each commit, each step of a blob and each answer of an artifact's life on it. The points enumerate themselves. Each life
 *  meets every fourth of them; under AEGIS_LONG each point has a life of its own. */

test('published, assigned, taken off and deleted: whenever the server dies, a careful client ends where it wanted to', async () => {
  await using mortal = mortalServer();
  const { dataDir, folder, server, start, surely } = mortal;
  const dev = mortal.client();
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
  const node = await mortal.enrol('n');
  await server.kill9();
  const trace = join(folder, 'trace');
  await start({ AEGIS_CRASH_TRACE: trace });
  await life('traced');
  // The audit's own commits have audit-crash.test.ts.
  const points = readFileSync(trace, 'utf8')
    .trim()
    .split('\n')
    .filter((point) => !point.includes('access.audit'));
  expect(points).toEqual(
    expect.arrayContaining(['server.blob-before-rename#1', 'server.after-commit.artifacts.assign#1']),
  );

  const missed = await mortal.dying(points, process.env.AEGIS_LONG ? points.length : 4, life, async (name, deaths) => {
    const { directives } = await node.call(artifactsForHost, { params: { host_id: node.uid } });
    const wishes = directives.map(({ payload }) => JSON.parse(Buffer.from(payload, 'base64').toString()) as object);
    // Two changes, however often they were asked for; nothing is left on the disk.
    expect([deaths, wishes.find((wish) => 'object_id' in wish && wish.object_id === name)]).toMatchObject([
      deaths,
      { generation: 2, body: { state: 'absent', name } },
    ]);
    expect([deaths, blobs(), (await dev.call(listArtifacts)).total]).toEqual([deaths, [], 0]);
  });
  expect(missed).toEqual([]);
  await server.stop();
  expect(faultsIn(dataDir)).toEqual([]);
}, 240_000);
