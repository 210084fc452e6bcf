import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Artifact, NodeArtifact } from '@aegis/protocol/artifacts/endpoints';
import type { KernelReport } from '@aegis/protocol/artifacts/status';
import { expect, test } from 'vitest';
import { waitFor } from '../../../test/faults/wait.ts';
import { serverApi } from '../src/api/client.ts';
import { readRemotely } from '../src/artifacts/remote-read.ts';
import { pause } from '../src/surroundings.ts';
import { standardOutput } from '../src/ui/output.ts';
import { cliOfFile, ran } from './cli-process.ts';
import {
  answer,
  chunk,
  ended,
  execution,
  LOGS,
  lines,
  refuse,
  reply,
  SUBMIT,
  scriptedServer,
  stream,
} from './scripted-server.ts';

/** What a real server says only on a bad day, and what a person sees on a terminal. */

const cli = cliOfFile();

const aegis = (args: readonly string[], url: string) => cli.text(args, { env: { AEGIS_SERVER: url }, cwd: cli.home });

const UID = '01981c2e-7f3a-7bd2-a4c1-3f0e8f1d2b6b';
const node = {
  uid: UID,
  agent_id: UID,
  name: 'web-1',
  state: 'active',
  status: 'online',
  maintenance: false,
  keyless: false,
  key_id: 'ab'.repeat(32),
  site: null,
  labels: {},
  attrs: {},
  capabilities: ['commands'],
  version: '0.1.0',
  os: 'Debian',
  kernel: '6.18.44',
  container_engine: null,
  last_seen: null,
  created_at: '2026-01-31T08:00:00.000Z',
  updated_at: '2026-01-31T08:00:00.000Z',
};
const kernel: KernelReport = {
  release: '6.18.44',
  architecture: 'x86_64',
  btf: true,
  bpffs: true,
  cgroup2: '/sys/fs/cgroup',
  jit: true,
  kinds: {
    xdp: { works: true, since: '4.8' },
    kprobe: { works: false, since: '4.1', reason: 'this kernel was built without kprobes\u001b[2J' },
  },
};

const FACTS = `name:         web-1
uid:          ${UID}
status:       online
state:        active
capabilities: commands
os:           Debian
kernel:       6.18.44
version:      0.1.0
key:          ${'ab'.repeat(32)}
created:      2026-01-31T08:00:00.000Z
`;

test('nodes show: the kernel report, none yet, and a server of an older release', async () => {
  const paths = { show: `GET /api/v1/agents/web-1`, kernel: `GET /api/v1/agents/${UID}/kernel` };
  let told: unknown = { kernel, reported_at: '2026-01-31T08:00:05.000Z' };
  await using server = await scriptedServer({
    [paths.show]: (_, response) => reply(response, node),
    [paths.kernel]: (_, response) =>
      told === null ? refuse(response, 404, 'http.not_found', 'Nothing is here.') : reply(response, told),
  });
  expect(await aegis(['nodes', 'show', 'web-1'], server.url)).toEqual({
    code: 0,
    stdout: `${FACTS}
eBPF kernel: 6.18.44 (x86_64)
reported:    2026-01-31T08:00:05.000Z
BTF:         yes
JIT:         on
bpffs:       mounted
cgroup v2:   /sys/fs/cgroup

KIND    WORKS  SINCE LINUX  WHY NOT
xdp     yes    4.8
kprobe  no     4.1          this kernel was built without kprobes
`,
    stderr: '',
  });
  const { stdout } = await aegis(['nodes', 'show', 'web-1', '--json'], server.url);
  expect(JSON.parse(stdout)).toEqual({
    ...node,
    kernel_report: kernel,
    kernel_reported_at: '2026-01-31T08:00:05.000Z',
  });
  for (const nothing of [{ kernel: null, reported_at: null }, null]) {
    told = nothing;
    expect(await aegis(['nodes', 'show', 'web-1'], server.url)).toEqual({
      code: 0,
      stdout: `${FACTS}\neBPF: the node has not reported which kinds work there.\n`,
      stderr: '',
    });
  }
});

const bundle = Buffer.from('not what it was');
const artifact: Artifact = {
  artifact_id: UID,
  name: 'block-icmp',
  version: '1.0.0',
  description: '',
  type: 'policy',
  architecture: 'any',
  kernel_version: '5.15',
  tags: [],
  metadata: {},
  checksum: createHash('sha256').update('what it was').digest('hex'),
  size: bundle.length,
  signed: true,
  signature: 'x',
  signer: null,
  assigned: 0,
  created_at: '2026-01-31T08:00:00.000Z',
  created_by: 'alice',
};
const list = (response: Parameters<typeof reply>[0]) =>
  reply(response, { artifacts: [artifact], total: 1, next_cursor: null });

test.each<[string, (response: Parameters<typeof reply>[0]) => void]>([
  ['other bytes', (response) => response.writeHead(200).end(bundle)],
  ['more bytes', (response) => response.writeHead(200).end(Buffer.alloc(1000))],
  [
    'a broken connection',
    (response) => {
      response.writeHead(200, { 'content-length': String(bundle.length) }).write('not');
      setImmediate(() => response.destroy());
    },
  ],
])('pull: %s are not what was asked for, and nothing is written', async (_, binary) => {
  await using server = await scriptedServer({
    'GET /artifacts': (_request, response) => list(response),
    [`GET /artifacts/${UID}/binary`]: (_request, response) => binary(response),
  });
  expect(await aegis(['artifacts', 'pull', 'block-icmp', '--no-verify'], server.url)).toEqual({
    code: 1,
    stdout: '',
    stderr: `aegis: What came as block-icmp@1.0.0 is not what it should be (SHA-256 ${artifact.checksum}); nothing was written. Try again.\n`,
  });
  expect(existsSync(join(cli.home, 'block-icmp-1.0.0.tar.zst'))).toBe(false);
});

const item = (name: string, state: NodeArtifact['state']): NodeArtifact => ({
  node: name,
  node_uid: UID.replace('b6b', `b6${name.at(-1)}`),
  online: true,
  name: 'block-icmp',
  version: '1.0.0',
  generation: 1,
  state,
  constants: {},
  report: null,
  reported_at: null,
});

test('status --watch on a pipe: changes, an outage, what is gone', async () => {
  let items: NodeArtifact[] = [item('web-1', 'pending'), item('web-2', 'attached')];
  let away = false;
  let asked = 0;
  await using server = await scriptedServer({
    'GET /api/v1/artifact-status': (_, response) => {
      asked++;
      if (away) refuse(response, 503, 'http.unavailable', 'Not now.');
      else reply(response, { items, next_cursor: null });
    },
  });
  const child = cli.start(['artifacts', 'status', '--watch'], { AEGIS_SERVER: server.url });
  let heard = '';
  let said = '';
  child.stdout?.on('data', (piece: Buffer) => {
    heard += String(piece);
  });
  child.stderr?.on('data', (piece: Buffer) => {
    said += String(piece);
  });
  const end = ran(child);
  await waitFor('both rows', () => heard.split('\n').length === 3);
  away = true;
  await waitFor('the outage', () => said.includes('lost the server'));
  away = false;
  items = [item('web-1', 'attached')];
  await waitFor('the change', () => heard.split('\n').length === 5);
  const before = asked;
  await waitFor('another look', () => asked > before + 1);
  child.kill('SIGINT');
  expect({ code: (await end).code, heard, said }).toEqual({
    code: 130,
    heard: `block-icmp  web-1  1.0.0  pending  -  0
block-icmp  web-2  1.0.0  attached  -  0
block-icmp  web-1  1.0.0  attached  -  0
block-icmp  web-2  gone
`,
    said: 'aegis: lost the server; trying to reach it again.\naegis: the server is back.\n',
  });
});

test('status --watch on a terminal: one screen, which is given back', async () => {
  let items: NodeArtifact[] = Array.from({ length: 20 }, (_, index) => item(`web-${index + 1}`, 'pending'));
  await using server = await scriptedServer({
    'GET /api/v1/artifact-status': (_, response) => reply(response, { items, next_cursor: null }),
  });
  const socket = join(cli.home, 'tmux.sock');
  const tmux = (...argv: string[]) =>
    execFileSync('tmux', ['-u', '-f', '/dev/null', '-S', socket, ...argv], {
      encoding: 'utf8',
      env: { PATH: process.env.PATH, HOME: cli.home, TERM: 'xterm-256color', AEGIS_SERVER: server.url },
    });
  const screen = () =>
    tmux('capture-pane', '-p')
      .trimEnd()
      .replace(/\d\d:\d\d:\d\d UTC/, '<time>');
  tmux('new-session', '-d', '-x', '60', '-y', '10', 'sh');
  try {
    tmux('set-option', '-g', 'status', 'off');
    tmux(
      'send-keys',
      `${process.execPath} ${join(cli.dist, 'aegis.cjs')} artifacts status --watch; echo ended $?`,
      'Enter',
    );
    const first = `ARTIFACT    NODE    VERSION  STATE    ATTACHED  DRIFT  NOTE
block-icmp  web-1   1.0.0    pending  -         0
block-icmp  web-2   1.0.0    pending  -         0
block-icmp  web-3   1.0.0    pending  -         0
block-icmp  web-4   1.0.0    pending  -         0
block-icmp  web-5   1.0.0    pending  -         0
… and 15 more

<time>  (Ctrl-C ends this)`;
    await waitFor('the first screen', () => screen() === first, 10_000, screen);
    items = [item('web-1', 'attached')];
    const second = `ARTIFACT    NODE   VERSION  STATE     ATTACHED  DRIFT  NOTE
block-icmp  web-1  1.0.0    attached  -         0

<time>  (Ctrl-C ends this)`;
    await waitFor('the change', () => screen() === second, 10_000, screen);
    tmux('send-keys', 'C-c');
    await waitFor('the shell', () => screen().includes('ended 130'), 10_000, screen);
    expect(tmux('display-message', '-p', '#{alternate_on} #{cursor_flag}').trim()).toBe('0 1');
  } finally {
    tmux('kill-server');
  }
});

const maps = ['artifacts', 'maps', 'block-icmp', '--node', 'web-1'];

test('maps: an offline node, a refusal of the node, an answer that is none', async () => {
  const asked = async (handle: ReturnType<typeof lines>) => {
    await using server = await scriptedServer({
      [SUBMIT]: (_, response) => reply(response, answer(1), 202),
      [LOGS]: (_, response) => stream(response, handle),
    });
    const told = await aegis(maps, server.url);
    expect(JSON.parse(server.requests[0]?.body ?? '')).toEqual({
      verb: 'artifacts.maps',
      args: { artifact: 'block-icmp', timeout_sec: 120 },
      targets: ['web-1'],
      ttl_sec: 60,
      output_limit_bytes: 1024 ** 3,
      idempotency_key: expect.any(String),
    });
    return told;
  };
  expect(await asked(lines(ended([execution('expired')], 'expired')))).toEqual({
    code: 1,
    stdout: '',
    stderr: "aegis: web-1: expired before the node took it. Is its daemon running? See 'aegis nodes show web-1'.\n",
  });
  const error = { code: 'commands.unsupported_type', message: "No command type 'artifacts.maps'." };
  expect(await asked(lines(ended([execution('refused', { error })], 'failed')))).toEqual({
    code: 2,
    stdout: '',
    stderr: "aegis: web-1: refused. No command type 'artifacts.maps'.\n",
  });
  const words = chunk('Segmentation fault\n', 0, { stream: 'stderr' });
  expect(await asked(lines([words, ...ended([execution('failed', { exit_code: 139 })], 'failed')]))).toEqual({
    code: 1,
    stdout: '',
    stderr: "aegis: web-1 could not be asked (Segmentation fault). See 'aegis nodes show web-1'.\n",
  });
});

test('--node takes one node', async () => {
  let cancelled = 0;
  await using server = await scriptedServer({
    [SUBMIT]: (_, response) => reply(response, answer(2), 202),
    [`POST /api/v1/commands/${answer(2).command_id}/cancel`]: (_, response) => {
      cancelled++;
      reply(response, {});
    },
  });
  expect(await aegis(['artifacts', 'maps', 'block-icmp', '--node', 'all'], server.url)).toEqual({
    code: 2,
    stdout: '',
    stderr: "aegis: --node takes one node, and 'all' is 2: name it.\n",
  });
  expect(cancelled).toBe(1);
});

test('what is more than one command keeps ends the reading, there too', async () => {
  let cancelled = 0;
  await using server = await scriptedServer({
    [SUBMIT]: (_, response) => reply(response, answer(1), 202),
    [LOGS]: (_, response) => {
      response.writeHead(200, { 'content-type': 'application/x-ndjson' }).write(lines([chunk('{"a":1}\n', 0)]));
    },
    [`POST /api/v1/commands/${answer(1).command_id}/cancel`]: (_, response) => {
      cancelled++;
      reply(response, {});
    },
  });
  const api = await serverApi({
    url: new URL(server.url),
    token: null,
    ca: null,
    fingerprint: null,
    client: null,
    proxy: {},
  });
  const heard: string[] = [];
  const read = readRemotely(
    api,
    {
      verb: 'artifacts.events',
      args: { artifact: 'exec-watch' },
      node: 'web-1',
      flags: { unsigned: true },
      mostBytes: 8,
      out: async (bytes) => void heard.push(String(bytes)),
      say: async () => undefined,
    },
    { env: {}, output: standardOutput({}), now: Date.now, pause },
  );
  await expect(read).rejects.toThrow(
    "More than 8 B came from web-1: start it again, or read it there with 'aegis daemon events'.",
  );
  api.close();
  expect({ heard, cancelled }).toEqual({ heard: ['{"a":1}\n'], cancelled: 1 });
});
