/** The small JSON files of an execution folder, claim and status, strictly checked. */

export type Claim =
  /** A supervisor took it; the command may have started. */
  | { kind: 'started'; bootId: string; startedAtMs: number }
  /** Given up before any start. */
  | { kind: 'void' }
  /** The machine crashed while it was written: treat like `started` in an earlier boot. */
  | { kind: 'damaged' };

export type StreamDigest = { bytes: number; sha256: string };

/** Of all processes of the command that have ended and were reaped. */
export type ExecutionUsage = { userUs: number; systemUs: number; maxRssKb: number };

export type ExecutionStatus = {
  outcome: 'exited' | 'signaled' | 'spawn_failed';
  /** 126 or 127 when `spawn_failed`, null when `signaled`. */
  exitCode: number | null;
  signal: number | null;
  timedOut: boolean;
  /** The cancel came while the main process ran. */
  cancelled: boolean;
  /** No process of the command was left when this was written. */
  treeEmpty: boolean;
  /** How many were left. */
  leftover: number;
  /** SIGKILL was needed. */
  killed: boolean;
  /** Realtime, milliseconds since 1970. */
  startedAtMs: number;
  finishedAtMs: number;
  /** CLOCK_BOOTTIME, start to end of the main process. */
  durationMs: number;
  stdout: StreamDigest;
  stderr: StreamDigest;
  usage: ExecutionUsage;
  error: string | null;
};

type Fields = Record<string, unknown>;

const isFields = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

const parseFields = (text: string): Fields | null => {
  try {
    const value: unknown = JSON.parse(text);
    return isFields(value) ? value : null;
  } catch {
    return null; // the caller says what a damaged file means
  }
};

export const parseClaim = (text: string): Claim => {
  const fields = parseFields(text);
  if (fields?.void === true) return { kind: 'void' };
  if (typeof fields?.boot_id !== 'string' || !Number.isSafeInteger(fields.started_at_ms)) return { kind: 'damaged' };
  return { kind: 'started', bootId: fields.boot_id, startedAtMs: Number(fields.started_at_ms) };
};

export const parseStatus = (text: string, executionId: string): ExecutionStatus => {
  const fields = parseFields(text);
  if (!fields) throw new Error('status is not a JSON object');
  if (fields.execution_id !== executionId) throw new Error('status is of another execution');
  const { stdout, stderr, usage } = fields;
  if (!isFields(stdout) || !isFields(stderr) || !isFields(usage))
    throw new Error('status lacks stdout, stderr or usage');
  const outcome = fields.outcome;
  if (outcome !== 'exited' && outcome !== 'signaled' && outcome !== 'spawn_failed')
    throw new Error('status: unknown outcome');
  const exitCode = fields.exit_code === null ? null : count(fields, 'exit_code');
  const signal = fields.signal === null ? null : count(fields, 'signal');
  if ((exitCode === null) === (signal === null)) throw new Error('status: exit_code and signal contradict each other');
  if (fields.error !== null && typeof fields.error !== 'string') throw new Error('status: error is not a text');
  return {
    outcome,
    exitCode,
    signal,
    timedOut: flag(fields, 'timed_out'),
    cancelled: flag(fields, 'cancelled'),
    treeEmpty: flag(fields, 'tree_empty'),
    leftover: count(fields, 'leftover'),
    killed: flag(fields, 'killed'),
    startedAtMs: count(fields, 'started_at_ms'),
    finishedAtMs: count(fields, 'finished_at_ms'),
    durationMs: count(fields, 'duration_ms'),
    stdout: digest(stdout),
    stderr: digest(stderr),
    usage: {
      userUs: count(usage, 'user_us'),
      systemUs: count(usage, 'system_us'),
      maxRssKb: count(usage, 'max_rss_kb'),
    },
    error: fields.error,
  };
};

const flag = (fields: Fields, name: string): boolean => {
  const value = fields[name];
  if (typeof value !== 'boolean') throw new Error(`status: ${name} is not a boolean`);
  return value;
};

const count = (fields: Fields, name: string): number => {
  const value = fields[name];
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0)
    throw new Error(`status: ${name} is not a count`);
  return value;
};

const digest = (fields: Fields): StreamDigest => {
  const { sha256 } = fields;
  if (typeof sha256 !== 'string' || !/^[0-9a-f]{64}$/.test(sha256)) throw new Error('status: sha256 is not one');
  return { bytes: count(fields, 'bytes'), sha256 };
};
