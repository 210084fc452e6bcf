import type { AttachTo } from '@aegis/protocol/artifacts/attach-point';
import { expect, test } from 'vitest';
import type * as z from 'zod/mini';
import { makeNetns, type Netns } from '../../bpf-loader/test/netns.ts';
import { programBytes } from '../../bpf-loader/test/programs.ts';
import { DeployError, type Deployment } from '../src/artifacts/deployment.ts';
import { cgroupMount } from '../src/artifacts/kernel/resolve.ts';
import { deployment, engineFixture, type TestCgroup, testCgroup, trafficProgram } from './engine-fixture.ts';

/** Every kind of hook by the engine: put in place, found in place by another engine, replaced by another version, taken off. What this
 *  kernel does not have is refused with a code that says so. */

type Attach = z.input<typeof AttachTo>;
type Wish = [object: string, program: string, attach: (net: Netns, group: TestCgroup) => Attach];

const inGroup =
  <const T extends object>(rest: T) =>
  (_: Netns, { name: cgroup }: TestCgroup) => ({ ...rest, cgroup });
const SOCK_ADDR = ['bind', 'connect', 'sendmsg', 'recvmsg', 'getpeername', 'getsockname'] as const;

const WISHES: Record<string, Wish> = {
  cgroup_sock_create: ['attach_cgroup_sock', 'no_datagrams', inGroup({ kind: 'cgroup_sock', hook: 'create' })],
  cgroup_sock_release: ['attach_cgroup_sock', 'released', inGroup({ kind: 'cgroup_sock', hook: 'release' })],
  cgroup_sock_post_bind4: ['attach_cgroup_sock', 'no_port4', inGroup({ kind: 'cgroup_sock', hook: 'post_bind4' })],
  cgroup_sock_post_bind6: ['attach_cgroup_sock', 'no_port6', inGroup({ kind: 'cgroup_sock', hook: 'post_bind6' })],
  ...Object.fromEntries(
    SOCK_ADDR.flatMap((act) =>
      ([4, 6] as const).map((family): [string, Wish] => [
        `cgroup_sock_addr ${act}${family}`,
        ['attach_sock_addr', `on_${act}${family}`, inGroup({ kind: 'cgroup_sock_addr', hook: `${act}${family}` })],
      ]),
    ),
  ),
  cgroup_sockopt_set: ['attach_sockopt', 'on_set', inGroup({ kind: 'cgroup_sockopt', hook: 'set' })],
  cgroup_sockopt_get: ['attach_sockopt', 'on_get', inGroup({ kind: 'cgroup_sockopt', hook: 'get' })],
  cgroup_sysctl: ['attach_sysctl', 'read_only', inGroup({ kind: 'cgroup_sysctl' })],
  cgroup_device: ['attach_device', 'no_zero', inGroup({ kind: 'cgroup_device' })],
  sock_ops: ['attach_sock_ops', 'watch', inGroup({ kind: 'sock_ops' })],
  tracepoint: [
    'attach_tracepoint',
    'on_exec',
    () => ({ kind: 'tracepoint', category: 'sched', name: 'sched_process_exec' }),
  ],
  raw_tracepoint: ['attach_tracepoint', 'on_exec_raw', () => ({ kind: 'raw_tracepoint', name: 'sched_process_exec' })],
  uprobe: ['attach_uprobe', 'on_call', () => ({ kind: 'uprobe', binary: trafficProgram(), symbol: 'main' })],
  uretprobe: ['attach_uprobe', 'on_return', () => ({ kind: 'uretprobe', binary: trafficProgram(), symbol: 'main' })],
  kprobe: ['attach_kprobe', 'on_entry', () => ({ kind: 'kprobe', symbol: 'do_unlinkat' })],
  kretprobe: ['attach_kprobe', 'on_return', () => ({ kind: 'kretprobe', symbol: 'do_unlinkat' })],
  fentry: ['attach_trampoline', 'on_entry', () => ({ kind: 'fentry', function: 'do_unlinkat' })],
  fexit: ['attach_trampoline', 'on_exit', () => ({ kind: 'fexit', function: 'do_unlinkat' })],
  lsm: ['attach_trampoline', 'on_open', () => ({ kind: 'lsm', hook: 'file_open' })],
  perf_event: ['attach_perf_event', 'sample', () => ({ kind: 'perf_event', event: 'cpu_clock', frequency: 10 })],
  flow_dissector: ['attach_flow_dissector', 'dissect', ({ near }) => ({ kind: 'flow_dissector', netns: near.path })],
  sk_lookup: ['attach_sk_lookup', 'steer', ({ near }) => ({ kind: 'sk_lookup', netns: near.path })],
  netfilter: [
    'attach_netfilter',
    'no_icmp',
    ({ near }) => ({ kind: 'netfilter', family: 'ipv4', hook: 'output', netns: near.path }),
  ],
};

/** Kinds that a kernel may have been built without. */
const MAY_LACK: ReadonlySet<string> = new Set(['kprobe', 'kretprobe', 'fentry', 'fexit', 'lsm']);

test('every kind is put in place, found, replaced and taken off', async () => {
  using net = makeNetns();
  using group = testCgroup(cgroupMount() ?? '');
  const lacking: string[] = [];
  for (const [kind, [object, program, attach]] of Object.entries(WISHES)) {
    using fixture = engineFixture();
    const version = (number: number): Deployment => ({
      ...deployment({ version: number, programs: [{ name: program, attach: attach(net, group) }] }),
      constants: [],
      bytes: async () => ({ objects: new Map([['object.bpf.o', programBytes(object)]]) }),
    });
    const put = async (engine: typeof fixture.engine, number: number) => {
      const { attachments, drift, waiting } = await engine.apply(version(number));
      expect({ kind, drift, waiting, states: [...new Set(attachments.map(({ state }) => state))] }).toEqual({
        kind,
        drift: [],
        waiting: false,
        states: ['attached'],
      });
      return attachments.map(({ link_id: link, program_id: id }) => ({ link, id }));
    };
    let first: Awaited<ReturnType<typeof put>>;
    try {
      first = await put(fixture.engine, 1);
    } catch (error) {
      if (!(error instanceof DeployError) || !MAY_LACK.has(kind)) throw error;
      expect([kind, error.code]).toEqual([kind, 'artifacts.unsupported']);
      expect(fixture.bpffs.tree()).toEqual([]);
      lacking.push(`${kind}: ${error.message}`);
      continue;
    }
    expect(await put(fixture.engine, 1)).toEqual(first);
    expect(await put(fixture.restart(), 1)).toEqual(first);
    const second = await put(fixture.engine, 2);
    expect({ kind, same: second.some(({ id }, at) => id === first[at]?.id) }).toEqual({ kind, same: false });
    expect(await put(fixture.restart(), 2)).toEqual(second);
    await fixture.engine.remove('filter');
    expect({ kind, tree: fixture.bpffs.tree() }).toEqual({ kind, tree: [] });
  }
  for (const line of lacking) console.log(line);
});
