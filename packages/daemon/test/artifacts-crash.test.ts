import { execFileSync, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { artifactKey } from '../src/artifacts/kernel/layout.ts';
import { startArtifactServer } from './artifact-server.ts';
import { brokenAt, type Life, mortalDaemon } from './mortal-daemon.ts';
import { testNode } from './test-node.ts';
import { waitFor } from './wait-for.ts';

/** The daemon and the real kernel. Kills the daemon at every commit, every send and every step of a deployment in the kernel, starts it again, and wants the kernel as
 *  wished: both programs attached from the first success to the unassignment, whatever the version, and nothing of ours afterwards.
 *  The points enumerate themselves in a first run. Needs root, clang and libbpf (bin/setup says how to get them). */

const PROGRAMS = join(import.meta.dirname, '../../bpf-loader/bpf');
const OBJECT = join(PROGRAMS, '../build/bpf/attach_tracepoint.bpf.o');
beforeAll(() => void execFileSync('make', ['-s', '-C', PROGRAMS], { stdio: 'inherit' }), 120_000);

/** Two programs that hang on every execution, and count those of a program that nobody runs. */
const watching = (version: string, wanted: string) => ({
  name: 'crash',
  version,
  programs: [
    { name: 'on_exec', attach: { kind: 'tracepoint', category: 'sched', name: 'sched_process_exec' } },
    { name: 'on_exec_raw', attach: { kind: 'raw_tracepoint', name: 'sched_process_exec' } },
  ],
  constants: [{ name: 'wanted', type: 'string', value: wanted }],
  maps: [{ name: 'counters', keep: true }],
});
const nodeFolder = (uid: string) => join('/sys/fs/bpf/aegis', uid);
/** The pinned links, by their keys. */
const linksOf = (uid: string): string[] => {
  const folder = join(nodeFolder(uid), artifactKey('crash'), 'links');
  if (uid === '' || !existsSync(folder)) return [];
  return readdirSync(folder)
    .filter((name) => /^[0-9a-f]{16}$/.test(name))
    .sort();
};

const live = async (crashAt: string | null): Promise<Life> => {
  const home = mkdtempSync(join(tmpdir(), 'aegis-deploy-'));
  const program = `/bin/${randomBytes(4).toString('hex')}`; // that nobody runs
  await using server = await startArtifactServer();
  const flags = {
    data_dir: join(home, 'node'),
    server: server.url,
    join_token: server.joinToken,
    name: 'web-1',
    poll_wait_sec: 2,
    artifacts_reconcile_sec: 1,
    log_level: 'silent',
  };
  const daemon = mortalDaemon(home, flags, crashAt);

  let uid = '';
  const links = () => linksOf(uid);
  /** From the first success on both links are there, at every look. */
  let held = false;
  let missing = 0;
  const watch = setInterval(() => {
    if (held && links().length < 2) missing++;
  }, 2);
  try {
    await waitFor('enrolment', () => server.nodes.size > 0, 30_000);
    uid = [...server.nodes.keys()][0] ?? '';
    const object = readFileSync(OBJECT);
    const [one, two] = [
      await server.publish(watching('1.0.0', program), object),
      await server.publish(watching('2.0.0', `${program}2`), object),
    ];
    const is = (version: string, generation: number) => {
      const report = server.last('crash');
      if (report?.state === 'failed' && report.generation === generation)
        throw new Error(`${report.reason?.code}: ${report.reason?.message}`);
      return report?.state === 'attached' && report.version === version && report.generation === generation;
    };
    server.assign(one);
    await waitFor('version 1', () => is('1.0.0', 1), 30_000);
    held = true;
    const first = links();
    expect(first).toHaveLength(2);
    server.assign(two);
    await waitFor('version 2', () => is('2.0.0', 2), 30_000);
    expect(links()).toEqual(first);
    expect(server.last('crash')?.attachments.map(({ state }) => state)).toEqual(['attached', 'attached']);
    held = false;
    server.unassign('crash');
    await waitFor('it to be off', () => server.last('crash')?.state === 'detached', 30_000);
    await waitFor('the bundles to go', () => readdirSync(join(flags.data_dir, 'artifacts')).length === 0, 30_000);
    await waitFor('the pins to go', () => links().length === 0, 30_000);
    expect(spawnSync('find', [nodeFolder(uid), '-type', 'f'], { encoding: 'utf8' }).stdout).toBe('');
    expect(missing).toBe(0);
    return { died: daemon.died(), points: daemon.points() };
  } finally {
    clearInterval(watch);
    await daemon[Symbol.asyncDispose]();
    rmSync(home, { recursive: true, force: true, maxRetries: 3 });
    if (uid !== '') rmSync(nodeFolder(uid), { recursive: true, force: true });
  }
};

test('stopped anywhere in a deployment, the kernel comes to be as wished', async () => {
  const { points } = await live(null);
  const own = points.filter((point) =>
    /deploy|store|desired|attached|detached|artifact|Artifact|nodeDesired/.test(point),
  );
  for (const name of ['desired', 'desired-revision', 'attached', 'detached', 'artifact-report-sent'])
    expect(own).toEqual(expect.arrayContaining([`daemon.before-commit.${name}#1`, `daemon.after-commit.${name}#1`]));
  for (const name of ['nodeDesired', 'artifactBinary', 'postArtifactStatus'])
    expect(own).toEqual(expect.arrayContaining([`daemon.before-send.${name}#1`, `daemon.after-send.${name}#1`]));
  for (const name of ['deploy.apply', 'deploy.remove', 'deploy.sweep', 'store.bundle'])
    expect(own).toEqual(expect.arrayContaining([`daemon.before-${name}#1`, `daemon.after-${name}#1`]));
  // Each first pass; of the steps in the kernel, the second version's too. engine-crash.test.ts stops the engine at each of its steps:
  // the short run takes every third of what is around them, the long one all.
  const chosen = own.filter((point) => point.endsWith('#1') || (point.includes('deploy') && /#[2-4]$/.test(point)));
  const around = chosen.filter((point) => !/deploy\.(?!apply|remove|sweep)/.test(point));
  const left = process.env.AEGIS_LONG ? chosen : around.filter((_, nth) => nth % 3 === 0);
  expect(await brokenAt(left, live)).toEqual([]);
}, 600_000);

test('after a reboot, with the server away, everything is attached from the journal', async () => {
  await using server = await startArtifactServer();
  await using node = testNode(server);
  const first = await node.start({ bootId: 'before' });
  const { uid } = first;
  try {
    server.assign(await server.publish(watching('1.0.0', '/bin/nobody-runs-this'), readFileSync(OBJECT)));
    await waitFor('it to be attached', () => server.last('crash')?.state === 'attached');
    const links = linksOf(uid);
    expect(links).toHaveLength(2);
    await first.close();
    expect(linksOf(uid)).toEqual(links); // what runs outlives the daemon
    rmSync(nodeFolder(uid), { recursive: true }); // as a reboot leaves the bpf file system
    server.refuseAll(503);
    const second = await node.start({ bootId: 'after' });
    await waitFor('it to be attached again', () => second.status().artifacts.attached === 1);
    expect(linksOf(uid)).toEqual(links);
    expect(second.status().connected).toBe(false);
    server.refuseAll(null);
    server.unassign('crash');
    await waitFor('it to be off', () => server.last('crash')?.state === 'detached');
    expect(linksOf(uid)).toEqual([]);
  } finally {
    rmSync(nodeFolder(uid), { recursive: true, force: true });
  }
});
