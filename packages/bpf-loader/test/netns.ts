/** Two network namespaces joined by a veth pair, both ends inside, no route out, removed on dispose. */
import { execFileSync, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { needRoot, run } from './commands.ts';

export interface Side {
  readonly name: string;
  /** Of the namespace, as attach points take it. */
  readonly path: string;
  readonly interface: string;
  readonly ipv4: string;
  /** A second address, of another network. */
  readonly other: string;
  readonly ipv6: string;
  readonly ifindex: number;
  /** `argv` as it runs in here: not by `ip netns exec`, which mounts another /sys over the one with bpffs. */
  inside(argv: readonly string[]): string[];
  run(argv: readonly string[]): Promise<string>;
}

export interface Netns extends Disposable {
  /** Where programs are attached. */
  readonly near: Side;
  readonly far: Side;
}

/** @param queues of each end: native XDP with redirection wants as many as there are CPUs */
export const makeNetns = ({ queues = 1 } = {}): Netns => {
  needRoot();
  const id = randomBytes(4).toString('hex');
  const names = { near: `aegis-${id}-near`, far: `aegis-${id}-far` };
  const dispose = () => {
    for (const name of Object.values(names)) spawnSync('ip', ['netns', 'delete', name], { stdio: 'ignore' });
  };
  const shape = ['numrxqueues', `${queues}`, 'numtxqueues', `${queues}`];
  const setUp = (name: string, number: number): string =>
    [
      'link set lo up',
      'link set wire up',
      `address add 192.0.2.${number}/24 dev wire`,
      `address add 198.51.100.${number}/24 dev wire`,
      `address add 2001:db8::${number}/64 dev wire nodad`,
    ].reduce((script, line) => `${script}${line}\n`, `# ${name}\n`);
  try {
    for (const name of Object.values(names)) execFileSync('ip', ['netns', 'add', name]);
    const link = [
      'link',
      'add',
      'wire',
      ...shape,
      'type',
      'veth',
      'peer',
      'name',
      'wire',
      'netns',
      names.far,
      ...shape,
    ];
    execFileSync('ip', ['-n', names.near, ...link]);
    for (const [number, name] of Object.values(names).entries())
      execFileSync('ip', ['-n', name, '-batch', '-'], { input: setUp(name, number + 1) });
  } catch (error) {
    dispose();
    throw error;
  }
  const side = (name: string, number: number): Side => {
    const path = `/run/netns/${name}`;
    const inside = (argv: readonly string[]) => ['nsenter', `--net=${path}`, '--', ...argv];
    const [own] = JSON.parse(execFileSync('ip', ['-n', name, '-j', 'link', 'show', 'wire'], { encoding: 'utf8' })) as {
      ifindex: number;
    }[];
    return {
      name,
      path,
      interface: 'wire',
      ipv4: `192.0.2.${number}`,
      other: `198.51.100.${number}`,
      ipv6: `2001:db8::${number}`,
      ifindex: own?.ifindex ?? 0,
      inside,
      run: (argv) => run(inside(argv)),
    };
  };
  return { near: side(names.near, 1), far: side(names.far, 2), [Symbol.dispose]: dispose };
};

interface PingOptions {
  count?: number;
  /** Around the command, as a cgroup's `inside`. */
  wrap?(argv: string[]): string[];
  /** All from one process and socket. */
  together?: boolean;
}

/** How many of `count` pings came back: patient, for answers that are expected. One process for each, as ping leaves soon after its
 *  last packet once others were answered. */
export const ping = (from: Side, address: string, { count = 1, wrap, together = false }: PingOptions = {}): number => {
  if (together) return received(from, address, ['-c', `${count}`, '-i', '0.1', '-W', '5'], wrap);
  let answered = 0;
  for (let left = count; left > 0; left -= 1) answered += received(from, address, ['-c', '1', '-W', '5'], wrap);
  return answered;
};

/** As `ping`, for answers that must not come: does not wait for them long. */
export const pingInVain = (from: Side, address: string, { count = 1, wrap }: PingOptions = {}): number =>
  received(from, address, ['-c', `${count}`, ...(count > 1 ? ['-i', '0.01'] : []), '-W', '0.2'], wrap);

const received = (from: Side, address: string, options: string[], wrap?: PingOptions['wrap']): number => {
  const command = ['ping', '-n', '-q', ...options, address];
  const [file = '', ...args] = from.inside(wrap ? wrap(command) : command);
  // Exit status 1 is "nothing came back", also said in the text.
  const { stdout, stderr } = spawnSync(file, args, { encoding: 'utf8' });
  const told = / (\d+) received/.exec(stdout)?.[1];
  if (told === undefined) throw new Error(`ping ${address}: ${stdout}${stderr}`);
  return Number(told);
};
