import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { makeNamespaces } from '../../../test/fleet/namespaces.ts';
import { atMost, figure } from '../figure.ts';
import type { ContestResult } from '../loader-contest.ts';
import { type Section, times } from '../section.ts';

/** Load, attach and pin: in the daemon's process through the addon, and by two bpftool processes, as a shell script would. */
export const loader: Section = {
  name: 'loader',
  what: 'load and attach eBPF objects, against bpftool',
  run: async (context) => {
    using network = makeNamespaces();
    const mount = /^\S+ (\S+) cgroup2 /m.exec(readFileSync('/proc/mounts', 'utf8'))?.[1];
    if (!mount) throw new Error('no cgroup v2 is mounted: mount -t cgroup2 none /sys/fs/cgroup');
    const id = `aegis-bench-${randomBytes(4).toString('hex')}`;
    const [file = '', ...args] = network.node.argv(
      process.execPath,
      fileURLToPath(new URL('../loader-contest.ts', import.meta.url)),
      network.node.interface,
      join(mount, id),
      `/sys/fs/bpf/${id}`,
      String(times(context, 15, 3)),
    );
    const results = JSON.parse(
      execFileSync(file, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] }),
    ) as ContestResult[];
    return [
      figure('loader', {
        name: 'load, attach and pin an object',
        unit: 'ms',
        samples: results.map(({ oursMs }) => oursMs),
        comparedWith: { name: 'bpftool prog loadall + attach', samples: results.map(({ bpftoolMs }) => bpftoolMs) },
        bar: atMost(1, 'ratio'),
        note: `${results.length} objects, each the median of its rounds; both sides load every program of the object and attach one`,
      }),
    ];
  },
};
