import { expect, test } from 'vitest';
import { parseClaim, parseStatus } from './execution-records.ts';
import type { ExecutionSpec } from './execution-spec.ts';
import { encodeSpec } from './execution-spec.ts';

const good = {
  execution_id: 'e-1',
  outcome: 'exited',
  exit_code: 0,
  signal: null,
  timed_out: false,
  cancelled: false,
  tree_empty: true,
  leftover: 0,
  killed: false,
  started_at_ms: 1,
  finished_at_ms: 2,
  duration_ms: 1,
  stdout: { bytes: 0, sha256: '0'.repeat(64) },
  stderr: { bytes: 3, sha256: 'f'.repeat(64) },
  usage: { user_us: 1, system_us: 2, max_rss_kb: 3 },
  error: null,
};

test('a status is taken over field by field', () => {
  expect(parseStatus(JSON.stringify(good), 'e-1')).toEqual({
    outcome: 'exited',
    exitCode: 0,
    signal: null,
    timedOut: false,
    cancelled: false,
    treeEmpty: true,
    leftover: 0,
    killed: false,
    startedAtMs: 1,
    finishedAtMs: 2,
    durationMs: 1,
    stdout: good.stdout,
    stderr: good.stderr,
    usage: { userUs: 1, systemUs: 2, maxRssKb: 3 },
    error: null,
  });
});

test.each([
  ['', 'status is not a JSON object'],
  ['[]', 'status is not a JSON object'],
  [JSON.stringify({ ...good, execution_id: 'e-0' }), 'status is of another execution'],
  [JSON.stringify({ ...good, stdout: null }), 'status lacks stdout, stderr or usage'],
  [JSON.stringify({ ...good, outcome: 'done' }), 'status: unknown outcome'],
  [JSON.stringify({ ...good, exit_code: null }), 'status: exit_code and signal contradict each other'],
  [JSON.stringify({ ...good, signal: 9 }), 'status: exit_code and signal contradict each other'],
  [JSON.stringify({ ...good, exit_code: -1 }), 'status: exit_code is not a count'],
  [JSON.stringify({ ...good, killed: 1 }), 'status: killed is not a boolean'],
  [JSON.stringify({ ...good, duration_ms: 1.5 }), 'status: duration_ms is not a count'],
  [JSON.stringify({ ...good, stderr: { bytes: 1, sha256: 'x' } }), 'status: sha256 is not one'],
  [JSON.stringify({ ...good, error: 1 }), 'status: error is not a text'],
])('%s is refused', (text, message) => {
  expect(() => parseStatus(text, 'e-1')).toThrow(message);
});

test('claims', () => {
  expect(parseClaim('{"void":true}\n')).toEqual({ kind: 'void' });
  expect(parseClaim('{"boot_id":"b","started_at_ms":5}\n')).toEqual({ kind: 'started', bootId: 'b', startedAtMs: 5 });
  const damaged = ['', '\0\0\0', '{"boot_id":"b"}', '{"void":1}', '{"boot_id":1,"started_at_ms":5}', 'null'];
  expect(damaged.map((text) => parseClaim(text).kind)).toEqual(damaged.map(() => 'damaged'));
});

const spec: ExecutionSpec = {
  argv: ['a', ''],
  env: { K: 'v=w' },
  timeoutMs: 0,
  graceMs: 1,
  drainMs: 2,
  spoolBytes: 8,
  segmentBytes: 4,
  bootId: 'b-1',
};

test('a spec becomes records', () => {
  expect(String(encodeSpec({ ...spec, cwd: '/c', user: 'u', umask: 0o27, cgroup: '/g' }, true))).toBe(
    'argv=a\0argv=\0env=K=v=w\0cwd=/c\0user=u\0umask=27\0timeout_ms=0\0grace_ms=1\0drain_ms=2\0segment_bytes=4\0spool_bytes=8\0boot_id=b-1\0stdin=1\0cgroup=/g\0',
  );
});

test.each<[Partial<ExecutionSpec>, string]>([
  [{ argv: [] }, 'argv is empty; name a program.'],
  [{ argv: ['a\0b'] }, 'argv contains a NUL byte, which no command can receive.'],
  [{ env: { '': 'x' } }, "env: '' cannot name a variable."],
  [{ env: { 'a=b': 'x' } }, "env: 'a=b' cannot name a variable."],
  [{ cwd: 'x' }, "cwd must be an absolute path, not 'x'."],
  [{ cgroup: 'x' }, "cgroup must be an absolute path, not 'x'."],
  [{ user: '' }, 'user is empty; leave it out to keep the current one.'],
  [{ umask: 0o1000 }, 'umask must be 0 to 0777.'],
  [{ timeoutMs: -1 }, 'timeout_ms must be an integer of at least 0, not -1.'],
  [{ graceMs: 0.5 }, 'grace_ms must be an integer of at least 0, not 0.5.'],
  [{ segmentBytes: 0 }, 'segment_bytes must be an integer of at least 1, not 0.'],
  [{ spoolBytes: 3 }, 'spool_bytes must be an integer of at least 4, not 3.'],
  [{ spoolBytes: 5000 }, 'spool_bytes must be at most 1,024 segments.'],
  [{ bootId: 'x"' }, 'boot_id must be 1 to 64 letters, digits and dashes.'],
  [{ argv: ['x'.repeat(9 << 20)] }, 'at most 8388608 fit.'],
])('a bad spec is refused: %o', (change, message) => {
  expect(() => encodeSpec({ ...spec, ...change }, false)).toThrow(message);
});
