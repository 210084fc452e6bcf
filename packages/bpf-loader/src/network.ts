/** A network namespace's interfaces and the beginnings of its routing tables, read on a thread that enters it. */
import { checkPath } from './arguments.ts';
import { LoaderError, typedAsync } from './errors.ts';
import { addon } from './loader.ts';

export interface NamespaceFacts {
  /** Of the namespace itself, as `LinkInfo.netnsInode` has it. */
  inode: number;
  interfaces: readonly { name: string; index: number }[];
  /** The first 256 KiB of /proc/net/route and /proc/net/ipv6_route, where default routes stand; empty unless asked for. */
  routes: string;
  routes6: string;
}

/** Null: there is no such namespace. Without `netns` of the process's own. */
export const namespaceFacts = async (netns?: string, { routes = false } = {}): Promise<NamespaceFacts | null> => {
  const path = netns === undefined ? '' : checkPath(netns, 'A network namespace');
  try {
    return await typedAsync(async () => addon().namespaceFacts(path, routes));
  } catch (error) {
    if (error instanceof LoaderError && error.code === 'bpf.no_such_target') return null;
    throw error;
  }
};
