import { execFileSync } from 'node:child_process';
import { chownSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { makeNetns, type Netns } from '../../bpf-loader/test/netns.ts';
import { DeployError, type Deployment, type EngineState } from '../src/artifacts/deployment.ts';
import { deployment, type EngineFixture, engineFixture } from './engine-fixture.ts';

/** What does not work says so, with a code and the next step, and leaves everything as it was. */

const refusal = async ({ engine }: EngineFixture, wrong: Deployment): Promise<DeployError> => {
  const thrown = await engine.apply(wrong).then(
    () => null,
    (error: unknown) => error,
  );
  if (thrown instanceof DeployError) return thrown;
  throw new Error(`no DeployError: ${String(thrown)}`);
};
const said = ({ code, message }: DeployError) => [code, message];
const at = (net: Netns) => ({ interface: 'wire', netns: net.near.path });
const trace = {
  name: 'trace_getpgid',
  attach: { kind: 'tracepoint', category: 'syscalls', name: 'sys_enter_getpgid' },
} as const;

test('a program that the verifier refuses: its reason in the sentence, its whole log beside', async () => {
  using fixture = engineFixture();
  const wrong = await refusal(
    fixture,
    deployment({ object: 'rejected', programs: [{ name: 'xdp_filter', attach: { kind: 'xdp', interface: 'lo' } }] }),
  );
  expect(wrong.code).toBe('artifacts.load_failed');
  expect(wrong.message).toBe(
    "'filter' 1.0.1 cannot be loaded: The verifier rejected program xdp_filter: R1 offset is outside of the packet. The verifier's whole log is in the status (aegis artifacts status --json).",
  );
  expect(wrong.verifierLog).toContain('processed');
  expect(fixture.bpffs.tree()).toEqual([]);
});

test.each<[string, Partial<Parameters<typeof deployment>[0]>, string, string]>([
  [
    'an unknown constant lists those there are',
    { constants: [{ name: 'target', type: 'u32', value: 1 }] },
    'artifacts.unknown_constant',
    "The object has no constant 'target'. It has: blocked_port, version.",
  ],
  [
    'a constant of another size',
    { constants: [{ name: 'blocked_port', type: 'u64', value: 1 }] },
    'artifacts.bad_constant',
    'A u64 of 8 bytes does not fit the variable, which has 2.',
  ],
  [
    'a program that is not there',
    { programs: [{ name: 'absent', attach: trace.attach }] },
    'artifacts.load_failed',
    '',
  ],
  [
    'a program that would have to be loaded twice',
    {
      programs: [
        { name: 'skb_filter', attach: { kind: 'cgroup_sock', cgroup: '/', hook: 'create' } },
        { name: 'skb_filter', attach: { kind: 'cgroup_sock', cgroup: '/', hook: 'post_bind4' } },
      ],
    },
    'artifacts.unsupported',
    "Program 'skb_filter' is attached at two places that need it loaded twice: write it as two functions.",
  ],
  [
    'a file to probe that is not there',
    { programs: [{ name: 'trace_getpgid', attach: { kind: 'uprobe', binary: '/nowhere/at/all', symbol: 'main' } }] },
    'artifacts.attach_failed',
    "There is no file /nowhere/at/all for program 'trace_getpgid' on this node: install it or correct the path.",
  ],
  [
    'a tracepoint that is not there',
    { programs: [{ name: 'trace_getpgid', attach: { kind: 'tracepoint', category: 'syscalls', name: 'absent' } }] },
    'artifacts.attach_failed',
    "Program 'trace_getpgid' cannot be attached (tracepoint syscalls:absent): ",
  ],
])('%s', async (_, more, code, message) => {
  using fixture = engineFixture();
  const wrong = await refusal(fixture, deployment({ programs: [trace], ...more }));
  expect(wrong.code).toBe(code);
  expect(wrong.message.slice(0, message.length)).toBe(message);
  expect(wrong.message).toMatch(/\.$/);
  expect(fixture.bpffs.tree()).toEqual([]);
});

test('without cgroup v2 nothing is mounted, but told', async () => {
  using fixture = engineFixture({ cgroupRoot: null });
  const programs = [{ name: 'skb_filter', attach: { kind: 'cgroup_skb', cgroup: '/', direction: 'ingress' } } as const];
  expect(said(await refusal(fixture, deployment({ programs })))).toEqual([
    'artifacts.unsupported',
    'cgroup v2 is not mounted on this node: mount it (mount -t cgroup2 none /sys/fs/cgroup/unified) or boot with systemd.unified_cgroup_hierarchy=1.',
  ]);
});

test('a failed upgrade puts every hook back to what it ran, whatever it had changed', async () => {
  using net = makeNetns();
  let breaking = false;
  let updates = 0;
  const faults = {
    at: (point: string) => {
      if (breaking && point === 'daemon.after-deploy.update' && ++updates === 3) throw new Error('broken by the test');
    },
  };
  using fixture = engineFixture({ faults });
  const version = (number: number) =>
    deployment({
      version: number,
      programs: [
        { name: number === 1 ? 'xdp_filter' : 'xdp_renamed', attach: { kind: 'xdp', mode: 'generic', ...at(net) } },
        { name: 'tc_filter', attach: { kind: 'tc', direction: 'ingress', ...at(net) } },
        { name: 'tc_other', attach: { kind: 'tc', direction: 'ingress', mechanism: 'clsact', ...at(net) } },
        trace,
        { name: 'raw_any', attach: { kind: 'raw_tracepoint', name: number === 1 ? 'sys_enter' : 'sys_exit' } },
      ],
      maps: [{ name: 'kept_counts', keep: true }],
    });
  const facts = ({ attachments, maps }: EngineState) => ({
    links: attachments.map(({ program, hook, link_id: id, program_id: running }) => ({ program, hook, id, running })),
    maps: maps.map(({ name, map_id: id }) => ({ name, id })),
  });
  const first = facts(await fixture.engine.apply(version(1)));
  const tree = fixture.bpffs.tree();
  breaking = true;
  const wrong = await refusal(fixture, version(2));
  expect([...said(wrong), updates]).toEqual([
    'artifacts.attach_failed',
    "'filter' 1.0.2 cannot be attached: broken by the test. The daemon tries again; its log has more.",
    3,
  ]);
  expect(fixture.bpffs.tree()).toEqual(tree);
  const back = await fixture.engine.apply(version(1));
  expect(back.drift).toEqual([]);
  expect(facts(back)).toEqual(first);
  breaking = false;
  // The function was renamed: the XDP hook, which holds one, is taken over by its link all the same.
  const second = await fixture.engine.apply(version(2));
  expect(second.attachments[0]).toMatchObject({ program: 'xdp_renamed', link_id: first.links[0]?.id });
});

test('the mode of an XDP hook is not changed behind its back', async () => {
  using net = makeNetns();
  using fixture = engineFixture();
  const mode = (number: number, how: 'generic' | 'native' | 'auto') =>
    deployment({ version: number, programs: [{ name: 'xdp_filter', attach: { kind: 'xdp', mode: how, ...at(net) } }] });
  await fixture.engine.apply(mode(1, 'generic'));
  expect(said(await refusal(fixture, mode(2, 'native')))).toEqual([
    'artifacts.attach_failed',
    "Program 'xdp_filter' runs on wire in mode generic, and the kernel changes the mode of an XDP hook only through a moment without a program: unassign the artifact first, then assign the version with mode native.",
  ]);
  expect((await fixture.engine.apply(mode(3, 'auto'))).attachments).toHaveLength(1);
});

test('folders that somebody else made are refused, links are not followed', async () => {
  const elsewhere = mkdtempSync(join(tmpdir(), 'aegis-elsewhere-'));
  try {
    using fixture = engineFixture();
    const folder = join(fixture.bpffs.path, 'aegis');
    mkdirSync(folder);
    chownSync(folder, 65534, 65534);
    const refused = [
      'artifacts.attach_failed',
      `${folder} is not a folder of this daemon's user: somebody else made it. Remove it, then the daemon tries again.`,
    ];
    expect(said(await refusal(fixture, deployment({ programs: [trace] })))).toEqual(refused);
    execFileSync('rmdir', [folder]);
    symlinkSync(elsewhere, folder);
    expect(said(await refusal(fixture, deployment({ programs: [trace] })))).toEqual(refused);
    await expect(fixture.engine.remove('filter')).rejects.toMatchObject({ code: 'artifacts.attach_failed' });
    await expect(fixture.engine.sweep([])).rejects.toMatchObject({ code: 'artifacts.attach_failed' });
    expect(execFileSync('ls', [elsewhere], { encoding: 'utf8' })).toBe('');
  } finally {
    rmSync(elsewhere, { recursive: true });
  }
});

test('runs are counted while statistics are on', async () => {
  using fixture = engineFixture();
  const counted = deployment({
    programs: [{ name: 'raw_any', attach: { kind: 'raw_tracepoint', name: 'sys_enter' } }],
  });
  await fixture.engine.apply(counted);
  fixture.engine.statistics(true);
  execFileSync('true');
  const [on] = (await fixture.engine.apply(counted)).attachments;
  fixture.engine.statistics(false);
  expect(on?.run_count).toBeGreaterThan(0);
  expect(on?.run_time_ns).toBeGreaterThan(0);
});
