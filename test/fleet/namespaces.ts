import { execFileSync, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';

/** Two network namespaces joined by a veth pair, both ends inside, no route out: all that a test of attached programs sends stays
 *  in there. The addresses are those set aside for documentation (RFC 5737, RFC 3849). */
export interface Namespaces extends Disposable {
  /** Argument vectors before a program that is to run on one side. */
  readonly node: Side;
  readonly peer: Side;
}
export interface Side {
  readonly name: string;
  readonly path: string;
  /** The one interface beside lo. */
  readonly interface: string;
  /** `argv` as it runs on this side. Not by `ip netns exec`, which mounts another /sys over the one with bpffs. */
  argv(...argv: readonly string[]): string[];
  run(argv: readonly string[], options?: { input?: string; env?: Record<string, string> }): Outcome;
}
export interface Outcome {
  status: number | null;
  stdout: string;
  stderr: string;
}

export const NODE_ADDRESS = '192.0.2.1';
/** All on the peer. */
export const PEER_ADDRESSES = ['192.0.2.2', '192.0.2.9', '198.51.100.9'] as const;

export const makeNamespaces = (): Namespaces => {
  const id = randomBytes(3).toString('hex');
  const names = { node: `aegis-${id}-n`, peer: `aegis-${id}-p` };
  const ip = (...args: string[]) => execFileSync('ip', args, { stdio: ['ignore', 'ignore', 'pipe'] });
  const dispose = () => {
    for (const name of Object.values(names)) spawnSync('ip', ['netns', 'delete', name], { stdio: 'ignore' });
  };
  try {
    for (const name of Object.values(names)) ip('netns', 'add', name);
    ip('-n', names.node, 'link', 'add', 'uplink', 'type', 'veth', 'peer', 'name', 'uplink', 'netns', names.peer);
    for (const name of Object.values(names)) {
      ip('-n', name, 'link', 'set', 'lo', 'up');
      ip('-n', name, 'link', 'set', 'uplink', 'up');
    }
    ip('-n', names.node, 'address', 'add', `${NODE_ADDRESS}/24`, 'dev', 'uplink');
    ip('-n', names.node, '-6', 'address', 'add', '2001:db8::1/64', 'dev', 'uplink', 'nodad');
    ip('-n', names.node, 'route', 'add', '198.51.100.0/24', 'via', PEER_ADDRESSES[0]);
    for (const address of PEER_ADDRESSES) ip('-n', names.peer, 'address', 'add', `${address}/24`, 'dev', 'uplink');
    ip('-n', names.peer, '-6', 'address', 'add', '2001:db8::2/64', 'dev', 'uplink', 'nodad');
  } catch (error) {
    dispose();
    throw error;
  }
  const side = (name: string): Side => {
    const path = `/run/netns/${name}`;
    const argv = (...rest: readonly string[]) => ['nsenter', `--net=${path}`, '--', ...rest];
    return {
      name,
      path,
      interface: 'uplink',
      argv,
      run: (rest, options = {}) => {
        const [file = '', ...args] = argv(...rest);
        const { status, stdout, stderr, error } = spawnSync(file, args, {
          encoding: 'utf8',
          maxBuffer: 64 * 1024 * 1024,
          ...options,
        });
        if (error) throw error;
        return { status, stdout, stderr };
      },
    };
  };
  return { node: side(names.node), peer: side(names.peer), [Symbol.dispose]: dispose };
};

/** Whether three pings out of three come back; false when none does. Anything between is a failure of the test. */
export const pings = (from: Side, address: string, wrap: (argv: string[]) => string[] = (argv) => argv): boolean => {
  const { stdout, stderr } = from.run(wrap(['ping', '-n', '-c', '3', '-i', '0.02', '-W', '1', address]));
  const received = /3 packets transmitted, (\d) received/.exec(stdout)?.[1];
  if (received === '3') return true;
  if (received === '0') return false;
  throw new Error(`ping ${address}: ${stdout}${stderr}`);
};
