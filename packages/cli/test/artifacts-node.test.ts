import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { release as kernelRelease } from 'node:os';
import { ATTACH_KINDS } from '@aegis/protocol/artifacts/attach-point';
import type { KernelReport } from '@aegis/protocol/artifacts/status';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { waitFor } from '../../../test/faults/wait.ts';
import { aegis } from '../../../test/fleet/fleet.ts';
import type { NamespaceFleet } from '../../../test/fleet/namespace-fleet.ts';
import { type Outcome, pings } from '../../../test/fleet/namespaces.ts';
import type { MeasuredAttachments } from '../src/artifacts/attachments-text.ts';
import { make } from './artifact-folder.ts';
import { type NodeStage, nodeStage } from './node-stage.ts';

/** The command line over a real kernel: server and daemon in a network namespace, what the templates make attached there, and looked into
 *  from both ends: through the server, and on the node without it. */

const BLOCKED = '192.0.2.9';

let stage: NodeStage;
let fleet: NamespaceFleet;
beforeAll(async () => {
  stage = await nodeStage({ 'block-icmp': 'tc' });
  ({ fleet } = stage);
  stage.release('block-icmp', '1.1.0');
});
afterAll(async () => {
  fleet?.tryAegis('unassign', '--wait', 'block-icmp', 'web-1');
  await stage?.[Symbol.asyncDispose]();
});

const at = (name: string) => stage.at(name);
const local = (...args: string[]) => stage.local(...args);
const reaches = () => pings(fleet.network.node, BLOCKED);
const packets = (): number =>
  fleet.json<{ entries: { value: { packets: number } }[] }>('artifacts', 'maps', 'block-icmp', 'dropped', '-n', 'web-1')
    .entries[0]?.value.packets ?? 0;
test('assign, count, look into it from both ends', () => {
  expect(reaches()).toBe(true);
  expect(fleet.aegis('assign', '--wait', '--set', `target_ip=${BLOCKED}`, 'block-icmp@1.0.0', 'web-1')).toBe(
    `ARTIFACT    NODE   VERSION  STATE     ATTACHED  DRIFT  NOTE
block-icmp  web-1  1.0.0    attached  1/1       0      tcx egress on uplink
`,
  );
  expect([reaches(), pings(fleet.network.node, '192.0.2.2')]).toEqual([false, true]);
  const list = `MAP      TYPE   KEY    VALUE          ENTRIES  MAX ENTRIES
dropped  array  __u32  struct counts  1        1
`;
  expect(fleet.aegis('artifacts', 'maps', 'block-icmp', '--node', 'web-1')).toBe(list);
  expect(local('maps', 'block-icmp')).toEqual({ status: 0, stdout: list, stderr: '' });
  const count = packets();
  expect(count).toBeGreaterThanOrEqual(3);
  const contents = `map:   dropped (array)
key:   __u32
value: struct counts

KEY  VALUE
0    {"packets":${count},"bytes":${count * 98}}
`;
  expect(fleet.aegis('artifacts', 'maps', 'block-icmp', 'dropped', '--node', 'web-1')).toBe(contents);
  expect(local('maps', 'block-icmp', 'dropped')).toEqual({ status: 0, stdout: contents, stderr: '' });
  expect(JSON.parse(local('maps', 'block-icmp', 'dropped', '--json').stdout)).toEqual({
    artifact: 'block-icmp',
    map: {
      name: 'dropped',
      type: 'array',
      id: expect.any(Number),
      key_type: '__u32',
      value_type: 'struct counts',
      key_bytes: 4,
      value_bytes: 16,
      max_entries: 1,
      entries: 1,
    },
    entries: [{ key: 0, value: { packets: count, bytes: count * 98 } }],
    truncated: false,
  });
});

test('attachments are what bpftool sees, with the daemon and without it', async () => {
  const seen = () =>
    JSON.parse(local('attachments', '--json').stdout) as {
      source: string;
      artifacts: { links: { link_id: number; program_id: number; program_tag: string }[] }[];
    };
  const uncounted = (told: ReturnType<typeof seen>) => ({
    ...told,
    artifacts: told.artifacts.map((one) => ({
      ...one,
      links: one.links.map((link) => ({ ...link, run_count: 0, run_time_ns: 0 })),
    })),
  });
  const found = seen();
  expect(found).toMatchObject({
    node: 'web-1',
    uid: fleet.node.uid,
    source: 'daemon',
    artifacts: [
      {
        name: 'block-icmp',
        version: '1.0.0',
        running_version: '1.0.0',
        generation: 1,
        state: 'attached',
        reason: null,
        links: [{ program: 'drop_icmp', hook: 'tcx egress on uplink', state: 'attached' }],
      },
    ],
  });
  const [link] = found.artifacts[0]?.links ?? [];
  const { stdout } = fleet.network.node.run(['bpftool', '--json', 'link', 'show', 'id', String(link?.link_id)]);
  expect(JSON.parse(stdout)).toMatchObject({ id: link?.link_id, prog_id: link?.program_id });
  const linkId = String(link?.link_id).padEnd(4);
  const programId = String(link?.program_id).padEnd(10);
  // Other tests of this machine may have runs counted at this moment.
  const shown = () => {
    const told = local('attachments');
    return { ...told, stdout: told.stdout.replace(/\d+\n$/, 'N\n') };
  };
  const text = `ARTIFACT    VERSION  STATE     PROGRAM    HOOK                  ${'LINK'.padEnd(linkId.length)}  PROGRAM ID  RUNS
block-icmp  1.0.0    attached  drop_icmp  tcx egress on uplink  ${linkId}  ${programId}  N
`;
  expect(shown()).toEqual({ status: 0, stdout: text, stderr: '' });
  await fleet.daemon.kill9();
  expect(shown()).toEqual({ status: 0, stdout: text, stderr: '' });
  expect(uncounted(seen())).toEqual({ ...uncounted(found), source: 'journal' });
  expect(reaches()).toBe(false);
  await fleet.daemon.start();
});

test('nodes show tells which kinds work on its kernel, and why others do not', async () => {
  const show = () => fleet.json<{ kernel_report: KernelReport | null }>('nodes', 'show', 'web-1').kernel_report;
  await waitFor('the kernel report', () => show() !== null);
  const report = show();
  expect(report).toMatchObject({ release: kernelRelease(), btf: true, bpffs: true, kinds: { tc: { works: true } } });
  // tcx beside them: how tc attaches here.
  expect(Object.keys(report?.kinds ?? {}).sort()).toEqual([...ATTACH_KINDS, 'tcx'].sort());
  for (const { works, reason } of Object.values(report?.kinds ?? {})) expect(works).toBe(reason === undefined);
  expect(fleet.aegis('nodes', 'show', 'web-1')).toMatch(/\nKIND +WORKS +SINCE LINUX +WHY NOT\n(\S+ +(yes|no) .*\n)+$/);
});

test('an upgrade keeps the counter, a rollback too', () => {
  const before = packets();
  for (const version of ['1.1.0', '1.0.0']) {
    fleet.aegis('assign', '--wait', '--set', `target_ip=${BLOCKED}`, `block-icmp@${version}`, 'web-1');
    expect(reaches()).toBe(false);
    expect(fleet.aegis('artifacts', 'status', 'block-icmp')).toContain(
      `block-icmp  web-1  ${version}    attached  1/1`,
    );
  }
  expect(packets()).toBeGreaterThan(before);
});

test('runs are measured for a while, from both ends, with the daemon and without it', async () => {
  const [file = '', ...ping] = fleet.network.node.argv('ping', '-q', '-i', '0.05', '192.0.2.2');
  const pinging = spawn(file, ping, { stdio: 'ignore' });
  const ended = new Promise((resolve) => pinging.once('close', resolve));
  const line =
    /^block-icmp {2}1\.0\.0 {4}drop_icmp {2}\d+ +[1-9]\d* +[\d.]+ +[1-9]\d* +[1-9]\d* +tcx egress on uplink$/m;
  const told = (outcome: Outcome) => {
    expect(outcome).toEqual({
      status: 0,
      stdout: expect.stringMatching(line),
      stderr: expect.stringMatching(/^aegis: measured for \d+\.\ds\.\n$/),
    });
    expect(outcome.stdout.split('\n')[0]).toMatch(
      /^ARTIFACT +VERSION +PROGRAM +PROGRAM ID +RUNS +RUNS\/S +TOTAL NS +NS\/RUN +HOOK$/,
    );
  };
  const counted = (text: string) => {
    const { measured_ms, artifacts } = JSON.parse(text) as MeasuredAttachments;
    expect(measured_ms).toBeGreaterThanOrEqual(1000);
    const [link, other] = artifacts.flatMap((one) => one.links);
    expect(other).toBeUndefined();
    const { runs = 0, time_ns = 0, ns_per_run, runs_per_sec } = link?.measured ?? {};
    expect(runs).toBeGreaterThan(0);
    expect(ns_per_run).toBe(Math.round(time_ns / runs));
    expect(runs_per_sec).toBeCloseTo((runs * 1000) / measured_ms, 0);
    expect(link?.run_count).toBeGreaterThanOrEqual(runs);
  };
  try {
    told(local('attachments', 'block-icmp', '--measure', '1'));
    told(fleet.tryAegis('artifacts', 'measure', '--node', 'web-1', '--seconds', '1'));
    counted(fleet.aegis('artifacts', 'measure', 'block-icmp', '-n', 'web-1', '--seconds', '1', '--json'));
    await fleet.daemon.kill9();
    counted(local('attachments', '--measure', '1', '--json').stdout);
    await fleet.daemon.start();
  } finally {
    pinging.kill('SIGKILL');
    await ended;
  }
  const none = {
    status: 1,
    stdout: '',
    stderr:
      "aegis: There is no artifact 'nothing' on web-1. See 'aegis daemon attachments' there, or 'aegis artifacts status'.\n",
  };
  expect(local('attachments', 'nothing', '--measure', '3600')).toEqual(none);
  expect(fleet.tryAegis('artifacts', 'measure', 'nothing', '-n', 'web-1', '--seconds', '3600')).toEqual(none);
  expect(local('attachments', '--measure', '3601')).toMatchObject({
    status: 2,
    stderr: expect.stringContaining('3600'),
  });
});

test('what cannot be read says why, through the server and on the node', () => {
  const both = (...args: string[]) => {
    const [verb = '', ...rest] = args;
    const remote = fleet.tryAegis('artifacts', verb, ...rest, '--node', 'web-1');
    const here = local(verb, ...rest);
    expect(remote).toEqual(here);
    return here;
  };
  expect(both('maps', 'nothing')).toEqual({
    status: 1,
    stdout: '',
    stderr:
      "aegis: Nothing of an artifact 'nothing' is loaded on web-1. See 'aegis daemon attachments' there, or 'aegis artifacts status'.\n",
  });
  expect(both('maps', 'block-icmp', 'counts')).toEqual({
    status: 1,
    stdout: '',
    stderr: "aegis: The artifact 'block-icmp' has no map 'counts': it has dropped.\n",
  });
  expect(both('events', 'block-icmp')).toEqual({
    status: 1,
    stdout: '',
    stderr: "aegis: The artifact 'block-icmp' has no ring buffer: its maps are read with 'maps'.\n",
  });
  expect(both('events', 'block-icmp', '--map', 'dropped')).toEqual({
    status: 1,
    stdout: '',
    stderr: "aegis: The map 'dropped' is no ring buffer: its maps are read with 'maps'.\n",
  });
  expect(fleet.tryAegis('artifacts', 'maps', 'block-icmp', '--node', 'nobody')).toEqual({
    status: 2,
    stdout: '',
    stderr: "aegis: No node named 'nobody'. See 'aegis nodes list'.\n",
  });
  expect(fleet.tryAegis('artifacts', 'maps', 'block-icmp')).toEqual({
    status: 2,
    stdout: '',
    stderr: 'aegis: Missing required flag node. See --help.\n',
  });
  expect(fleet.tryAegis('artifacts', 'maps', 'Block', '--node', 'web-1')).toEqual({
    status: 2,
    stdout: '',
    stderr:
      'aegis: artifacts.maps: payload.artifact: an artifact name has 1–63 of a-z 0-9 . _ - and starts with a letter or digit.\n',
  });
  expect(fleet.tryAegis('daemon', 'maps', 'block-icmp', '--data-dir', at('nowhere'))).toEqual({
    status: 1,
    stdout: '',
    stderr: `aegis: ${at('nowhere')} belongs to no node: name the daemon's own --data-dir.\n`,
  });
});

test('whoever is neither root nor the daemon is told so', () => {
  const argv = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', '--', aegis, 'daemon'];
  for (const what of [
    ['attachments'],
    ['attachments', '--measure', '1'],
    ['maps', 'block-icmp'],
    ['events', 'exec-watch'],
  ])
    expect(fleet.network.node.run([...argv, ...what, '--data-dir', fleet.node.dataDir], { env: fleet.env })).toEqual({
      status: 1,
      stdout: '',
      stderr: `aegis: ${fleet.node.dataDir} cannot be read (EACCES): run this as root, or as the daemon's own user.\n`,
    });
});

test('a node that counts runs reports them, and the status shows them', async () => {
  await fleet.daemon.stop();
  await fleet.daemon.start({
    AEGIS_BPF_STATISTICS: 'true',
    AEGIS_ARTIFACTS_STATUS_SEC: '1',
    AEGIS_ARTIFACTS_RECONCILE_SEC: '1',
  });
  const status = () => {
    fleet.network.node.run(['ping', '-c', '1', '192.0.2.2']);
    return fleet.aegis('artifacts', 'status', 'block-icmp');
  };
  await waitFor('runs in the status', () => status().includes(' RUNS '));
  expect(status()).toMatch(
    /^ARTIFACT {4}NODE {3}VERSION {2}STATE {5}ATTACHED {2}DRIFT {2}RUNS +NOTE\nblock-icmp {2}web-1 {2}1\.0\.0 {4}attached {2}1\/1 {7}\d {6}[1-9]\d* +tcx egress on uplink\n$/,
  );
  await fleet.daemon.stop();
  await fleet.daemon.start();
});

test('unassigned, nothing is left', () => {
  expect(fleet.aegis('unassign', '--wait', 'block-icmp', 'web-1')).toContain('detached');
  expect(reaches()).toBe(true);
  expect(local('attachments')).toEqual({
    status: 0,
    stdout: 'ARTIFACT  VERSION  STATE  PROGRAM  HOOK  LINK  PROGRAM ID  RUNS\n',
    stderr: 'aegis: this node has no artifacts.\n',
  });
});

test('a version that the verifier rejects leaves the old one, and the status tells both', () => {
  fleet.aegis('assign', '--wait', '--set', `target_ip=${BLOCKED}`, 'block-icmp@1.0.0', 'web-1');
  const source = at('block-icmp/block_icmp.bpf.c');
  const good = readFileSync(source, 'utf8');
  writeFileSync(source, good.replace('(void *)(ip + 1) >', '(void *)(eth + 1) >'));
  make(at('block-icmp'));
  stage.release('block-icmp', '1.2.0');
  const failed = fleet.tryAegis('assign', '--wait', 'block-icmp@1.2.0', 'web-1');
  expect({ status: failed.status, stderr: failed.stderr }).toEqual({
    status: 1,
    stderr: "aegis: failed on web-1. 'aegis artifacts status block-icmp' says why.\n",
  });
  expect(failed.stdout).toContain('1.2.0 failed (artifacts.load_failed), 1.0.0 runs: ');
  expect(reaches()).toBe(false);
  const { items } = fleet.json<{ items: { report: { verifier_log: string } }[] }>('artifacts', 'status', 'block-icmp');
  expect(items[0]?.report.verifier_log).toContain('invalid access to packet');
});
