import { createHash } from 'node:crypto';
import { existsSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { controlDaemon } from '../src/control.ts';
import type { Clock } from '../src/platform/clock.ts';
import { keyEntry, newSigner, startArtifactServer } from './artifact-server.ts';
import { artifactStage } from './artifact-stage.ts';
import { DeployError } from './fake-kernel.ts';
import { Refused } from './refused.ts';
import { type TestNode, testNode } from './test-node.ts';
import { waitFor } from './wait-for.ts';

const bundlesOf = (node: TestNode): string[] => {
  const folder = join(node.dataDir, 'artifacts');
  return existsSync(folder) ? readdirSync(folder).sort() : [];
};
const nameOf = (bytes: Buffer) => `${createHash('sha256').update(bytes).digest('hex')}.tar.zst`;

test('assigned: fetched, verified, applied and reported; unassigned: taken off, and nothing is left', async () => {
  await using stage = await artifactStage();
  const { server, node, kernel } = stage;
  const daemon = await stage.start();
  const published = await server.publish();
  server.assign(published, { constants: { target_ip: '192.0.2.9', magic: 7 } });
  const report = await waitFor('the report', () => server.last());
  expect(report).toEqual({
    name: 'block-icmp',
    version: '1.0.0',
    generation: 1,
    state: 'attached',
    at: expect.any(String),
    attachments: [
      { program: 'block', hook: expect.stringContaining('eth0'), state: 'attached', link_id: 1, run_count: 0 },
    ],
    maps: [],
    drift: [],
    kernel: expect.any(String),
  });
  const held = kernel.held.get('block-icmp');
  expect(held?.objects).toEqual(new Map([['probe.bpf.o', 'an object']]));
  expect(held?.deployment).toMatchObject({
    version: '1.0.0',
    generation: 1,
    revision: expect.stringMatching(/^[0-9a-f]{16}$/),
    constants: [
      { name: 'target_ip', type: 'ipv4', value: '192.0.2.9' },
      { name: 'magic', type: 'u32', value: 7 },
    ],
    maps: [{ name: 'blocked', keep: true }],
    features: [],
  });
  expect(kernel.calls).toEqual(['apply block-icmp@1.0.0']);
  expect(bundlesOf(node)).toEqual([nameOf(published.bytes)]);
  expect((statSync(join(node.dataDir, 'artifacts', nameOf(published.bytes))).mode & 0o777).toString(8)).toBe('600');
  expect((statSync(join(node.dataDir, 'artifacts')).mode & 0o777).toString(8)).toBe('700');
  expect(daemon.status().artifacts).toEqual({ assigned: 1, attached: 1, waiting: 0, failed: 0, problems: [] });

  server.unassign('block-icmp');
  await waitFor('it to be off', () => server.last()?.state === 'detached');
  expect(server.last()).toMatchObject({ generation: 2, attachments: [], drift: [] });
  expect(kernel.held.size).toBe(0);
  await waitFor('the bundle to go', () => bundlesOf(node).length === 0);
  expect(daemon.status().artifacts).toEqual({ assigned: 0, attached: 0, waiting: 0, failed: 0, problems: [] });
});

test('a new version replaces the old one, a failing one leaves it running and says so, an older digest is a rollback', async () => {
  await using stage = await artifactStage();
  const { server, node, kernel } = stage;
  const daemon = await stage.start();
  const one = await server.publish();
  const two = await server.publish({ version: '2.0.0' }, 'another object');
  const bad = await server.publish({ version: '3.0.0' }, 'a bad object');
  server.assign(one);
  await waitFor('version 1', () => server.last()?.version === '1.0.0');
  server.assign(two);
  await waitFor('version 2', () => server.last()?.version === '2.0.0');
  await waitFor('the bundle of version 1 to go', () => bundlesOf(node).length === 1);
  kernel.failing.set(
    'block-icmp@3.0.0',
    new DeployError('artifacts.load_failed', 'The verifier rejects it: R1 min value is negative', {
      verifierLog: '0: (b7) r0 = 0\nR1 min value is negative',
    }),
  );
  server.assign(bad);
  const failed = await waitFor('the failure', () => (server.last()?.generation === 3 ? server.last() : null));
  expect(failed).toMatchObject({
    version: '2.0.0',
    generation: 3,
    state: 'attached',
    attachments: [{ state: 'attached' }],
    reason: { code: 'artifacts.load_failed', message: expect.stringContaining('R1 min value'), version: '3.0.0' },
    verifier_log: '0: (b7) r0 = 0\nR1 min value is negative',
  });
  expect(kernel.held.get('block-icmp')?.version).toBe('2.0.0');
  expect(daemon.status().artifacts).toMatchObject({
    attached: 1,
    failed: 1,
    problems: [{ name: 'block-icmp', code: 'artifacts.load_failed' }],
  });
  server.assign(one);
  await waitFor('the rollback', () => server.last()?.version === '1.0.0' && server.last()?.generation === 4);
  expect(server.last()).not.toHaveProperty('reason');
  expect(kernel.calls).toEqual([
    'apply block-icmp@1.0.0',
    'apply block-icmp@2.0.0',
    'apply block-icmp@3.0.0',
    'apply block-icmp@1.0.0',
  ]);
});

test('after a reboot everything is attached again from the journal, without the server', async () => {
  await using stage = await artifactStage();
  const { server, kernel } = stage;
  const first = await stage.start();
  server.assign(await server.publish());
  server.assign(await server.publish({ name: 'count', version: '0.1.0' }, 'a counter'));
  await waitFor('both', () => server.last('count') && server.last());
  await first.close();
  server.refuseAll(503);
  kernel.reboot();
  await stage.start();
  await waitFor('both to be back', () => kernel.held.size === 2);
  expect(server.downloads).toHaveLength(2);
  expect([...kernel.held.values()].map(({ version }) => version).sort()).toEqual(['0.1.0', '1.0.0']);
});

test('a daemon that comes back finds the kernel as it left it and reports nothing new', async () => {
  await using stage = await artifactStage();
  const { server, kernel } = stage;
  const first = await stage.attached();
  await first.close();
  const second = await stage.start();
  await waitFor('it to be looked at', () => second.status().artifacts.attached === 1);
  await second.reconcile();
  expect(kernel.calls).toEqual(['apply block-icmp@1.0.0']);
  expect(server.reports).toHaveLength(1);
});

test('what was unassigned while the daemon was away, and after the journal was written, is taken off at its start', async () => {
  await using stage = await artifactStage();
  const { server, kernel } = stage;
  const first = await stage.attached();
  await first.close();
  server.unassign('block-icmp');
  const held = kernel.held.get('block-icmp');
  if (held) kernel.held.set('left-over', held);
  await stage.start();
  await waitFor('it to be off', () => server.last()?.state === 'detached');
  await waitFor('the orphan to be swept', () => kernel.held.size === 0);
  expect(kernel.calls).toContain('sweep left-over');
});

test('an interface that comes later gets its program at the next tick', async () => {
  await using stage = await artifactStage();
  const { server, kernel } = stage;
  kernel.absent.add('eth0');
  const daemon = await stage.start({ flags: { artifacts_reconcile_sec: 1 } });
  server.assign(await server.publish());
  expect(await waitFor('the report', () => server.last())).toMatchObject({
    state: 'loaded',
    attachments: [{ state: 'waiting' }],
  });
  expect(daemon.status().artifacts).toMatchObject({ waiting: 1, attached: 0 });
  kernel.absent.clear();
  await waitFor('it to be attached', () => server.last()?.state === 'attached');
});

test('drift is reported once with what was found; a foreign removal is repaired at the next tick or when told', async () => {
  await using stage = await artifactStage();
  const { server, node, kernel } = stage;
  await stage.attached();
  kernel.held.clear();
  const drift = { at: new Date().toISOString(), what: 'link_missing', detail: 'block', repaired: true };
  kernel.drift.push(drift);
  const answer = await controlDaemon(node.dataDir, { op: 'reconcile' });
  expect(answer).toMatchObject({ artifacts: [{ name: 'block-icmp', state: 'attached', drift: [drift] }] });
  await waitFor('the report of it', () => server.last()?.drift.length === 1);
  await controlDaemon(node.dataDir, { op: 'reconcile' });
  expect(server.last()?.drift).toEqual([drift]);
  expect(kernel.held.size).toBe(1);
});

test('a failure that may pass is tried again, a rejected program only under a new generation', async () => {
  let ahead = 0;
  const clock: Clock = { now: () => Date.now(), monotonic: () => performance.now() + ahead };
  await using stage = await artifactStage();
  const { server, kernel } = stage;
  kernel.failing.set('block-icmp@1.0.0', new DeployError('artifacts.hook_busy', 'eth0 holds another XDP program'));
  kernel.failing.set('other@1.0.0', new DeployError('artifacts.load_failed', 'rejected'));
  const daemon = await stage.start({ clock, random: () => 0 });
  server.assign(await server.publish());
  server.assign(await server.publish({ name: 'other' }));
  await waitFor('both to fail', () => server.last('other') && server.last());
  expect([server.last()?.state, server.last('other')?.state]).toEqual(['failed', 'failed']);
  expect(server.last()?.reason).toEqual({ code: 'artifacts.hook_busy', message: 'eth0 holds another XDP program' });
  kernel.failing.clear();
  await waitFor('the busy one', () => server.last()?.state === 'attached');
  expect(kernel.calls.filter((call) => call.includes('other'))).toHaveLength(1);
  ahead = 600_000;
  await daemon.reconcile();
  await waitFor('the other one after ten minutes', () => server.last('other')?.state === 'attached');
});

test('reports wait for a server that is away; only the newest is sent', async () => {
  await using stage = await artifactStage();
  const { server, kernel } = stage;
  const first = await stage.start({ random: () => 0 });
  server.refuseReports(new Refused(503, 'http.unavailable'));
  const one = await server.publish();
  server.assign(one);
  await waitFor('it to be attached', () => first.status().artifacts.attached === 1);
  server.assign(await server.publish({ version: '1.1.0' }));
  await waitFor('the upgrade', () => kernel.held.get('block-icmp')?.version === '1.1.0');
  await first.close();
  server.refuseReports(null);
  await stage.start();
  await waitFor('the report', () => server.last());
  expect(server.reports.map(({ version }) => version)).toEqual(['1.1.0']);
});

test('a report that the server refuses for good does not hold up the others', async () => {
  await using stage = await artifactStage();
  const { server } = stage;
  await stage.start();
  server.refuseReports(new Refused(404, 'artifacts.unknown_artifact'));
  server.assign(await server.publish());
  await waitFor('the refused report', () => server.requests.some((key) => key.endsWith('/status')));
  server.refuseReports(null);
  server.assign(await server.publish({ name: 'other' }));
  await waitFor('the other report', () => server.last('other'));
  expect(server.last()).toBeUndefined();
});

test('a bundle that somebody changed on disk is not loaded but fetched again', async () => {
  await using stage = await artifactStage();
  const { server, node, kernel } = stage;
  const first = await stage.start();
  const published = await server.publish();
  server.assign(published);
  await waitFor('the report', () => server.last());
  await first.close();
  const path = join(node.dataDir, 'artifacts', nameOf(published.bytes));
  const changed = Buffer.from(published.bytes);
  changed[changed.length - 1] = (changed.at(-1) ?? 0) ^ 1;
  writeFileSync(path, changed);
  kernel.reboot();
  const second = await stage.start({ random: () => 0 });
  await waitFor('it to be attached', () => kernel.held.size === 1);
  expect(kernel.held.get('block-icmp')?.objects.get('probe.bpf.o')).toBe('an object');
  expect(server.downloads).toHaveLength(2);
  await second.close();

  // A link in its place is not followed either.
  writeFileSync(join(node.dataDir, 'elsewhere'), published.bytes);
  rmSync(path);
  symlinkSync(join(node.dataDir, 'elsewhere'), path);
  writeFileSync(join(node.dataDir, 'artifacts', `${'0'.repeat(64)}.1-1.part`), 'half');
  kernel.reboot();
  await stage.start({ random: () => 0 });
  await waitFor('it to be attached again', () => kernel.held.size === 1);
  expect(server.downloads).toHaveLength(3);
  expect(bundlesOf(node)).toEqual([nameOf(published.bytes)]);
});

test('a key that is revoked while its artifact runs: it goes on, says so, and is not loaded again', async () => {
  await using stage = await artifactStage();
  const { server, kernel } = stage;
  const daemon = await stage.attached({ flags: { poll_wait_sec: 1 } });
  server.trustKeys([keyEntry(server.signer, 'alice', 'revoked')]);
  await waitFor('it to say so', () => server.last()?.reason);
  expect(server.last()).toMatchObject({
    state: 'attached',
    version: '1.0.0',
    reason: { code: 'artifacts.revoked_signer', message: expect.stringContaining('alice') },
  });
  kernel.reboot();
  await daemon.reconcile();
  await waitFor('the refusal', () => server.last()?.state === 'failed');
  expect(server.last()?.reason?.code).toBe('artifacts.revoked_signer');
  expect(kernel.held.size).toBe(0);
});

test('an artifact whose signer is not known yet is attached as soon as the trust bundle names him', async () => {
  await using stage = await artifactStage();
  const { server } = stage;
  await stage.start({ flags: { poll_wait_sec: 1 } });
  const bob = newSigner();
  server.assign(await server.publish({}, 'an object', bob));
  await waitFor('the refusal', () => server.last()?.reason?.code === 'artifacts.unknown_signer');
  server.trustKeys([keyEntry(server.signer, 'alice'), keyEntry(bob, 'bob')]);
  await waitFor('it to be attached', () => server.last()?.state === 'attached');
});

test('where no eBPF can be loaded the status says what to install, and commands go on', async () => {
  await using server = await startArtifactServer();
  await using node = testNode(server);
  const daemon = await node.start({
    kernelEngine: async () => {
      throw new Error('libbpf.so.1: cannot open shared object file');
    },
  });
  server.assign(await server.publish());
  const report = await waitFor('the report', () => server.last());
  expect(report).toMatchObject({
    state: 'failed',
    reason: { code: 'artifacts.unsupported', message: expect.stringMatching(/libbpf\.so\.1.*Install libbpf/) },
  });
  expect(daemon.status().artifacts).toMatchObject({ failed: 1, problems: [{ code: 'artifacts.unsupported' }] });
  const command = server.submit({ cmd: 'echo on' });
  await waitFor('the command', () => command.state === 'succeeded');
  server.unassign('block-icmp');
  await waitFor('it to be gone', () => server.last()?.state === 'detached');
});

test('neither a slow server of artifacts nor a slow load delays commands', async () => {
  await using stage = await artifactStage();
  const { server, node, kernel } = stage;
  const loading = Promise.withResolvers<void>();
  const engine = async () => {
    const real = await kernel.engine();
    return {
      ...real,
      apply: async (...args: Parameters<typeof real.apply>) => {
        await loading.promise;
        return real.apply(...args);
      },
    };
  };
  await node.start({ kernelEngine: engine, flags: { poll_wait_sec: 1 } });
  const slow = await server.publish({ name: 'slow' });
  server.blobs.set(slow.id, () => undefined); // never answered
  server.assign(slow);
  server.assign(await server.publish());
  await waitFor('both to be fetched', () => server.downloads.length === 2);
  for (let n = 0; n < 3; n++) {
    const command = server.submit({ cmd: `echo ${n}` });
    await waitFor('the command', () => command.state === 'succeeded');
  }
  expect(server.reports).toEqual([]);
  loading.resolve();
  await waitFor('the load', () => server.last()?.state === 'attached');
});
