import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { aegis, cleanEnv, type Fleet, startFleet } from '../fleet/fleet.ts';

/** Output is exact: the server's bytes, and what `aegis logs` writes to a pipe, have the SHA-256 that the command itself had. */

let fleet: Fleet;
beforeAll(async () => {
  fleet = await startFleet({ daemonFlags: [] });
});
afterAll(() => fleet[Symbol.asyncDispose]());

const sha256 = (bytes: string | Buffer) => createHash('sha256').update(bytes).digest('hex');
const unlimited = { targets: 'web-1', output_limit_bytes: 0 };

const logsOnAPipe = (id: string, stream: string): string =>
  execFileSync('/bin/sh', ['-c', '"$0" logs "$1" --stream "$2" | sha256sum | cut -d" " -f1', aegis, id, stream], {
    encoding: 'utf8',
    env: cleanEnv(fleet.folder, { AEGIS_SERVER: fleet.url, AEGIS_TOKEN: fleet.token }),
  }).trim();

const expectExact = async (script: string, expected: { stdout: string; stderr: string }): Promise<void> => {
  const run = await fleet.api.submit({
    ...unlimited,
    command_type: 'RunCommand',
    payload: { argv: ['bash', '-c', script] },
  });
  const [execution] = await run.finished(120_000);
  expect(execution).toMatchObject({ state: 'succeeded', exit_code: 0, output_verified: true, report_signed: true });
  expect({
    stdout: (await run.stored('stdout')).sha256,
    stderr: (await run.stored('stderr')).sha256,
    reported: [execution?.output.stdout.sha256, execution?.output.stderr.sha256],
    piped: [logsOnAPipe(run.id, 'stdout'), logsOnAPipe(run.id, 'stderr')],
  }).toEqual({
    ...expected,
    reported: [expected.stdout, expected.stderr],
    piped: [expected.stdout, expected.stderr],
  });
};

const none = sha256('');

test('seq 1 2000000', async () => {
  const lines = Array.from({ length: 2_000_000 }, (_, index) => `${index + 1}\n`).join('');
  await expectExact('seq 1 2000000', { stdout: sha256(lines), stderr: none });
});

test('no final newline', () => expectExact("printf 'a\\nb'", { stdout: sha256('a\nb'), stderr: none }));

test('invalid UTF-8 on both streams, also cut in the middle of a character', () =>
  expectExact("printf '\\377\\300a\\0b\\303'; printf '\\342\\202' >&2", {
    stdout: sha256(Buffer.from([0xff, 0xc0, 0x61, 0, 0x62, 0xc3])),
    stderr: sha256(Buffer.from([0xe2, 0x82])),
  }));

test('none', () => expectExact('true', { stdout: none, stderr: none }));

test('256 MiB of random bytes on stdout with 16 MiB interleaved on stderr', async () => {
  const sums = join(fleet.folder, 'sums');
  // Sixteen rounds: 16 MiB to stdout, 1 MiB to stderr, each also hashed by the command itself.
  const script = `
    exec 3> >(sha256sum | cut -d" " -f1 > ${sums}.out) 4> >(sha256sum | cut -d" " -f1 > ${sums}.err)
    for round in $(seq 16); do
      head -c 16777216 /dev/urandom | tee /dev/fd/3
      head -c 1048576 /dev/urandom | tee /dev/fd/4 >&2
    done
    exec 3>&- 4>&-; wait; until [ -s ${sums}.out ] && [ -s ${sums}.err ]; do sleep 0.05; done`;
  const run = await fleet.api.submit({
    ...unlimited,
    command_type: 'RunCommand',
    payload: { argv: ['bash', '-c', script] },
  });
  const [execution] = await run.finished(120_000);
  expect(execution).toMatchObject({ state: 'succeeded', exit_code: 0, output_verified: true });
  const own = {
    stdout: readFileSync(`${sums}.out`, 'utf8').trim(),
    stderr: readFileSync(`${sums}.err`, 'utf8').trim(),
  };
  expect({ stdout: await run.stored('stdout'), stderr: await run.stored('stderr') }).toEqual({
    stdout: { bytes: 16 * 16_777_216, sha256: own.stdout },
    stderr: { bytes: 16 * 1_048_576, sha256: own.stderr },
  });
  expect([logsOnAPipe(run.id, 'stdout'), logsOnAPipe(run.id, 'stderr')]).toEqual([own.stdout, own.stderr]);
}, 240_000);

test('a limited output keeps head and tail and says how much is missing', async () => {
  const run = await fleet.api.submit({
    targets: 'web-1',
    output_limit_bytes: 1_048_576,
    command_type: 'RunCommand',
    payload: { argv: ['seq', '1', '2000000'] },
  });
  const [execution] = await run.finished();
  const whole = Array.from({ length: 2_000_000 }, (_, index) => `${index + 1}\n`).join('');
  const kept = await run.text('stdout');
  const out = execution?.output.stdout;
  expect(execution?.state).toBe('succeeded');
  expect(out).toMatchObject({
    bytes: whole.length,
    sha256: sha256(whole),
    next: whole.length,
    missing: whole.length - kept.length,
  });
  expect(kept.length).toBeLessThanOrEqual(1_048_576);
  expect(kept.length).toBeGreaterThan(1_000_000);
  let head = 0;
  while (kept[head] === whole[head]) head++;
  expect(kept).toBe(whole.slice(0, head) + whole.slice(whole.length - (kept.length - head)));
  expect(head).toBeGreaterThan(400_000);
  expect(kept.length - head).toBeGreaterThan(400_000);
});
