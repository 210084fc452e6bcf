/** What the kernel holds, whoever made it: ids of programs, maps and links, and who is attached to a hook. A reconciler's truth. */
import { checkInteger, checkInterface, checkPath } from './arguments.ts';
import { invalid, typed, typedAsync } from './errors.ts';
import { attachTypeNumber, loadKindOf } from './kernel-types.ts';
import { addon } from './loader.ts';
import { tcTarget } from './tc.ts';
import type { AttachPoint } from './types.ts';

export const programIds = (): number[] => typed(() => addon().listIds('program'));
export const mapIds = (): number[] => typed(() => addon().listIds('map'));
export const linkIds = (): number[] => typed(() => addon().listIds('link'));
export const btfIds = (): number[] => typed(() => addon().listIds('btf'));

/** Raw BTF of one of the kernel's BTF objects: the `btfId` of a program or map, 1 for the kernel itself. */
export const btfById = (id: number): Buffer => typed(() => addon().btfBytes(checkInteger(id, 1, 2 ** 32 - 1, 'An id')));

export interface XdpState {
  ifindex: number;
  /** Program ids; 0: none. */
  native: number;
  generic: number;
  offload: number;
}

export const xdpState = (interfaceName: string, netns = ''): Promise<XdpState> =>
  typedAsync(async () => addon().xdpState(checkInterface(interfaceName), checkNetns(netns)));

export interface HookState {
  /** In the order in which they run. */
  programIds: number[];
  /** Of tcx, beside programIds; 0 where a program is attached without a link. Empty on other hooks. */
  linkIds: number[];
  /** Of tcx: grows with each change. */
  revision?: bigint;
}

/** Who is at the hook of a point (on xdp in any mode; at its own handle on tc). Tracing kinds, perf events, sockets and netfilter
 *  have no such question: list the links. */
export const hookState = (point: AttachPoint, { effective = false } = {}): Promise<HookState> =>
  typedAsync(async () => {
    switch (point.kind) {
      case 'xdp': {
        const { native, generic, offload } = await xdpState(point.interface, point.netns);
        return { programIds: [native, generic, offload].filter((id) => id !== 0), linkIds: [] };
      }
      case 'tcx':
        return hook(
          await addon().tcxState(
            checkInterface(point.interface),
            attachTypeNumber(`tcx_${point.direction}`),
            checkNetns(point.netns ?? ''),
          ),
        );
      case 'tc': {
        const id = await addon().tcQuery(tcTarget(point));
        return { programIds: id === 0 ? [] : [id], linkIds: [] };
      }
      case 'sk_lookup':
      case 'flow_dissector':
        return hook(await addon().netnsState(checkNetns(point.netns ?? ''), attachTypeNumber(point.kind)));
      case 'cgroup_skb':
      case 'cgroup_sock':
      case 'cgroup_sock_addr':
      case 'cgroup_sockopt':
      case 'cgroup_sysctl':
      case 'cgroup_device':
      case 'sock_ops': {
        const { attachType } = loadKindOf(point);
        if (attachType === undefined) throw new TypeError(`${point.kind} has no attach type`);
        return hook(
          await addon().cgroupState(checkPath(point.cgroup, 'A cgroup'), attachTypeNumber(attachType), effective),
        );
      }
      default:
        throw invalid(`Of ${point.kind} the kernel does not tell who is there: read the links instead.`);
    }
  });

const hook = ({
  programs,
  links,
  revision,
}: {
  programs: number[];
  links: number[];
  revision?: bigint;
}): HookState => ({
  programIds: programs,
  linkIds: links,
  ...(revision === undefined ? {} : { revision }),
});

const checkNetns = (netns: string): string => (netns === '' ? '' : checkPath(netns, 'A network namespace'));

/** The index of an interface in a network namespace; bpf.no_such_target without it. */
export const interfaceIndex = (interfaceName: string, netns = ''): Promise<number> =>
  typedAsync(async () => addon().interfaceIndex(checkInterface(interfaceName), checkNetns(netns)));

/** Counts runs and run time of every program (`ProgramInfo.runCount`, `.runTimeNs`) until it is disposed; costs some 20 ns a run. */
export const enableStats = (): Disposable => {
  const hold = typed(() => addon().enableStats());
  return { [Symbol.dispose]: () => addon().close(hold) };
};
