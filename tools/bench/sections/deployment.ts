import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { NodeArtifact } from '@aegis/protocol/artifacts/endpoints';
import { startBenchFleet, wallClockMs } from '../bench-fleet.ts';
import { atMost, figure } from '../figure.ts';
import { publisher } from '../publisher.ts';
import { type Section, times } from '../section.ts';

/** From before the upload of a signed bundle until its program holds on a real node, by the node's own report. */
export const deployment: Section = {
  name: 'deployment',
  what: 'push to attached on one node over the long poll',
  run: async (context) => {
    const mount = /^\S+ (\S+) cgroup2 /m.exec(readFileSync('/proc/mounts', 'utf8'))?.[1];
    if (!mount) throw new Error('no cgroup v2 is mounted: mount -t cgroup2 none /sys/fs/cgroup');
    const cgroup = `/aegis-bench-${randomBytes(4).toString('hex')}`;
    mkdirSync(join(mount, cgroup));
    try {
      await using one = await startBenchFleet({ nodes: 1 });
      const { operator } = one;
      const pack = await publisher(operator, 'map_sk_storage', {
        name: 'account',
        attach: { kind: 'cgroup_skb', cgroup, direction: 'egress' },
      });
      const attached: number[] = [];
      const detached: number[] = [];
      const samples = times(context, 100, 15);
      for (let at = -3; at < samples; at++) {
        const name = `bench-${at + 3}`;
        const { push } = await pack(name);
        const before = wallClockMs();
        const { artifact_id } = await push();
        await operator.ask('POST', '/api/v1/assignments', { artifact: artifact_id, targets: ['web-1'] });
        const up = await settled(name, 'attached');
        const taken = wallClockMs();
        await operator.ask('POST', '/api/v1/unassignments', { artifact: name, targets: ['web-1'] });
        const down = await settled(name, 'detached');
        if (at >= 0) {
          attached.push(up - before);
          detached.push(down - taken);
        }
        await sleep(10);
      }
      return [
        figure('deployment', {
          name: 'push to attached, p50',
          unit: 'ms',
          samples: attached,
          bar: atMost(100, 'median'),
          note: 'upload, assignment, long poll, download, verification, load, attach; on one node over loopback',
        }),
        figure('deployment', { name: 'unassign to detached', unit: 'ms', samples: detached }),
      ];

      async function settled(name: string, state: string): Promise<number> {
        for (;;) {
          const { items } = await operator.ask<{ items: NodeArtifact[] }>(
            'GET',
            `/api/v1/artifact-status?name=${name}&limit=1`,
          );
          const [item] = items;
          if (!item && state === 'detached') return wallClockMs(); // confirmed, and no longer told
          if (item?.report && item.state === 'failed') throw new Error(JSON.stringify(item.report.reason));
          if (item?.report && item.state === state) return Date.parse(item.report.at);
          await sleep(3);
        }
      }
    } finally {
      rmdirSync(join(mount, cgroup));
    }
  },
};
