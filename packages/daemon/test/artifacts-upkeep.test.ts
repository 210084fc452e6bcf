import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { readAttachments } from '../src/attachments.ts';
import type { Clock } from '../src/platform/clock.ts';
import { startArtifactServer } from './artifact-server.ts';
import { artifactStage } from './artifact-stage.ts';
import { fakeKernel } from './fake-kernel.ts';
import { testNode } from './test-node.ts';
import { waitFor } from './wait-for.ts';

/** What goes on beside an artifact's life: what is told and when, what is kept and for how long, and what costs nothing. */

test('attachments are told by the daemon, and from the journal when it is away', async () => {
  await using stage = await artifactStage();
  const { node } = stage;
  const daemon = await stage.attached();
  const told = await readAttachments(node.dataDir, { bpffs: node.dataDir });
  expect(told).toMatchObject({
    node: 'web-1',
    uid: daemon.uid,
    source: 'daemon',
    pins: [],
    artifacts: [
      {
        name: 'block-icmp',
        generation: 1,
        version: '1.0.0',
        running: { version: '1.0.0', generation: 1 },
        state: 'attached',
        attachments: [{ program: 'block', state: 'attached' }],
        reason: null,
      },
    ],
  });
  await daemon.close();
  const alone = await readAttachments(node.dataDir, { bpffs: node.dataDir });
  expect(alone).toEqual({ ...told, source: 'journal' });
});

test('counters are told when they changed, no more often than artifacts_status_sec', async () => {
  await using stage = await artifactStage();
  const { server, kernel } = stage;
  let ahead = 0;
  const clock: Clock = { now: () => Date.now(), monotonic: () => performance.now() + ahead };
  const daemon = await stage.attached({ clock, flags: { artifacts_status_sec: 3600 } });
  kernel.counters.runs = 5;
  await daemon.reconcile();
  ahead = 3_600_000;
  await daemon.reconcile();
  await waitFor('the counters', () => server.last()?.attachments[0]?.run_count === 5);
  expect(server.reports).toHaveLength(2);
});

test('a restored server with an older revision is read again, and one that names revisions it does not have is not asked in a hurry', async () => {
  await using stage = await artifactStage();
  const { server } = stage;
  await stage.start({ flags: { poll_wait_sec: 0 } });
  const fetches = () => server.requests.filter((key) => key.endsWith('/v1/desired')).length;
  server.setRevision(9);
  await waitFor('the fetch', () => fetches() === 1);
  server.setRevision(4);
  await waitFor('the fetch of the older', () => fetches() === 2);
  server.setDesired(12); // the answer still says 4
  await waitFor('another fetch', () => fetches() === 3);
  const polls = server.requests.length;
  await waitFor('some polls', () => server.requests.length > polls + 20);
  expect(fetches()).toBe(3);
});

test('a node without artifacts has no folder for them and loads nothing', async () => {
  await using server = await startArtifactServer();
  await using node = testNode(server);
  let loads = 0;
  const daemon = await node.start({
    kernelEngine: async () => {
      loads++;
      return fakeKernel().engine();
    },
  });
  server.give([]);
  await waitFor('the fetch', () => server.requests.some((key) => key.endsWith('/v1/desired')));
  const command = server.submit({ cmd: 'true' });
  await waitFor('a command', () => command.state === 'succeeded');
  await daemon.reconcile();
  expect(loads).toBe(0);
  expect(existsSync(join(node.dataDir, 'artifacts'))).toBe(false);
});

test('the kernel report is sent once for each boot', async () => {
  await using server = await startArtifactServer();
  await using node = testNode(server);
  let probes = 0;
  const report = {
    release: '6.1.0',
    architecture: 'x86_64',
    btf: true,
    bpffs: true,
    cgroup2: null,
    jit: true,
    kinds: {},
  };
  const probeKernel = async () => {
    probes++;
    return report;
  };
  const started = { probeKernel, bootId: 'first', flags: { kernel_report_delay_sec: 0, poll_wait_sec: 0 } };
  const reported = () => server.requests.filter((key) => key.endsWith('/v1/kernel-report')).length;
  const polled = async () => {
    const polls = server.requests.length;
    await waitFor('some polls', () => server.requests.length > polls + 10);
  };
  const first = await node.start(started);
  await waitFor('the report', () => server.kernelReport());
  expect(server.kernelReport()).toEqual(report);
  await polled();
  await first.close();
  const second = await node.start(started);
  await polled();
  await second.close();
  expect([probes, reported()]).toEqual([1, 1]);
  await node.start({ ...started, bootId: 'second' });
  await waitFor('the report of the next boot', () => reported() === 2);
});

test('a tombstone is forgotten once no directive could contradict it, and what it forbade stays forbidden', async () => {
  const week = 7 * 24 * 3_600_000 + 2 * 3_600_000;
  let ahead = 0;
  const clock: Clock = { now: () => Date.now() + ahead, monotonic: () => performance.now() };
  await using stage = await artifactStage();
  const { server, kernel } = stage;
  const passed: string[] = [];
  const faults = { at: (name: string) => void passed.push(name) };
  const first = await stage.start({ clock, faults });
  const body = server.assign(await server.publish());
  await waitFor('the report', () => server.last());
  const old = server.signed(server.directiveOf(body, 1));
  server.unassign('block-icmp');
  await waitFor('it to be off', () => server.last()?.state === 'detached');
  await waitFor(
    'that to be noted',
    () =>
      passed.filter((name) => name === 'daemon.after-send.postArtifactStatus').length === 2 &&
      passed.lastIndexOf('daemon.after-commit.artifact-report-sent') >
        passed.lastIndexOf('daemon.after-send.postArtifactStatus'),
  );
  await first.close();
  ahead = week;
  // The next artifact has the daemon tidy.
  await stage.start({ clock });
  const times = {
    issued_at: new Date(Date.now() + week).toISOString(),
    expires_at: new Date(Date.now() + week + 1000).toISOString(),
  };
  const other = server.bodyOf(await server.publish({ name: 'other' }));
  server.give([server.signed(server.directiveOf(other, 1, times))]);
  await waitFor('the other one', () => server.last('other')?.state === 'attached');
  // The clock was wrong, or is set back by somebody: the old directive holds by its times, and is refused all the same.
  ahead = 0;
  const calls = kernel.calls.length;
  server.give([old]);
  await waitFor('the refusal', () => server.tried.some(({ reason }) => reason?.code === 'access.stale_directive'));
  expect(kernel.calls.slice(calls)).toEqual([]);
  expect([...kernel.held.keys()]).toEqual(['other']);
});

test('a journal without room takes nothing, and everything once there is some', async () => {
  await using stage = await artifactStage();
  const { server, kernel } = stage;
  await stage.start({ random: () => 0, flags: { journal_max_bytes: 1_048_576 } });
  const huge = await server.publish({
    name: 'huge',
    maps: [
      {
        name: 'm',
        initial: Array.from({ length: 9000 }, (_, n) => ({ key: `${n}`.repeat(8), value: `${n}`.repeat(8) })),
      },
    ],
  });
  server.assign(huge);
  await waitFor('some tries', () => server.requests.filter((key) => key.endsWith('/v1/desired')).length > 2);
  expect(kernel.calls).toEqual([]);
  const command = server.submit({ cmd: 'echo on' });
  await waitFor('the command', () => command.state === 'succeeded');
  server.unassign('huge');
  await waitFor('what fits', () => server.last('huge')?.state === 'detached');
});
