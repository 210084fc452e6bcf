import { execFile } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { parseJoinToken } from '@aegis/protocol/access/join-token';
import { expect, test } from 'vitest';
import { formsOf, foundInBytes, type Needles } from '../faults/secret-search.ts';
import { waitFor } from '../faults/wait.ts';
import { aegis, cleanEnv, startFleet } from '../fleet/fleet.ts';

/** Tokens, secrets and keys of the access domain, looked for wherever else they could turn up: logs at their loudest, command lines, lists,
 *  settings, the audit, the database. Real processes; every token is used well and badly before. */

const SECRET = 'a signing secret that is nowhere else, 48 bytes.';

/** What makes a token good: header and payload alone are in many places of a gateway, and say nothing; here not even they may be. */
const partsOf = (name: string, token: string): [string, Buffer][] =>
  token.startsWith('eyJ')
    ? token.split('.').flatMap((part, at) => (at === 0 ? [] : formsOf(`${name}, part ${at}`, part)))
    : formsOf(name, token);

test('no token, secret or key is anywhere but in the answer that makes it', async () => {
  await using fleet = await startFleet({
    nodes: 1,
    direct: true,
    env: { JWT_SIGNING_SECRET: SECRET, AEGIS_LOG_LEVEL: 'trace' },
  });
  const dataDir = join(fleet.folder, 'server');
  const env = cleanEnv(fleet.folder, {
    JWT_SIGNING_SECRET: SECRET,
    AEGIS_SERVER: fleet.url,
    AEGIS_TOKEN: fleet.token,
  });
  const shown: string[] = [];
  const cli = async (...argv: string[]): Promise<string> => {
    const { stdout, stderr } = await promisify(execFile)(aegis, argv, { env, maxBuffer: 64 * 1024 * 1024 });
    shown.push(stderr);
    return stdout;
  };
  const [node] = fleet.nodes;
  if (!node) throw new Error('no node');
  const must = async <T>(method: string, path: string, body?: unknown): Promise<T> => {
    const answer = await fleet.api.call(method, path, body);
    expect([path, answer.status < 300]).toEqual([path, true]);
    return answer.body as T;
  };

  // Made in every way.
  const byApi = await must<{ token: string }>('POST', '/api/v1/tokens', { name: 'api', role: 'operator' });
  const joinByApi = await must<{ join_token: string }>('POST', '/api/v1/join-tokens', {});
  const byCli = (
    JSON.parse(await cli('server', 'token', '--name', 'cli', '--data-dir', dataDir, '--json')) as { token: string }
  ).token;
  const joinByCli = (await cli('server', 'join-token', '--data-dir', dataDir)).trim();
  const keyless = await fetch(`${fleet.url}/v1/agents/register`, {
    method: 'POST',
    headers: { authorization: `Bearer ${joinByCli}`, 'content-type': 'application/json' },
    body: '{"node_id":"poller"}',
  });
  const pollerToken = ((await keyless.json()) as { token: string }).token;
  const { agent } = await must<{ agent: { apiKey: string } }>('POST', '/api/agent/register', {
    name: 'agent',
    platform: 'linux',
  });
  const nodeToken = (JSON.parse(readFileSync(join(node.dataDir, 'token.json'), 'utf8')) as { token: string }).token;

  const tokens: Record<string, string> = {
    'the admin token': fleet.token,
    'a token of the API': byApi.token,
    'a token of the CLI': byCli,
    'a node token': nodeToken,
    "a keyless poller's token": pollerToken,
    "an agent's API key": agent.apiKey,
    'a join token of the API': parseJoinToken(joinByApi.join_token).secret,
    'a join token of the CLI': parseJoinToken(joinByCli).secret,
    'the signing secret': SECRET,
  };
  for (const [name, value] of Object.entries(
    JSON.parse(readFileSync(join(dataDir, 'keys', 'secrets.json'), 'utf8')) as Record<string, string>,
  ))
    tokens[`secrets.json ${name}`] = value;
  for (const file of readdirSync(join(dataDir, 'keys')).filter((one) => one.endsWith('.pem')))
    tokens[file] =
      readFileSync(join(dataDir, 'keys', file), 'utf8')
        .split('\n')[1]
        ?.slice(-43) ?? '';

  // Used well, badly, and in the wrong places.
  for (const token of [fleet.token, byApi.token, byCli, nodeToken, pollerToken, agent.apiKey, joinByApi.join_token])
    for (const [path, headers] of [
      ['/api/v1/agents', { authorization: `Bearer ${token}` }],
      ['/v1/commands/poll?wait=0', { authorization: `Bearer ${token}` }],
      ['/api/v1/tokens', { authorization: `Bearer ${token.slice(0, -2)}` }],
      ['/api/v1/tokens', { authorization: `Basic ${token}` }],
      ['/api/v1/tokens', { 'x-agent-api-key': token }],
      [`/api/v1/agents?token=${token}&access_token=${token}`, {}],
      [`/api/v1/agents/${token}`, { authorization: `Bearer ${fleet.token}` }],
      [`/nowhere/${token}`, { cookie: `token=${token}`, 'x-request-id': token, 'user-agent': token }],
    ] as const) {
      const answer = await (await fetch(`${fleet.url}${path}`, { headers })).text();
      if (!path.includes(token)) shown.push(answer); // who asks for a name is told that name
    }
  await fetch(`${fleet.url}/api/v1/tokens/${byCli}`, {
    method: 'DELETE',
    headers: { authorization: `Bearer ${fleet.token}` },
  });
  const run = await fleet.api.submit({ targets: 'web-1', command_type: 'RunCommand', payload: { cmd: 'echo done' } });
  await run.finished();
  await node.daemon.kill9();
  await node.daemon.start();
  await waitFor(
    'the node to be back',
    async () => (await fleet.api.call('GET', '/api/v1/agents/web-1')).status === 200,
  );

  // Wherever they could be.
  for (const argv of [
    ['server', 'config', '--data-dir', dataDir, '--json'],
    ['server', 'token', 'list', '--data-dir', dataDir, '--json'],
    ['daemon', 'config', '--data-dir', node.dataDir, '--json'],
    ['daemon', 'status', '--data-dir', node.dataDir, '--json'],
    ['nodes', 'list', '--json'],
    ['access', 'audit', 'list', '--json'],
    ['access', 'audit', 'export'],
  ])
    shown.push(await cli(...argv));
  for (const path of ['/api/v1/tokens', '/api/v1/join-tokens', '/api/v1/agents', '/openapi.json'])
    shown.push(JSON.stringify((await fleet.api.call('GET', path)).body));
  const needles: Needles = new Map(Object.entries(tokens).flatMap(([name, token]) => partsOf(name, token)));
  const places: Record<string, Buffer> = {
    'what was answered': Buffer.from(shown.join('\n')),
    'the log of the server': readFileSync(join(fleet.folder, 'server.log')),
    'the log of the node': readFileSync(join(fleet.folder, 'web-1.log')),
    "the server's command line": readFileSync(`/proc/${fleet.server.pid}/cmdline`),
    "the node's command line": readFileSync(`/proc/${node.daemon.pid}/cmdline`),
    'the database': Buffer.concat(
      readdirSync(dataDir)
        .filter((name) => name.startsWith('aegis.db'))
        .map((name) => readFileSync(join(dataDir, name))),
    ),
  };
  expect(
    Object.fromEntries(Object.entries(places).map(([name, bytes]) => [name, foundInBytes(bytes, needles)])),
  ).toEqual(Object.fromEntries(Object.keys(places).map((name) => [name, []])));
  // They are found where they are.
  expect(foundInBytes(Buffer.from(byApi.token), needles)).toEqual([
    'a token of the API, part 1',
    'a token of the API, part 2',
  ]);
  expect(places['the log of the server']?.length).toBeGreaterThan(10_000);
}, 120_000);
