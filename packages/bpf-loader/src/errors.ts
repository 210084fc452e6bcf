/** Failures of the loader: one class, a code, and a sentence that says what to do next. The addon gives code, errno and the kernel's
 *  words; what only the machine's state explains (rights, lockdown) is added here. */
import { readFileSync } from 'node:fs';
import type { LoaderErrorCode, LoaderErrorFields } from './types.ts';

const CODES: readonly LoaderErrorCode[] = [
  'bpf.bad_object',
  'bpf.unknown_section',
  'bpf.unknown_program',
  'bpf.unknown_map',
  'bpf.unknown_global',
  'bpf.bad_global',
  'bpf.missing_btf',
  'bpf.map_mismatch',
  'bpf.map_failed',
  'bpf.verifier_rejected',
  'bpf.not_permitted',
  'bpf.unsupported',
  'bpf.hook_busy',
  'bpf.no_such_target',
  'bpf.attach_refused',
  'bpf.pin_failed',
  'bpf.not_found',
  'bpf.invalid',
  'bpf.failed',
];

export class LoaderError extends Error implements LoaderErrorFields {
  override readonly name = 'LoaderError';
  readonly code: LoaderErrorCode;
  /** Positive errno, 0 where there is none. */
  readonly errno: number;
  declare readonly program?: string;
  /** The verifier's reason line. */
  declare readonly reason?: string;
  /** The verifier's whole log. */
  declare readonly log?: string;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(fields: Omit<LoaderErrorFields, 'errno' | 'details'> & Partial<LoaderErrorFields>) {
    super(fields.message);
    this.code = fields.code;
    this.errno = fields.errno ?? 0;
    if (fields.program !== undefined) this.program = fields.program;
    if (fields.reason !== undefined) this.reason = fields.reason;
    if (fields.log !== undefined) this.log = fields.log;
    this.details = fields.details ?? {};
  }
}

/** A refusal of arguments, before anything was asked of the kernel. */
export const invalid = (message: string, details: Record<string, unknown> = {}): LoaderError =>
  new LoaderError({ code: 'bpf.invalid', message, details });

const isCode = (value: unknown): value is LoaderErrorCode => CODES.some((code) => code === value);

const field = (value: object, name: string): unknown => Reflect.get(value, name);
const textField = (value: object, name: string): string | undefined => {
  const found = field(value, name);
  return typeof found === 'string' ? found : undefined;
};

/** The addon's plain errors made into LoaderErrors; what is none of them (a fault in this package) is thrown on as it is. */
export const toLoaderError = (thrown: unknown): unknown => {
  if (thrown instanceof LoaderError || !(thrown instanceof Error)) return thrown;
  const code = field(thrown, 'code');
  if (!isCode(code)) return thrown;
  const errno = field(thrown, 'errno');
  const details = field(thrown, 'details');
  const [program, reason, log] = ['program', 'reason', 'log'].map((name) => textField(thrown, name));
  const hints = code === 'bpf.not_permitted' ? permissionHints() : [];
  return new LoaderError({
    code,
    message: [thrown.message.replace(/\.?$/, '.'), ...hints].join(' '),
    errno: typeof errno === 'number' ? errno : 0,
    details: { ...(typeof details === 'object' && details !== null ? details : {}) },
    ...(program === undefined ? {} : { program }),
    ...(reason === undefined ? {} : { reason }),
    ...(log === undefined ? {} : { log }),
  });
};

/** Runs a call of the addon, its errors made into LoaderErrors. */
export const typed = <T>(call: () => T): T => {
  try {
    return call();
  } catch (thrown) {
    throw toLoaderError(thrown);
  }
};

export const typedAsync = async <T>(call: () => Promise<T>): Promise<T> => {
  try {
    return await call();
  } catch (thrown) {
    throw toLoaderError(thrown);
  }
};

const CAPABILITIES = [
  { bit: 39n, name: 'CAP_BPF' },
  { bit: 38n, name: 'CAP_PERFMON' },
  { bit: 12n, name: 'CAP_NET_ADMIN' },
] as const;
const CAP_SYS_ADMIN = 21n;

/** Those that loading and attaching ask for and this process lacks. */
export const missingCapabilities = (read: (path: string) => string = readText): string[] => {
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(read('/proc/self/status'))?.[1];
  const bits = BigInt(`0x${effective ?? '0'}`);
  const has = (bit: bigint): boolean => (bits & (1n << bit)) !== 0n;
  return has(CAP_SYS_ADMIN) ? [] : CAPABILITIES.filter(({ bit }) => !has(bit)).map(({ name }) => name);
};

/** What stands in the way of an EPERM, as far as this process can read it. */
export const permissionHints = (read: (path: string) => string = readText): string[] => {
  const hints: string[] = [];
  const missing = missingCapabilities(read);
  if (missing.length > 0) hints.push(`This process lacks ${missing.join(', ')}: run it as root or grant them.`);
  const lockdown = /\[(integrity|confidentiality)\]/.exec(read('/sys/kernel/security/lockdown'))?.[1];
  if (lockdown === 'confidentiality')
    hints.push('The kernel is locked down (confidentiality), which forbids programs that read kernel memory.');
  if (missing.length > 0 && /^[12]/.test(read('/proc/sys/kernel/unprivileged_bpf_disabled')))
    hints.push('kernel.unprivileged_bpf_disabled forbids eBPF without these capabilities.');
  return hints;
};

const readText = (path: string): string => {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return ''; // not there on this kernel, or not readable: no hint from it
  }
};
