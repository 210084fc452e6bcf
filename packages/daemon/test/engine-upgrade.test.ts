import { join } from 'node:path';
import { openMap } from '@aegis/bpf-loader/maps';
import { expect, test } from 'vitest';
import { makeCgroup } from '../../bpf-loader/test/cgroup.ts';
import { makeNetns } from '../../bpf-loader/test/netns.ts';
import { DeployError, type Deployment } from '../src/artifacts/deployment.ts';
import { artifactKey, key16, layout } from '../src/artifacts/kernel/layout.ts';
import { cgroupMount } from '../src/artifacts/kernel/resolve.ts';
import { deployment, type EngineFixture, engineFixture, startTraffic, trafficProgram } from './engine-fixture.ts';

/** Upgrades while packets flow at full speed: the filter drops one of two ports, and what reaches the receiver there passed
 *  unfiltered. A kept map has a thousand entries that must all be there in the end. */

const BLOCKED = 4000;
const OPEN = 4001;
const UPGRADES = 100;
const FAILURES = 20;
const ENTRIES = 1000;

const keptMap = ({ bpffs }: EngineFixture, name: string): string => {
  const all = layout(bpffs.path, bpffs.nodeUid);
  return join(all.artifact(artifactKey(name)).kept, key16('kept_counts'));
};
const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
};
const u64 = (value: number): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
};
const DROPPED = u32(1_000_000);

/** Each fails in another way: the verifier refuses it, a hook is not there, a step in the middle breaks. */
const FAULTS = ['rejected', 'no such hook', 'broken update', 'broken attach'] as const;

test.each(['xdp', 'tcx', 'clsact', 'cgroup_skb'] as const)(
  '%s: no packet passes unfiltered and no kept entry is lost',
  async (kind) => {
    using net = makeNetns();
    await using group = await makeCgroup();
    let breakAt: string | null = null;
    const faults = {
      at: (point: string) => {
        if (point !== breakAt) return;
        breakAt = null;
        throw new Error('broken by the test');
      },
    };
    using fixture = engineFixture({ faults });
    const mount = cgroupMount() ?? '';
    const near = { interface: 'wire', netns: net.near.path };
    const attach = {
      xdp: { kind: 'xdp', mode: 'generic', ...near },
      tcx: { kind: 'tc', direction: 'ingress', mechanism: 'tcx', ...near },
      clsact: { kind: 'tc', direction: 'ingress', mechanism: 'clsact', ...near },
      cgroup_skb: { kind: 'cgroup_skb', direction: 'ingress', cgroup: group.path.slice(mount.length) },
    } as const;
    const name = { xdp: 'xdp_filter', tcx: 'tc_filter', clsact: 'tc_filter', cgroup_skb: 'skb_filter' }[kind];
    const version = (number: number, more: Partial<Parameters<typeof deployment>[0]> = {}): Deployment =>
      deployment({
        version: number,
        programs: [{ name, attach: attach[kind] }],
        constants: [{ name: 'blocked_port', type: 'port', value: BLOCKED }],
        maps: [{ name: 'kept_counts', keep: true }],
        ...more,
      });
    const failing = (number: number, how: (typeof FAULTS)[number]): Deployment => {
      if (how === 'rejected')
        return version(number, {
          object: 'rejected',
          programs: [{ name: 'xdp_filter', attach: { kind: 'xdp', mode: 'generic', ...near } }],
          constants: [],
          maps: [],
        });
      if (how === 'no such hook')
        return version(number, {
          programs: [
            { name, attach: attach[kind] },
            { name: 'raw_any', attach: { kind: 'raw_tracepoint', name: 'no_such_thing' } },
          ],
        });
      breakAt = how === 'broken update' ? 'daemon.after-deploy.update' : 'daemon.before-deploy.attach';
      return version(number, {
        programs: [
          { name, attach: attach[kind] },
          { name: 'trace_getpgid', attach: { kind: 'tracepoint', category: 'syscalls', name: 'sys_enter_getpgid' } },
        ],
      });
    };

    let current = version(1);
    const first = await fixture.engine.apply(current);
    using kept = openMap(keptMap(fixture, 'filter'));
    for (let at = 0; at < ENTRIES; at++) kept.update(u32(at), u64(at * 7));
    const inGroup = kind === 'cgroup_skb' ? group.inside : (argv: readonly string[]) => [...argv];
    const program = trafficProgram();
    using receiver = await startTraffic(net.near.inside(inGroup([program, 'receive', `${BLOCKED}`, `${OPEN}`])));
    using sender = await startTraffic(net.far.inside([program, 'send', net.near.ipv4, `${BLOCKED}`, `${OPEN}`]));

    let upgraded = 1;
    const failed: string[] = [];
    let dropped = 0n;
    for (let round = 1; round <= UPGRADES; round++) {
      if (round % (UPGRADES / FAILURES) === 0) {
        const how = FAULTS[failed.length % FAULTS.length] ?? 'rejected';
        const error = await fixture.engine.apply(failing(10_000 + round, how)).then(
          () => null,
          (thrown: unknown) => thrown,
        );
        expect(error).toBeInstanceOf(DeployError);
        if (error instanceof DeployError) failed.push(error.code);
      }
      const next = version(++upgraded);
      const state = await fixture.engine.apply(next);
      current = next;
      expect(state.drift).toEqual([]);
      expect(state.attachments[0]?.link_id).toBe(first.attachments[0]?.link_id);
      const now = kept.lookup(DROPPED)?.readBigUInt64LE() ?? 0n;
      expect(now).toBeGreaterThanOrEqual(dropped);
      dropped = now;
    }
    const [sentBlocked = 0, sentOpen = 0] = await sender.counts();
    const [unfiltered, received = 0] = await receiver.counts();
    console.log(
      `${kind}: ${UPGRADES} upgrades and ${failed.length} failed ones while ${sentBlocked + sentOpen} packets were sent: ${dropped} dropped, ${received} passed, ${unfiltered} unfiltered`,
    );
    expect(failed).toHaveLength(FAILURES);
    expect(new Set(failed)).toEqual(new Set(['artifacts.load_failed', 'artifacts.attach_failed']));
    expect(unfiltered).toBe(0);
    expect(received).toBeGreaterThan(0);
    expect(dropped).toBeGreaterThan(0n);
    const held = await kept.dump(4096);
    const values = new Map(held.entries.map(({ key, value }) => [key.readUInt32LE(), Number(value.readBigUInt64LE())]));
    expect(Array.from({ length: ENTRIES }, (_, at) => values.get(at))).toEqual(
      Array.from({ length: ENTRIES }, (_, at) => at * 7),
    );
    const after = await fixture.engine.apply(current);
    expect(after.attachments).toHaveLength(1);
    expect(after.maps.find((map) => map.name === 'kept_counts')?.map_id).toBe(kept.info().id);
  },
);
