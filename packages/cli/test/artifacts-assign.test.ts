import { postStatus } from '@aegis/protocol/artifacts/endpoints';
import type { StatusReport } from '@aegis/protocol/artifacts/status';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { waitFor } from '../../../test/faults/wait.ts';
import { ran, refused } from './cli-process.ts';
import { type RegistryStage, registryStage } from './registry-stage.ts';

/** Assignments through the real server; nodes are enrolled for real, and what they report is said by the test. */

let stage: RegistryStage;
beforeAll(async () => {
  stage = await registryStage();
  expect(await stage.aegis('access', 'keys', 'add', 'release.pub', '--usage', 'artifacts')).toMatchObject({ code: 0 });
  for (const version of ['1.0.0', '1.1.0', '2.0.0-rc.1']) await stage.push(version);
});
afterAll(() => stage?.[Symbol.asyncDispose]());

const aegis = (...args: string[]) => stage.aegis(...args);
const artifacts = (...args: string[]) => stage.artifacts(...args);

test('assign: who gets it, with which settings, and what was there', async () => {
  expect(await aegis('assign', 'block-icmp')).toEqual(
    refused('Name an artifact and at least one node: aegis assign ARTIFACT NODE…'),
  );
  expect(await aegis('assign', '--set', 'x', 'block-icmp', 'web-1')).toEqual(refused('--set x: write NAME=VALUE.'));
  expect(await aegis('assign', '--set', 'a=1', '--set', 'a=2', 'block-icmp', 'web-1')).toEqual(
    refused("--set gives 'a' twice."),
  );
  expect(await aegis('assign', 'block-icmp', 'nobody')).toEqual(
    refused("No node named 'nobody'. See 'aegis nodes list'."),
  );
  const codeOf = async (...args: string[]) => {
    const { code, stderr } = await aegis('assign', ...args, '--json');
    return [code, (JSON.parse(stderr) as { error: { code: string } }).error.code];
  };
  expect(await codeOf('--set', 'target=1', 'block-icmp', 'web-1')).toEqual([2, 'artifacts.unknown_constant']);
  expect(await codeOf('--set', 'target_ip=me', 'block-icmp', 'web-1')).toEqual([2, 'artifacts.bad_constant']);
  expect(await codeOf('nothing', 'web-1')).toEqual([1, 'artifacts.unknown_artifact']);
  expect(await aegis('assign', '--dry-run', 'block-icmp@1.1.0', 'web-1', 'web-2')).toEqual({
    code: 0,
    stdout: 'NODE   ARTIFACT          CHANGE\nweb-1  block-icmp@1.1.0  new\nweb-2  block-icmp@1.1.0  new\n',
    stderr: 'aegis: dry run: nothing was changed on 2 nodes.\n',
  });
  expect(await aegis('assign', 'block-icmp@1.1.0', 'web-1', 'web-2')).toEqual({
    code: 0,
    stdout: 'NODE   ARTIFACT          CHANGE\nweb-1  block-icmp@1.1.0  new\nweb-2  block-icmp@1.1.0  new\n',
    stderr: '',
  });
  expect((await aegis('assign', 'block-icmp@1.1.0', 'all')).stdout).toBe(
    'NODE   ARTIFACT          CHANGE\nweb-1  block-icmp@1.1.0  unchanged\nweb-2  block-icmp@1.1.0  unchanged\nweb-3  block-icmp@1.1.0  new\n',
  );
  expect((await aegis('assign', '--set', 'target_ip=192.0.2.9', 'block-icmp@1.1.0', 'web-1')).stdout).toBe(
    'NODE   ARTIFACT          CHANGE\nweb-1  block-icmp@1.1.0  other settings\n',
  );
  const { stdout } = await aegis('assign', '--json', '--set', 'target_ip=192.0.2.9', 'block-icmp@1.0.0', 'web-1');
  expect(JSON.parse(stdout)).toMatchObject({
    artifact: { name: 'block-icmp', version: '1.0.0' },
    assignments: [
      {
        host: 'web-1',
        version: '1.0.0',
        previous_version: '1.1.0',
        generation: 3,
        changed: true,
        constants: { target_ip: '192.0.2.9' },
      },
    ],
  });
  const taken = await artifacts('delete', 'block-icmp@1.0.0', '--yes', '--json');
  expect({ code: taken.code, error: JSON.parse(taken.stderr).error.code }).toEqual({
    code: 1,
    error: 'artifacts.assigned',
  });
});

const report = (node: string, version: string, generation: number, more: Partial<StatusReport> = {}) =>
  stage.nodes.get(node)?.call(postStatus, {
    params: { id: stage.idOf(version) },
    body: {
      name: 'block-icmp',
      version,
      generation,
      state: 'attached',
      at: '2026-01-31T08:00:00.000Z',
      attachments: [{ program: 'drop_icmp', hook: 'tc egress on eth0', state: 'attached', interface: 'eth0' }],
      maps: [],
      drift: [],
      ...more,
    },
  });

test('status: a row for each node, with the reason of what failed', async () => {
  await report('web-2', '1.1.0', 1, {
    attachments: [
      { program: 'drop_icmp', hook: 'tcx egress on eth*', state: 'attached', interface: 'eth1' },
      { program: 'drop_icmp', hook: 'tcx egress on wg0', state: 'waiting', reason: 'there is no interface wg0' },
    ],
    drift: [{ at: '2026-01-31T08:00:00.000Z', what: 'link_missing', detail: 'x', repaired: true }],
  });
  await report('web-3', '1.1.0', 1, {
    state: 'failed',
    attachments: [],
    reason: { code: 'artifacts.load_failed', message: 'The verifier refuses it: R1 invalid mem access.' },
    verifier_log: '0: (b7) r0 = 0\n',
  });
  expect(await artifacts('status')).toEqual({
    code: 0,
    stdout: `ARTIFACT    NODE   VERSION  STATE     ATTACHED  DRIFT  NOTE
block-icmp  web-1  1.0.0    pending   -         0
block-icmp  web-2  1.1.0    attached  1/2       1      tcx egress on wg0 (there is no interface wg0)
block-icmp  web-3  1.1.0    failed    -         0      artifacts.load_failed: The verifier refuses it: R1 invalid mem access.
`,
    stderr: '',
  });
  const one = await artifacts('status', 'block-icmp@1.1.0', '--node', 'web-3', '--json');
  expect(JSON.parse(one.stdout)).toMatchObject({
    items: [{ node: 'web-3', state: 'failed', report: { verifier_log: '0: (b7) r0 = 0\n' } }],
  });
});

test('--wait: failed at once, not done in time, done', async () => {
  const failed = await artifacts('status', 'block-icmp', '--node', 'web-3', '--wait');
  expect({ code: failed.code, stderr: failed.stderr }).toEqual({
    code: 1,
    stderr: "aegis: failed on web-3. 'aegis artifacts status block-icmp' says why.\n",
  });
  const late = await aegis('assign', '--wait', '--timeout', '0.3s', 'block-icmp@1.1.0', 'web-1');
  expect({ code: late.code, stderr: late.stderr }).toEqual({
    code: 1,
    stderr:
      "aegis: not done on web-1 after 0.3s; it goes on. 'aegis artifacts status block-icmp --watch' follows it.\n",
  });
  expect(await aegis('assign', '--wait', '--timeout', 'soon', 'block-icmp@1.1.0', 'web-1')).toEqual(
    refused('--timeout soon: write a time such as 90s, 5m or 1h.'),
  );
  const child = stage.author.cli.start(['artifacts', 'status', '--node', 'web-1', '--wait', '--json'], stage.env);
  const result = ran(child);
  await report('web-1', '1.1.0', 4);
  const { code, stdout } = await result;
  expect({ code, ...JSON.parse(String(stdout)) }).toMatchObject({
    code: 0,
    waited: [{ node: 'web-1', name: 'block-icmp', settled: 'done' }],
    items: [{ node: 'web-1', state: 'attached' }],
  });
  // A node that put the former version back has not done what was wished.
  await aegis('assign', 'block-icmp@2.0.0-rc.1', 'web-1');
  await report('web-1', '2.0.0-rc.1', 5, {
    version: '1.1.0',
    reason: { code: 'artifacts.attach_failed', message: 'No.', version: '2.0.0-rc.1' },
  });
  const restored = await artifacts('status', '--node', 'web-1', '--wait');
  expect(restored).toMatchObject({
    code: 1,
    stderr: "aegis: failed on web-1. 'aegis artifacts status block-icmp' says why.\n",
  });
  expect(restored.stdout).toContain('2.0.0-rc.1 failed (artifacts.attach_failed), 1.1.0 runs: No.');
});

test('--watch: a line for each change until it is ended; NDJSON', async () => {
  const child = stage.author.cli.start(
    ['artifacts', 'status', 'block-icmp', '--node', 'web-2', '--watch', '--json'],
    stage.env,
  );
  let heard = '';
  child.stdout?.on('data', (piece: Buffer) => {
    heard += piece.toString('utf8');
  });
  const lines = () =>
    heard
      .split('\n')
      .slice(0, -1)
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  await waitFor('the first line', () => lines().length === 1);
  await report('web-2', '1.1.0', 1, { at: '2026-01-31T09:00:00.000Z' });
  await waitFor('the change', () => lines().length === 2);
  await aegis('unassign', 'block-icmp', 'web-2');
  await waitFor('the unassignment', () => lines().length === 3);
  child.kill('SIGINT');
  const { code } = await ran(child);
  expect({ code, lines: lines() }).toMatchObject({
    code: 130,
    lines: [
      { type: 'status', node: 'web-2', version: '1.1.0', report: { attachments: [{}, {}] } },
      { type: 'status', node: 'web-2', version: '1.1.0', report: { attachments: [{}] } },
      { type: 'status', node: 'web-2', version: null },
    ],
  });
});

test('unassign: a tombstone, and what it waits for', async () => {
  expect(await aegis('unassign', 'block-icmp')).toEqual(
    refused('Name an artifact and at least one node: aegis unassign ARTIFACT NODE…'),
  );
  expect(await aegis('unassign', '--dry-run', 'block-icmp', 'web-3')).toEqual({
    code: 0,
    stdout: 'NODE   ARTIFACT          CHANGE\nweb-3  block-icmp@1.1.0  taken off\n',
    stderr: 'aegis: dry run: nothing was changed.\n',
  });
  const child = stage.author.cli.start(['unassign', '--wait', 'block-icmp', 'web-3'], stage.env);
  const result = ran(child);
  await waitFor('the tombstone', async () => {
    const { stdout } = await artifacts('status', '--node', 'web-3', '--json');
    return (JSON.parse(stdout) as { items: { version: string | null }[] }).items[0]?.version === null;
  });
  await stage.nodes.get('web-3')?.call(postStatus, {
    params: { id: stage.idOf('1.1.0') },
    body: {
      name: 'block-icmp',
      generation: 2,
      state: 'detached',
      at: '2026-01-31T10:00:00.000Z',
      attachments: [],
      maps: [],
      drift: [],
    },
  });
  const { code, stdout } = await result;
  expect({ code, state: String(stdout).split('\n')[1]?.split(/ +/).slice(-3) }).toMatchObject({ code: 0 });
  expect(String(stdout)).toContain('detached');
  await stage.server.enrol('web-4');
  expect(await aegis('unassign', 'block-icmp', 'web-4')).toEqual(
    refused("block-icmp is not assigned to 'web-4'. See 'aegis artifacts status'.", 1),
  );
});

test('--only makes these nodes the whole set', async () => {
  expect(await aegis('assign', '--only', '--dry-run', 'block-icmp@1.1.0', 'web-3')).toMatchObject({
    code: 0,
    stderr: 'aegis: dry run: nothing was changed, and no other node has it.\n',
  });
  await aegis('assign', 'block-icmp@1.1.0', 'web-2');
  expect(await aegis('assign', '--only', '--dry-run', 'block-icmp@1.1.0', 'web-3')).toMatchObject({
    code: 0,
    stderr: 'aegis: dry run: nothing was changed; it would be taken off web-2.\n',
  });
  expect(await aegis('assign', '--only', 'block-icmp@1.1.0', 'web-3')).toEqual({
    code: 0,
    stdout: 'NODE   block-icmp@1.1.0\nweb-3  added\nweb-2  removed\n',
    stderr: '',
  });
  const { stdout } = await aegis('assign', '--only', 'block-icmp@1.1.0', 'web-3', '--json');
  expect(JSON.parse(stdout)).toEqual({ added: [], removed: [], unchanged: ['web-3'] });
});
