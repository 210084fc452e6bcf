import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { attach } from '@aegis/bpf-loader/attach';
import { inspectObject } from '@aegis/bpf-loader/inspect';
import { loadObject } from '@aegis/bpf-loader/object';
import type { AttachPoint } from '@aegis/bpf-loader/types';
import { programPath } from '../../packages/bpf-loader/test/programs.ts';
import { median } from './statistics.ts';

/** Loads, attaches and pins objects in this process and by bpftool, in turn. Runs inside a network namespace of its own, started by
 *  sections/loader.ts: argv is the interface, a scratch cgroup, a scratch folder in bpffs, and the rounds; prints one JSON line. */

export interface ContestResult {
  object: string;
  oursMs: number;
  bpftoolMs: number;
}

interface Contestant {
  object: string;
  program: string;
  point: AttachPoint;
  /** `bpftool …` that attaches the program pinned at PIN. */
  attachArgs: string[];
}

const XDP = [
  'attach_xdp',
  'globals',
  'loops_and_timers',
  'map_arrays',
  'map_bloom_filter',
  'map_hashes',
  'map_in_map',
  'map_lpm_trie',
  'map_perf_event_array',
  'map_queue_stack',
  'map_redirects',
  'net_echo',
  'ring_events',
  'tail_calls',
];
const CGROUP: readonly [object: string, attachType: string, kind: (cgroup: string) => AttachPoint][] = [
  ['attach_cgroup_skb', 'cgroup_inet_egress', (cgroup) => ({ kind: 'cgroup_skb', cgroup, direction: 'egress' })],
  ['map_cgroup_storage', 'cgroup_inet_egress', (cgroup) => ({ kind: 'cgroup_skb', cgroup, direction: 'egress' })],
  ['map_sk_storage', 'cgroup_inet_egress', (cgroup) => ({ kind: 'cgroup_skb', cgroup, direction: 'egress' })],
  ['attach_cgroup_sock', 'cgroup_inet_sock_create', (cgroup) => ({ kind: 'cgroup_sock', cgroup, hook: 'create' })],
  ['attach_sock_addr', 'cgroup_inet4_connect', (cgroup) => ({ kind: 'cgroup_sock_addr', cgroup, hook: 'connect4' })],
  ['attach_device', 'cgroup_device', (cgroup) => ({ kind: 'cgroup_device', cgroup })],
  ['attach_sock_ops', 'cgroup_sock_ops', (cgroup) => ({ kind: 'sock_ops', cgroup })],
  ['attach_sysctl', 'cgroup_sysctl', (cgroup) => ({ kind: 'cgroup_sysctl', cgroup })],
  ['attach_sockopt', 'cgroup_getsockopt', (cgroup) => ({ kind: 'cgroup_sockopt', cgroup, hook: 'get' })],
];

const [iface = '', cgroup = '', pins = '', rounds = '5'] = process.argv.slice(2);

const bpftool = (...args: string[]): string => execFileSync('bpftool', args, { encoding: 'utf8', stdio: 'pipe' });

/** Which of an object's programs belongs at the hook, by its section. */
const programAt = async (object: string, section: RegExp): Promise<string> => {
  const { programs } = await inspectObject(readFileSync(programPath(object)));
  const found = programs.find((one) => section.test(one.section));
  if (!found) throw new Error(`${object} has no program in a section like ${section}`);
  return found.name;
};
const SECTIONS: Readonly<Record<string, RegExp>> = {
  cgroup_inet_egress: /^cgroup_skb\/egress/,
  cgroup_inet_sock_create: /^cgroup\/sock_create/,
  cgroup_inet4_connect: /^cgroup\/connect4/,
  cgroup_device: /^cgroup\/dev/,
  cgroup_sock_ops: /^sockops/,
  cgroup_sysctl: /^cgroup\/sysctl/,
  cgroup_getsockopt: /^cgroup\/getsockopt/,
};

const contestants = async (): Promise<Contestant[]> => [
  ...(await Promise.all(
    XDP.map(async (object): Promise<Contestant> => {
      const program = await programAt(object, /^xdp/);
      return {
        object,
        program,
        point: { kind: 'xdp', interface: iface, mode: 'generic' },
        attachArgs: ['net', 'attach', 'xdpgeneric', 'pinned', join(pins, 'theirs', program), 'dev', iface],
      };
    }),
  )),
  ...(await Promise.all(
    CGROUP.map(async ([object, attachType, point]): Promise<Contestant> => {
      const program = await programAt(object, SECTIONS[attachType] ?? /^$/);
      return {
        object,
        program,
        point: point(cgroup),
        attachArgs: ['cgroup', 'attach', cgroup, attachType, 'pinned', join(pins, 'theirs', program)],
      };
    }),
  )),
];

const ours = async ({ object, program, point }: Contestant): Promise<number> => {
  const bytes = readFileSync(programPath(object));
  const started = performance.now();
  // Every program of the object is loaded, as `loadall` does.
  const loaded = await loadObject(bytes);
  const attached = await attach(loaded.program(program), point, { pinPath: join(pins, 'ours') });
  const ms = performance.now() - started;
  attached.links[0]?.detach();
  rmSync(join(pins, 'ours'));
  attached[Symbol.dispose]();
  loaded[Symbol.dispose]();
  return ms;
};

const theirs = ({ object, point, attachArgs, program }: Contestant): number => {
  const folder = join(pins, 'theirs');
  const started = performance.now();
  bpftool('prog', 'loadall', programPath(object), folder);
  bpftool(...attachArgs);
  const ms = performance.now() - started;
  if (point.kind === 'xdp') bpftool('net', 'detach', 'xdpgeneric', 'dev', iface);
  else bpftool('cgroup', 'detach', cgroup, attachArgs[3] ?? '', 'pinned', join(folder, program));
  rmSync(folder, { recursive: true });
  return ms;
};

mkdirSync(cgroup);
mkdirSync(pins, { mode: 0o700 });
try {
  const results: ContestResult[] = [];
  for (const one of await contestants()) {
    const taken: { ours: number[]; theirs: number[] } = { ours: [], theirs: [] };
    for (let round = 0; round <= Number(rounds); round++) {
      const pair = { ours: await ours(one), theirs: theirs(one) };
      if (round === 0) continue;
      taken.ours.push(pair.ours);
      taken.theirs.push(pair.theirs);
    }
    results.push({ object: one.object, oursMs: median(taken.ours), bpftoolMs: median(taken.theirs) });
  }
  process.stdout.write(`${JSON.stringify(results)}\n`);
} finally {
  rmSync(pins, { recursive: true, force: true });
  rmdirSync(cgroup);
}
