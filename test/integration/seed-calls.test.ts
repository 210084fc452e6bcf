import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { showTrust } from '@aegis/protocol/access/endpoints';
import { generateKeyPair } from '@aegis/protocol/access/keys';
import { VERSION } from '@aegis/protocol/version';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { bundle } from '../../packages/server/test/artifacts-support.ts';
import { enrolThrough } from '../../packages/server/test/start-test-server.ts';
import { testClient } from '../../packages/server/test/test-client.ts';
import { type ManagedProcess, managedProcess } from '../faults/process.ts';
import { waitFor } from '../faults/wait.ts';
import { apiOf } from '../fleet/api.ts';
import { aegis, cleanEnv, root } from '../fleet/fleet.ts';
import { freePort } from '../fleet/free-port.ts';

/** The curl calls of the seed documents, to the letter but for ports and placeholders, against `aegis server start --dev`; and a poller in
 *  another language. */

let folder: string;
let url: string;
/** The doors that the seeds know as ports 8083 and 8090. */
let actions: string;
let registry: string;
let server: ManagedProcess;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'aegis-seed-'));
  const [port, actionsPort, registryPort] = [await freePort(), await freePort(), await freePort()];
  url = `http://127.0.0.1:${port}`;
  actions = `http://localhost:${actionsPort}`;
  registry = `http://localhost:${registryPort}`;
  const doors = [`127.0.0.1:${port}=all`, `127.0.0.1:${actionsPort}=actions`, `127.0.0.1:${registryPort}=registry`];
  server = managedProcess(
    'the server',
    [aegis, 'server', 'start', '--dev', ...doors.flatMap((door) => ['--listen', door]), '--json'],
    join(folder, 'server.log'),
    cleanEnv(folder),
  );
  await server.start();
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
});

const curl = (...args: string[]): unknown =>
  JSON.parse(execFileSync('curl', ['-sS', '--fail-with-body', ...args], { encoding: 'utf8' }));

test('register, submit and push logs with curl', () => {
  const json = ['-H', 'Content-Type: application/json'];
  const registered = curl(
    '-X',
    'POST',
    `${url}/v1/agents/register`,
    ...json,
    '-d',
    '{"node_id":"node-1","attrs":{"os":"ubuntu"}}',
  ) as {
    node_id: string;
    token: string;
  };
  expect(registered).toEqual({ node_id: 'node-1', token: expect.stringMatching(/^[\w-]+\.[\w-]+\.[\w-]+$/) });
  const submission = `{
    "command_type":"RunCommand",
    "targets":["node-1"],
    "payload":{"cmd":"ls -la /tmp","timeout_sec":120}
  }`;
  const submitted = curl('-X', 'POST', `${url}/v1/commands/submit`, ...json, '-d', submission) as {
    command_id: string;
  };
  expect(submitted).toMatchObject({ command_id: expect.any(String), state: 'pending', targets: [{ name: 'node-1' }] });
  const logs = (JWT: string) =>
    curl(
      '-X',
      'POST',
      `${url}/v1/commands/logs`,
      '-H',
      `Authorization: Bearer ${JWT}`,
      ...json,
      '-d',
      `{"command_id":"${submitted.command_id}","chunks":[{"offset":0,"stream":"stdout","data":"line1\\n"}]}`,
    );
  expect(logs(registered.token)).toEqual({ next: { stdout: 6, stderr: 0 } });
  expect(logs(registered.token)).toEqual({ next: { stdout: 6, stderr: 0 } });
});

test('create, assign, poll and download an artifact with curl; nothing that is unsigned is passed off as signed', async () => {
  const host = '192.168.193.129';
  const healthy = { status: 'healthy', timestamp: expect.any(String), version: VERSION };
  expect([curl(`${actions}/healthz`), curl(`${registry}/healthz`)]).toEqual([healthy, healthy]);
  const nothing = { artifacts: [], total: 0, directives: [], revision: 0, trust_version: 1 };
  expect(curl(`${registry}/artifacts/for-host/${host}`)).toEqual(nothing);
  expect(curl(`${registry}/artifacts/for-host/test`)).toEqual(nothing);

  const keys = generateKeyPair();
  const anyone = testClient(
    () => actions,
    async () => undefined,
  );
  const trust = (await testClient(
    () => url,
    async () => undefined,
  ).call(showTrust)) as { trust_bundle: { payload: string }; root_fingerprint: string };
  const { fleet } = JSON.parse(Buffer.from(trust.trust_bundle.payload, 'base64').toString()) as { fleet: string };
  const node = await enrolThrough(anyone, { host_id: host }, keys, undefined, {
    fleet,
    rootFingerprint: trust.root_fingerprint,
  });
  expect(curl(`${actions}/agents/${node.agent_uid}`)).toMatchObject({ name: host, status: 'online' });

  const outer = {
    name: 'block-icmp-8888',
    version: '1.0.0',
    description: 'Block ICMP ping traffic to 8.8.8.8',
    type: 'program',
    architecture: 'x86_64',
    kernel_version: '5.4.0',
    metadata: { policy_type: 'network_block', target_ip: '8.8.8.8', protocol: 'icmp', direction: 'egress' },
    tags: ['network', 'security', 'icmp'],
  } as const;
  const { bytes } = await bundle(outer.name, outer.version, { ...outer, tags: [...outer.tags] });
  const create = (data: string) =>
    curl(
      '-X',
      'POST',
      `${registry}/artifacts`,
      '-H',
      'Content-Type: application/json',
      '-d',
      `{
    "name": "block-icmp-8888",
    "version": "1.0.0",
    "description": "Block ICMP ping traffic to 8.8.8.8",
    "type": "program",
    "architecture": "x86_64",
    "kernel_version": "5.4.0",
    "metadata": {
      "policy_type": "network_block",
      "target_ip": "8.8.8.8",
      "protocol": "icmp",
      "direction": "egress"
    },
    "tags": ["network", "security", "icmp"],
    "data": "${data}"
  }`,
    );
  const created = create(bytes.toString('base64')) as { artifact_id: string };
  const artifact = {
    ...outer,
    artifact_id: expect.any(String),
    checksum: createHash('sha256').update(bytes).digest('hex'),
    size: bytes.length,
    signed: false,
    signature: null,
    signer: null,
    assigned: 0,
    created_at: expect.any(String),
    created_by: 'dev',
  };
  expect(created).toEqual(artifact);
  expect(create(bytes.toString('base64'))).toEqual(created);
  const artifact_123 = created.artifact_id;
  const assigned = curl('-X', 'POST', `${registry}/assign/${artifact_123}/${host}`);
  expect(assigned).toMatchObject({
    artifact_id: artifact_123,
    host,
    host_id: node.agent_uid,
    generation: 1,
    changed: true,
  });
  expect(curl(`${registry}/artifacts/for-host/${host}`)).toEqual({
    ...nothing,
    artifacts: [{ ...artifact, assigned: 1 }],
    total: 1,
    revision: 1,
  });
  const download = join(folder, 'artifact.tar.zst');
  execFileSync('curl', ['-sS', '--fail-with-body', '-o', download, `${registry}/artifacts/${artifact_123}/binary`]);
  expect(readFileSync(download)).toEqual(bytes);
  const detail = curl(`${registry}/artifacts/${artifact_123}`);
  expect(detail).toMatchObject({ ...artifact, assigned: 1, manifest: outer });
  expect(
    curl(
      '-X',
      'PUT',
      `${registry}/hosts/${artifact_123}`,
      '-H',
      'Content-Type: application/json',
      '-d',
      '{"hosts":[]}',
    ),
  ).toEqual({ added: [], removed: [host], unchanged: [] });
  expect(curl('-X', 'DELETE', `${registry}/unassign/${artifact_123}/${host}`)).toMatchObject({ generation: 2 });
  const refused = spawnSync('curl', ['-sS', '-X', 'POST', `${registry}/assign/artifact_123/${host}`], {
    encoding: 'utf8',
  });
  expect(JSON.parse(refused.stdout)).toMatchObject({ error: { code: 'artifacts.unknown_artifact' } });
  // Any page of a browser could send a form: without a credential none is taken.
  const form = spawnSync('curl', ['-sS', '-F', `bundle=@${download}`, `${registry}/artifacts`], { encoding: 'utf8' });
  expect(JSON.parse(form.stdout)).toMatchObject({ error: { code: 'access.unauthenticated' } });
});

test('seed 001: status, send and broadcast with curl, field for field', () => {
  const json = ['-H', 'Content-Type: application/json'];
  curl('-X', 'POST', `${url}/v1/agents/register`, ...json, '-d', '{"node_id":"agent-1","attrs":{}}');
  expect(curl(`${url}/api/v1/agents/agent-1/status`)).toEqual({
    agent_id: 'agent-1',
    connected: false,
    last_seen: expect.stringMatching(/Z$/),
    channels: [],
    session_expires: null,
  });
  for (const type of ['request', 'response', 'event'])
    expect(
      curl(
        '-X',
        'POST',
        `${url}/api/v1/agents/agent-1/send`,
        ...json,
        '-d',
        `{"channel": "string", "message": {}, "message_type": "${type}"}`,
      ),
    ).toEqual({ message_id: expect.any(String), status: 'queued' });
  const answer = curl(
    '-X',
    'POST',
    `${url}/api/v1/agents/broadcast`,
    ...json,
    '-d',
    '{"channel": "string", "message": {}, "message_type": "event"}',
  ) as { message_id: string; sent_to: string[]; failed: string[] };
  expect(answer).toEqual({ message_id: expect.any(String), sent_to: [], failed: expect.arrayContaining(['agent-1']) });
});

test('a poller in Python registers, polls, acknowledges, sends output twice and reports', async () => {
  const api = apiOf(url, () => null);
  const poller = spawn('python3', [join(root, 'test/poller/poller.py'), url, 'snake', '2'], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: cleanEnv(folder),
  });
  const ended = new Promise<number | null>((resolve) => poller.once('exit', resolve));
  let said = '';
  poller.stdout.on('data', (bytes: Buffer) => {
    said += bytes.toString('utf8');
  });
  await waitFor('the poller to be registered', async () => {
    const { body } = await api.call('GET', '/agents?limit=1000');
    return (body as { agents: { name: string }[] }).agents.some(({ name }) => name === 'snake');
  });
  const submit = (cmd: string) =>
    api.submit({ command_type: 'RunCommand', targets: ['snake'], payload: { cmd, timeout_sec: 20 } });
  const good = await submit('seq 1 1000; printf "\\377" >&2');
  const bad = await submit('exit 7');
  expect((await good.finished())[0]).toMatchObject({
    state: 'succeeded',
    exit_code: 0,
    output_verified: true,
    report_signed: false,
  });
  expect((await bad.finished())[0]).toMatchObject({ state: 'failed', exit_code: 7 });
  const lines = Array.from({ length: 1000 }, (_, index) => `${index + 1}\n`).join('');
  expect(await good.stored('stdout')).toEqual({
    bytes: lines.length,
    sha256: createHash('sha256').update(lines).digest('hex'),
  });
  expect(await good.stored('stderr')).toEqual({
    bytes: 1,
    sha256: createHash('sha256')
      .update(Buffer.from([0xff]))
      .digest('hex'),
  });
  expect(await ended).toBe(0);
  const next = { stdout: lines.length, stderr: 1 };
  expect(
    said
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line)),
  ).toEqual([
    { next, again: next, exit_code: 0 },
    { next: { stdout: 0, stderr: 0 }, again: { stdout: 0, stderr: 0 }, exit_code: 7 },
  ]);
});
