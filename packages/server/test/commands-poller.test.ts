import { expect, test } from 'vitest';
import { sha256 } from './commands-support.ts';
import { startTestServer } from './start-test-server.ts';

/** Written from the contract alone, with fetch and nothing of ours: what an independent poller in another language does. */

const json = { 'content-type': 'application/json' };

test('the three calls of seed 002 under --dev, placeholders substituted', async () => {
  await using server = await startTestServer({ config: { dev: true } });
  const registered = await fetch(`${server.url}/v1/agents/register`, {
    method: 'POST',
    headers: json,
    body: '{"node_id":"node-1","attrs":{"os":"ubuntu"}}',
  });
  expect(registered.status).toBe(200);
  const { token, ...node } = (await registered.json()) as { node_id: string; token: string };
  expect(node).toEqual({ node_id: 'node-1' });

  const submitted = await fetch(`${server.url}/v1/commands/submit`, {
    method: 'POST',
    headers: json,
    body: `{
      "command_type":"RunCommand",
      "targets":["node-1"],
      "payload":{"cmd":"ls -la /tmp","timeout_sec":120}
    }`,
  });
  expect(submitted.status).toBe(202);
  const command = (await submitted.json()) as { command_id: string; state: string; targets: { name: string }[] };
  expect([command.state, command.targets.map(({ name }) => name)]).toEqual(['pending', ['node-1']]);

  const pushed = await fetch(`${server.url}/v1/commands/logs`, {
    method: 'POST',
    headers: { ...json, authorization: `Bearer ${token}` },
    body: `{
      "command_id":"${command.command_id}",
      "chunks":[{"offset":0,"stream":"stdout","data":"line1\\n"}]
    }`,
  });
  expect([pushed.status, await pushed.json()]).toEqual([200, { next: { stdout: 6, stderr: 0 } }]);
});

test('the life of an independent poller: register, poll, acknowledge, logs, status', async () => {
  await using server = await startTestServer({ config: { dev: true } });
  const call = async (path: string, body?: unknown, token?: string) => {
    const answer = await fetch(`${server.url}${path}`, {
      ...(body === undefined ? {} : { method: 'POST', body: JSON.stringify(body) }),
      headers: { ...(body === undefined ? {} : json), ...(token ? { authorization: `Bearer ${token}` } : {}) },
    });
    // biome-ignore lint/suspicious/noExplicitAny: a poller in another language has no types either
    return (await answer.json()) as any;
  };
  const { token } = await call('/v1/agents/register', { node_id: '10.0.0.7', attrs: {} });
  const waiting = call('/v1/commands/poll?wait=30', undefined, token);
  const { command_id } = await call('/v1/commands/submit', {
    command_type: 'RunCommand',
    targets: ['10.0.0.7'],
    payload: { cmd: 'printf hello' },
  });
  const { commands } = await waiting;
  expect(commands.map((one: Record<string, unknown>) => [one.command_id, one.command_type, one.payload])).toEqual([
    [command_id, 'RunCommand', { cmd: 'printf hello', timeout_sec: 3600, grace_sec: 10 }],
  ]);
  const [{ execution_id }] = commands;
  expect(await call('/v1/commands/ack', { ids: [execution_id] }, token)).toEqual({ acknowledged: 1 });
  expect(await call('/v1/commands/poll', undefined, token)).toMatchObject({ commands: [] });
  await call('/v1/commands/status', { command_id, state: 'running', started_at: new Date().toISOString() }, token);
  await call('/v1/commands/logs', { command_id, chunks: [{ offset: 0, stream: 'stdout', data: 'hello' }] }, token);
  const status = {
    command_id,
    state: 'succeeded',
    exit_code: 0,
    finished_at: new Date().toISOString(),
    output: { stdout: { bytes: 5, sha256: sha256('hello') }, stderr: { bytes: 0, sha256: sha256('') } },
  };
  const done = { results: [{ execution_id, state: 'succeeded', next: { stdout: 5, stderr: 0 } }] };
  expect(await call('/v1/commands/status', status, token)).toEqual(done);
  expect(await call('/v1/commands/status', status, token)).toEqual(done); // its answer was lost: sent again
  expect(await call(`/api/v1/commands/${command_id}`)).toMatchObject({ state: 'succeeded', result: { succeeded: 1 } });
  expect((await call(`/api/v1/commands/${command_id}/executions`)).items).toMatchObject([
    { node: '10.0.0.7', exit_code: 0, output_verified: true, report_signed: false },
  ]);
  const log = await fetch(`${server.url}/api/v1/commands/${command_id}/logs?stream=stdout`, {
    headers: { accept: 'application/octet-stream' },
  });
  expect(await log.text()).toBe('hello');
});
