import * as z from 'zod/mini';

/** Where a manifest attaches a program. Interfaces may be a name, a glob (`eth*`) or `default-route`; the node resolves them each
 *  time it reconciles, so that an interface that comes later gets its program too. */

const Interface = z
  .string()
  .check(
    z.regex(/^(?!\.\.?$)[A-Za-z0-9_.:*?@-]{1,64}$/, 'an interface name, a glob such as eth*, or default-route'),
    z.describe('An interface name, a glob such as eth*, or default-route: resolved again at every pass.'),
  );
/** Absolute, without `..`: what root opens on the node is what the manifest's reader saw. `[\s\S]`, since `.` ends at a line separator
 *  (U+2028), which a path may hold. */
const PATH = /^(?![\s\S]*\/\.\.?(\/|$))\/[^\p{Cc}\p{Cs}]{0,1023}$/u;
const AbsolutePath = z.string().check(z.regex(PATH, "an absolute path without '.' or '..' parts"));
const NetnsPath = AbsolutePath.check(
  z.describe('A network namespace by its file, such as /run/netns/blue; otherwise that of the daemon.'),
);
/** Below the cgroup v2 mount (`/` is its root): `/system.slice/nginx.service`. */
const Cgroup = z
  .string()
  .check(z.regex(PATH, "a path below the cgroup v2 mount, such as /system.slice; '/' is the root"));
const SymbolName = z.string().check(z.regex(/^[A-Za-z0-9_.$@]{1,255}$/, 'a symbol name'));
const Name = z.string().check(z.regex(/^[A-Za-z0-9_-]{1,127}$/, 'a name of A-Z a-z 0-9 _ -'));
const Offset = z._default(z.int().check(z.minimum(0)), 0);
/** With a symbol the offset is from there, otherwise from the file's beginning, where no code is. */
const UserPlace = { binary: AbsolutePath, symbol: z.optional(SymbolName), offset: Offset };
const placed = ({ symbol, offset }: { symbol?: string | undefined; offset: number }): boolean =>
  symbol !== undefined || offset > 0;
const Netns = { netns: z.optional(NetnsPath) };
const Direction = z.enum(['ingress', 'egress']);
/** `name/program` of another artifact's program, or of this one's by `program` alone. */
const OrderAnchor = z
  .string()
  .check(
    z.regex(
      /^([a-z0-9][a-z0-9._-]{0,62}\/)?[A-Za-z_][A-Za-z0-9_]{0,127}$/,
      'a program of this artifact, or artifact/program',
    ),
    z.describe('A program of this artifact, or artifact/program.'),
  );

export const AttachTo = z.discriminatedUnion('kind', [
  z.strictObject({
    kind: z.literal('xdp'),
    interface: Interface,
    mode: z._default(
      z
        .enum(['auto', 'native', 'generic', 'offload'])
        .check(z.describe('auto: native where the driver has it, else generic.')),
      'auto',
    ),
    ...Netns,
  }),
  z.strictObject({
    kind: z.literal('tc'),
    interface: Interface,
    direction: Direction,
    mechanism: z._default(
      z.enum(['auto', 'tcx', 'clsact']).check(z.describe('auto: tcx where the kernel has it (6.6), else clsact.')),
      'auto',
    ),
    priority: z._default(
      z
        .int()
        .check(
          z.minimum(1),
          z.maximum(1000),
          z.describe("Lower runs first among Aegis' own programs of one hook; in clsact it is the filter's priority."),
        ),
      50,
    ),
    before: z.optional(OrderAnchor),
    after: z.optional(OrderAnchor),
    ...Netns,
  }),
  z.strictObject({ kind: z.literal('cgroup_skb'), cgroup: Cgroup, direction: Direction }),
  z.strictObject({
    kind: z.literal('cgroup_sock'),
    cgroup: Cgroup,
    hook: z.enum(['create', 'release', 'post_bind4', 'post_bind6']),
  }),
  z.strictObject({
    kind: z.literal('cgroup_sock_addr'),
    cgroup: Cgroup,
    hook: z.enum([
      'bind4',
      'bind6',
      'connect4',
      'connect6',
      'sendmsg4',
      'sendmsg6',
      'recvmsg4',
      'recvmsg6',
      'getpeername4',
      'getpeername6',
      'getsockname4',
      'getsockname6',
    ]),
  }),
  z.strictObject({ kind: z.literal('cgroup_sockopt'), cgroup: Cgroup, hook: z.enum(['get', 'set']) }),
  z.strictObject({ kind: z.literal('cgroup_sysctl'), cgroup: Cgroup }),
  z.strictObject({ kind: z.literal('cgroup_device'), cgroup: Cgroup }),
  z.strictObject({ kind: z.literal('sock_ops'), cgroup: Cgroup }),
  z.strictObject({ kind: z.literal('tracepoint'), category: Name, name: Name }),
  z.strictObject({ kind: z.literal('raw_tracepoint'), name: Name }),
  z.strictObject({ kind: z.literal('kprobe'), symbol: SymbolName, offset: Offset }),
  z.strictObject({ kind: z.literal('kretprobe'), symbol: SymbolName, offset: Offset }),
  z
    .strictObject({ kind: z.literal('uprobe'), ...UserPlace })
    .check(z.refine(placed, 'a symbol, or an offset into the file')),
  z
    .strictObject({ kind: z.literal('uretprobe'), ...UserPlace })
    .check(z.refine(placed, 'a symbol, or an offset into the file')),
  z.strictObject({ kind: z.literal('fentry'), function: SymbolName }),
  z.strictObject({ kind: z.literal('fexit'), function: SymbolName }),
  z.strictObject({ kind: z.literal('lsm'), hook: SymbolName }),
  z
    .strictObject({
      kind: z.literal('perf_event'),
      event: z.enum(['cpu_clock', 'task_clock', 'page_faults', 'context_switches', 'cpu_cycles', 'instructions']),
      period: z.optional(z.int().check(z.positive())),
      frequency: z.optional(z.int().check(z.positive(), z.maximum(100_000))),
    })
    .check(
      z.refine(
        (point) => (point.period === undefined) !== (point.frequency === undefined),
        'either period or frequency',
      ),
    ),
  z.strictObject({ kind: z.literal('socket_filter'), interface: Interface, ...Netns }),
  z.strictObject({ kind: z.literal('sk_lookup'), ...Netns }),
  z.strictObject({ kind: z.literal('flow_dissector'), ...Netns }),
  z.strictObject({
    kind: z.literal('netfilter'),
    family: z.enum(['ipv4', 'ipv6']),
    hook: z.enum(['prerouting', 'input', 'forward', 'output', 'postrouting']),
    priority: z._default(z.int().check(z.minimum(-1000), z.maximum(1000)), 0),
    ...Netns,
  }),
]);
export type AttachTo = z.infer<typeof AttachTo>;
export const ATTACH_KINDS = [
  'xdp',
  'tc',
  'cgroup_skb',
  'cgroup_sock',
  'cgroup_sock_addr',
  'cgroup_sockopt',
  'cgroup_sysctl',
  'cgroup_device',
  'sock_ops',
  'tracepoint',
  'raw_tracepoint',
  'kprobe',
  'kretprobe',
  'uprobe',
  'uretprobe',
  'fentry',
  'fexit',
  'lsm',
  'perf_event',
  'socket_filter',
  'sk_lookup',
  'flow_dissector',
  'netfilter',
] as const satisfies readonly AttachTo['kind'][];

/** One line for people: `tc egress on eth0`. */
export const describeAttachTo = (to: AttachTo): string => {
  switch (to.kind) {
    case 'xdp':
      return `xdp on ${to.interface}`;
    case 'tc':
      return `tc ${to.direction} on ${to.interface}`;
    case 'socket_filter':
      return `socket_filter on ${to.interface}`;
    case 'cgroup_skb':
      return `cgroup_skb ${to.direction} in ${to.cgroup}`;
    case 'cgroup_sock':
    case 'cgroup_sock_addr':
    case 'cgroup_sockopt':
      return `${to.kind} ${to.hook} in ${to.cgroup}`;
    case 'cgroup_sysctl':
    case 'cgroup_device':
    case 'sock_ops':
      return `${to.kind} in ${to.cgroup}`;
    case 'tracepoint':
      return `tracepoint ${to.category}:${to.name}`;
    case 'raw_tracepoint':
      return `raw_tracepoint ${to.name}`;
    case 'kprobe':
    case 'kretprobe':
      return `${to.kind} ${to.symbol}${to.offset ? `+${to.offset}` : ''}`;
    case 'uprobe':
    case 'uretprobe':
      return `${to.kind} ${to.binary}:${to.symbol ?? ''}${to.offset ? `+${to.offset}` : ''}`;
    case 'fentry':
    case 'fexit':
      return `${to.kind} ${to.function}`;
    case 'lsm':
      return `lsm ${to.hook}`;
    case 'perf_event':
      return `perf_event ${to.event}`;
    case 'netfilter':
      return `netfilter ${to.family} ${to.hook} at ${to.priority}`;
    case 'sk_lookup':
    case 'flow_dissector':
      return `${to.kind}${to.netns ? ` in ${to.netns}` : ''}`;
  }
};
