import { createToken, revokeToken } from '@aegis/protocol/access/endpoints';
import { apiPatchNode } from '@aegis/protocol/nodes/endpoints';
import { sql } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { waitFor } from '../../../test/faults/wait.ts';
import { freePort } from '../../../test/fleet/free-port.ts';
import { type EnrolledNode, startTestServer, type TestServer } from '../../server/test/start-test-server.ts';
import { cliOfFile } from './cli-process.ts';
import { scriptedServer } from './scripted-server.ts';

/** `aegis events` with the real server. */

const cli = cliOfFile();
let server: TestServer;
let node: EnrolledNode;
let env: Record<string, string>;
let tokenId: string;
beforeAll(async () => {
  server = await startTestServer({ config: { listen: [`127.0.0.1:${await freePort()}=all`] } });
  const { token, id } = await server.as('admin').call(createToken, { body: { name: 'cli', role: 'viewer' } });
  tokenId = id;
  env = { AEGIS_SERVER: server.url, AEGIS_TOKEN: token };
  node = await server.enrol('web-1');
});
afterAll(() => server?.close());
const maintain = (maintenance: boolean) =>
  server.as('admin').call(apiPatchNode, { params: { id: node.uid }, body: { maintenance } });

/** What it has written so far. */
const running = (args: readonly string[], url = server.url) => {
  const child = cli.start(['events', '-f', ...args], { ...env, AEGIS_SERVER: url });
  const said = { out: '', err: '' };
  child.stdout?.on('data', (piece) => (said.out += String(piece)));
  child.stderr?.on('data', (piece) => (said.err += String(piece)));
  const ended = new Promise<number | null>((resolve) => child.once('exit', resolve));
  return { said, ended, child, lines: () => said.out.split('\n').slice(0, -1) };
};

test('as it happens, across a restart of the server, from where it began; Ctrl-C ends it; a script goes on from the last id', async () => {
  const following = running(['--json', '--type', 'node.maintenance', '--reconnect-for', '60']);
  await waitFor('it to listen', () => server.running.events.streams.size() > 0);
  await maintain(true);
  await waitFor('the first', () => following.lines().length === 1);
  await server.restart();
  await maintain(false);
  await waitFor('the second', () => following.lines().length === 2);
  following.child.kill('SIGINT');
  expect(await following.ended).toBe(0);
  const told = following.lines().map((line) => JSON.parse(line));
  expect(told.map(({ type, node: name, maintenance }) => [type, name, maintenance])).toEqual([
    ['node.maintenance', 'web-1', true],
    ['node.maintenance', 'web-1', false],
  ]);
  const later = await cli.text(['events', '--json', '--from', told[0].id], { env });
  expect(later).toEqual({ code: 0, stdout: `${following.lines()[1]}\n`, stderr: '' });
  const shown = await cli.text(['events', '--node', 'web-1'], { env });
  expect(shown.stdout.split('\n').map((line) => line.replace(/^\S+ /, ''))).toEqual([
    'node.enrolled            web-1',
    'node.maintenance         web-1            maintenance=true',
    'node.maintenance         web-1',
    '',
  ]);
});

test('a connection that is lost before anything happened goes on from where it began', async () => {
  const asked: (string | null)[] = [];
  await using scripted = await scriptedServer({
    'GET /api/v1/events': ({ query }, response) => {
      asked.push(query.get('from'));
      const line =
        asked.length === 1 ? { type: 'position', id: '41' } : { type: 'node.online', id: '42', node: 'web-1' };
      response.writeHead(200, { 'content-type': 'application/x-ndjson' }).write(`${JSON.stringify(line)}\n`);
      if (asked.length === 1) setTimeout(() => response.destroy(), 200);
    },
  });
  const following = running(['--json'], scripted.url);
  await waitFor('the event', () => following.lines().length === 1);
  following.child.kill('SIGINT');
  expect(await following.ended).toBe(0);
  expect([asked, following.said]).toEqual([
    [null, '41'],
    { out: '{"type":"node.online","id":"42","node":"web-1"}\n', err: '' },
  ]);
});

test('a gap is said, on stderr or as a line', async () => {
  const { rows } = await sql<{ id: number }>`select id from events order by id`.execute(server.running.storage.read);
  const [first, second] = rows;
  if (!first || !second) throw new Error('there are events');
  await server.running.storage.write('test', async (tx) => {
    await tx.deleteFrom('events').where('id', '<=', second.id).execute();
    await tx.updateTable('events_floor').set({ removed_through: second.id }).execute();
  });
  const from = String(first.id);
  const text = await cli.text(['events', '--from', from], { env });
  expect(text.stderr).toBe(`aegis: gap: events after ${from} up to ${second.id} are not kept any more.\n`);
  const json = await cli.text(['events', '--from', from, '--json'], { env });
  expect(json.stdout.split('\n')[0]).toBe(`{"type":"gap","from":"${from}","reason":"retention","id":"${second.id}"}`);
});

test('mistakes: a type that is none, a node that is none, an id that is none', async () => {
  const said = async (...args: string[]) => {
    const { code, stderr, stdout } = await cli.text(['events', ...args], { env });
    return [code, stdout, stderr];
  };
  expect(await said('--type', 'nodes')).toEqual([2, '', expect.stringContaining('types or groups of types')]);
  expect(await said('--node', 'web-9')).toEqual([1, '', "aegis: No node 'web-9'. See 'aegis nodes list'.\n"]);
  expect(await said('--from', 'x')).toEqual([2, '', expect.stringContaining('from')]);
});

test('a token that is revoked ends it', async () => {
  const following = running([]);
  await waitFor('it to listen', () => server.running.events.streams.size() > 0);
  await server.as('admin').call(revokeToken, { params: { id: tokenId } });
  expect(await following.ended).toBe(1);
  expect(following.said.err).toContain('This operator token is not good');
});
