import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { startPostgres } from '../../packages/server/test/postgres.ts';
import { waitFor } from '../faults/wait.ts';
import { startFleet } from '../fleet/fleet.ts';

/** Storage that fails while commands run: PostgreSQL restarted, the node's disk full. */

const lines = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => `${from + i}\n`).join('');
const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');

test('PostgreSQL is restarted twice while a command writes', async () => {
  await using postgres = await startPostgres();
  await using fleet = await startFleet({ databaseUrl: await postgres.createDatabase() });
  const run = await fleet.api.submit({
    targets: 'web-1',
    output_limit_bytes: 0,
    command_type: 'RunCommand',
    payload: { cmd: 'for i in $(seq 0 59); do seq $((i * 5000 + 1)) $((i * 5000 + 5000)); sleep 0.1; done' },
  });
  for (const bytes of [100_000, 800_000]) {
    await run.holds('stdout', bytes);
    await postgres.restart();
  }
  const [execution] = await run.finished(120_000);
  expect(execution).toMatchObject({ state: 'succeeded', output_verified: true });
  const whole = lines(1, 300_000);
  expect(await run.stored('stdout')).toEqual({ bytes: whole.length, sha256: sha256(whole) });
}, 180_000);

test("the node's disk fills while a command writes: it is slowed, nothing is lost, and all goes on when room returns", async () => {
  const mount = mkdtempSync(join(tmpdir(), 'aegis-small-'));
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=24m,mode=0700', 'tmpfs', mount]);
  try {
    await using fleet = await startFleet({ dataDirOf: (name) => join(mount, name) });
    const submit = (cmd: string) =>
      fleet.api.submit({ targets: 'web-1', output_limit_bytes: 0, command_type: 'RunCommand', payload: { cmd } });
    // The server is out of reach, so output stays on the node; the ballast leaves room for a few MiB of it.
    const cut = join(mount, 'cut');
    const run = await submit(`until [ -e ${cut} ]; do sleep 0.05; done; seq 1 4000000; echo done >&2`);
    await waitFor('the command to run', async () => (await run.executions())[0]?.state === 'running');
    const ballast = join(mount, 'ballast');
    fleet.network.cut();
    mkdirSync(join(mount, 'x'));
    writeFileSync(ballast, Buffer.alloc(12 * 1024 * 1024));
    writeFileSync(cut, '');
    await waitFor('the disk to be full', () => freeBytes(mount) < 64 * 1024, 60_000);
    fleet.network.mend();
    rmSync(ballast);
    const [execution] = await run.finished(120_000);
    const whole = lines(1, 4_000_000);
    expect(execution).toMatchObject({ state: 'succeeded', output_verified: true });
    expect(await run.stored('stdout')).toEqual({ bytes: whole.length, sha256: sha256(whole) });
    expect(await run.text('stderr')).toBe('done\n');

    // A full disk when directives arrive: nothing is acknowledged that is not stored, and it runs once there is room.
    writeFileSync(ballast, Buffer.alloc(Math.max(0, freeBytes(mount) - 4096)));
    const late = await submit('echo late');
    rmSync(ballast);
    expect((await late.finished(120_000)).map(({ state, attempt }) => ({ state, attempt }))).toEqual([
      { state: 'succeeded', attempt: 1 },
    ]);
    expect(await late.text('stdout')).toBe('late\n');
    const journal = execFileSync('find', [join(mount, 'web-1'), '-name', '*.db'], { encoding: 'utf8' }).trim();
    expect(statSync(journal).size).toBeGreaterThan(0);
  } finally {
    execFileSync('umount', ['-l', mount]);
    rmSync(mount, { recursive: true, force: true });
  }
}, 240_000);

const freeBytes = (path: string): number =>
  Number(execFileSync('df', ['--output=avail', '-B1', path], { encoding: 'utf8' }).split('\n')[1]);
