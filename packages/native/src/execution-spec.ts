/** What a supervisor is to run, and its bytes: NUL-terminated `key=value` records, at most 8 MiB (docs/execution.md). */

export type ExecutionSpec = {
  /** argv[0] is looked up in `env.PATH` unless it contains a slash. */
  argv: readonly string[];
  /** The whole environment of the command; nothing is inherited. */
  env: Readonly<Record<string, string>>;
  /** Absolute; default `/`. Entered as the user. */
  cwd?: string;
  /** Account name or uid with an account; default: whoever runs the supervisor. */
  user?: string;
  /** Default 0o022. */
  umask?: number;
  /** Counted from the start on CLOCK_BOOTTIME; 0 = none. */
  timeoutMs: number;
  /** From SIGTERM to SIGKILL. */
  graceMs: number;
  /** How long pipes that left-over processes hold open are still read after the command's end. */
  drainMs: number;
  /** Bound of bytes on disk per stream, ≥ segmentBytes and ≤ 1,024 segments. */
  spoolBytes: number;
  segmentBytes: number;
  /** Goes into the claim. */
  bootId: string;
  /** Absolute path of a cgroup2 folder in which the supervisor may make `exec-<id>`. */
  cgroup?: string;
};

const SPEC_LIMIT_BYTES = 8 * 1024 * 1024;

/** Throws an Error whose message names the field when the spec cannot be written or would be refused. */
export const encodeSpec = (spec: ExecutionSpec, hasStdin: boolean): Buffer => {
  const records: string[] = [];
  const add = (key: string, value: string): void => {
    if (value.includes('\0')) throw new Error(`${key} contains a NUL byte, which no command can receive.`);
    records.push(`${key}=${value}\0`);
  };
  const addNumber = (key: string, value: number, min = 0): void => {
    if (!Number.isSafeInteger(value) || value < min)
      throw new Error(`${key} must be an integer of at least ${min}, not ${value}.`);
    add(key, String(value));
  };
  const addPath = (key: string, value: string): void => {
    if (!value.startsWith('/')) throw new Error(`${key} must be an absolute path, not '${value}'.`);
    add(key, value);
  };
  if (spec.argv.length === 0) throw new Error('argv is empty; name a program.');
  if (!/^[0-9a-zA-Z-]{1,64}$/.test(spec.bootId)) throw new Error('boot_id must be 1 to 64 letters, digits and dashes.');
  for (const word of spec.argv) add('argv', word);
  for (const [name, value] of Object.entries(spec.env)) {
    if (name === '' || name.includes('=')) throw new Error(`env: '${name}' cannot name a variable.`);
    add('env', `${name}=${value}`);
  }
  if (spec.cwd !== undefined) addPath('cwd', spec.cwd);
  if (spec.user !== undefined) {
    if (spec.user === '') throw new Error('user is empty; leave it out to keep the current one.');
    add('user', spec.user);
  }
  if (spec.umask !== undefined) {
    if (!Number.isInteger(spec.umask) || spec.umask < 0 || spec.umask > 0o777)
      throw new Error('umask must be 0 to 0777.');
    add('umask', spec.umask.toString(8));
  }
  addNumber('timeout_ms', spec.timeoutMs);
  addNumber('grace_ms', spec.graceMs);
  addNumber('drain_ms', spec.drainMs);
  addNumber('segment_bytes', spec.segmentBytes, 1);
  addNumber('spool_bytes', spec.spoolBytes, spec.segmentBytes);
  if (spec.spoolBytes > spec.segmentBytes * 1024) throw new Error('spool_bytes must be at most 1,024 segments.');
  add('boot_id', spec.bootId);
  add('stdin', hasStdin ? '1' : '0');
  if (spec.cgroup !== undefined) addPath('cgroup', spec.cgroup);
  const bytes = Buffer.from(records.join(''));
  if (bytes.length > SPEC_LIMIT_BYTES)
    throw new Error(`argv and env are ${bytes.length} bytes; at most ${SPEC_LIMIT_BYTES} fit.`);
  return bytes;
};
