import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { makeNamespaces } from '../fleet/namespaces.ts';

/** A network namespace whose only way to a server on this machine's loopback loses, doubles, delays and reorders packets. */
export interface BadLink extends AsyncDisposable {
  /** The server, from in there. */
  readonly url: string;
  /** `argv` as it runs in there. */
  argv(...argv: readonly string[]): string[];
  /** Ends it. @returns how many packets met which fault */
  end(): Promise<Counts>;
}
export interface LinkFaults {
  /** Parts of one. */
  loss: number;
  duplicate: number;
  /** These come three delays later than the others. */
  reorder: number;
  delay_ms: number;
}
type Counts = Record<'passed' | 'lost' | 'duplicated' | 'reordered', number>;

export const startBadLink = async (serverPort: number, faults: LinkFaults): Promise<BadLink> => {
  const namespaces = makeNamespaces();
  const program = join(import.meta.dirname, 'bad-link.py');
  const { node, peer } = namespaces;
  const child = spawn('python3', [program, node.path, peer.path, String(serverPort), JSON.stringify(faults)], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const gone = once(child, 'exit');
  const next = async (): Promise<string> => {
    const { value, done } = await lines.next();
    if (done) throw new Error('the bad link ended: it needs root, python3, iproute2 and /dev/net/tun');
    return value;
  };
  const dispose = async (): Promise<void> => {
    child.stdin.end();
    await gone;
    namespaces[Symbol.dispose]();
  };
  try {
    await next();
  } catch (error) {
    await dispose();
    throw error;
  }
  return {
    url: 'http://198.18.0.2:8080',
    argv: node.argv,
    end: async () => {
      child.stdin.end();
      return JSON.parse(await next()) as Counts;
    },
    [Symbol.asyncDispose]: dispose,
  };
};
