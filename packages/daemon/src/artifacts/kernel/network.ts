import type { Clock } from '../../platform/clock.ts';

/** Network namespaces as the kernel shows them: interfaces, and which of them carry a default route. */

export interface NamespaceFacts {
  inode: number;
  interfaces: readonly { name: string; index: number }[];
  /** Beginnings of /proc/net/route and /proc/net/ipv6_route. */
  routes: string;
  routes6: string;
}

/** Null: there is no such namespace. */
export type ReadNamespace = (netns: string | undefined) => Promise<NamespaceFacts | null>;

export interface Look {
  /** Null: there is no such namespace. */
  facts: NamespaceFacts | null;
  /** What wishes are resolved from: two looks that found the same have the same. Not the routes' own text, which has counters. */
  text: string;
}

export interface Network {
  /** As they are now. */
  fresh(netns: string | undefined): Promise<Look>;
  /** As they were within the last `ttlMs`: so that a pass over many attachments asks once. */
  recent(netns: string | undefined): Promise<Look>;
}

export const network = (read: ReadNamespace, clock: Clock, ttlMs: number): Network => {
  const known = new Map<string, { at: number; look: Promise<Look> }>();
  const fresh = (netns: string | undefined): Promise<Look> => {
    const look = read(netns).then((facts) => ({ facts, text: facts === null ? '' : textOf(facts) }));
    known.set(netns ?? '', { at: clock.monotonic(), look });
    return look;
  };
  return {
    fresh,
    recent: (netns) => {
      const found = known.get(netns ?? '');
      return found && clock.monotonic() - found.at <= ttlMs ? found.look : fresh(netns);
    },
  };
};

const textOf = (facts: NamespaceFacts): string =>
  JSON.stringify([facts.inode, facts.interfaces, defaultRouteInterfaces(facts)]);

const RTF_UP = 0x1;
const RTF_REJECT = 0x200;

/** The interfaces of the best default routes, of IPv4 and IPv6: one, two when they differ, none. */
export const defaultRouteInterfaces = ({ routes, routes6 }: Pick<NamespaceFacts, 'routes' | 'routes6'>): string[] => {
  const best = (candidates: readonly { name: string; metric: number }[]): string[] =>
    candidates
      .toSorted((a, b) => a.metric - b.metric)
      .slice(0, 1)
      .map(({ name }) => name);
  const ipv4 = routes.split('\n').flatMap((line) => {
    const [name = '', destination, , flags = '', , , metric, mask] = line.trim().split(/\s+/);
    const usable = (Number.parseInt(flags, 16) & (RTF_UP | RTF_REJECT)) === RTF_UP;
    return destination === '00000000' && mask === '00000000' && usable ? [{ name, metric: Number(metric) }] : [];
  });
  const ipv6 = routes6.split('\n').flatMap((line) => {
    const [destination = '', length, , , , metric = '', , , flags = '', name = ''] = line.trim().split(/\s+/);
    const usable = (Number.parseInt(flags, 16) & (RTF_UP | RTF_REJECT)) === RTF_UP;
    const any = /^0{32}$/.test(destination) && length === '00' && name !== 'lo';
    return any && usable ? [{ name, metric: Number.parseInt(metric, 16) }] : [];
  });
  return [...new Set([...best(ipv4), ...best(ipv6)])];
};

/** `eth*` and `ens?`; anything else is a name. */
export const isGlob = (pattern: string): boolean => /[*?]/.test(pattern);
export const matchesGlob = (pattern: string, name: string): boolean =>
  new RegExp(
    `^${pattern
      .replaceAll(/[.+^${}()|[\]\\]/g, '\\$&')
      .replaceAll('*', '.*')
      .replaceAll('?', '.')}$`,
  ).test(name);
