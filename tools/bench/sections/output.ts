import { randomFillSync } from 'node:crypto';
import { closeSync, fdatasyncSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { aegis } from '../../../test/fleet/fleet.ts';
import { type BenchFleet, startBenchFleet, wallClockMs } from '../bench-fleet.ts';
import { atLeast, atMost, type Bar, type Figure, figure } from '../figure.ts';
import { peakResidentMb, resetPeakResident } from '../proc.ts';
import { type Section, times } from '../section.ts';
import { runProcess } from '../stopwatch.ts';

/** One command's output from its write(2) to the server's disk, and on to an operator's pipe; and what that costs in memory. */

const RAM_FOLDER = '/dev/shm';

interface Taken {
  stored: number[];
  piped: number[];
}
/** What was most resident, run by run. */
interface Peaks {
  daemon: number[];
  server: number[];
}
const noPeaks = (): Peaks => ({ daemon: [], server: [] });

export const output: Section = {
  name: 'output',
  what: "one command's output, and the memory that it takes",
  run: async (context) => {
    const bytes = times(context, 2 ** 30, 2 ** 27);
    const folder = mkdtempSync(join(RAM_FOLDER, 'aegis-bench-'));
    const noise = join(folder, 'noise');
    try {
      writeNoise(noise, bytes);
      await using one = await startBenchFleet({ nodes: 1 });
      const peaks = { stored: noPeaks(), piped: noPeaks() };
      const kinds = { zeros: ['head', '-c', String(bytes), '/dev/zero'], noise: ['cat', noise] };
      const taken: Record<keyof typeof kinds, Taken> = { zeros: empty(), noise: empty() };
      const disk: number[] = [];
      for (let round = 0; round < times(context, 3, 1); round++) {
        disk.push(diskRate(join(one.fleet.folder, 'disk'), bytes));
        for (const kind of ['zeros', 'noise'] as const) {
          context.say(`round ${round + 1}: ${kind}`);
          taken[kind].stored.push(await storedRate(one, kinds[kind], bytes, peaks.stored));
          taken[kind].piped.push(await pipedRate(one, kinds[kind], bytes, peaks.piped));
        }
      }
      return figuresOf(taken, peaks, disk, bytes);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};

const DISK_PIECE_MIB = 4;

const empty = (): Taken => ({ stored: [], piped: [] });

const figuresOf = (
  taken: Record<'zeros' | 'noise', Taken>,
  peaks: Record<'stored' | 'piped', Peaks>,
  disk: readonly number[],
  bytes: number,
): Figure[] => {
  const size = `${bytes / 2 ** 20} MiB`;
  const rate = (name: string, samples: readonly number[], note: string, bar?: Bar) =>
    figure('output', { name, unit: 'MB/s', samples, note, ...(bar ? { bar } : {}) });
  const memory = (name: string, samples: readonly number[], limit: number) =>
    figure('output', { name, unit: 'MB', samples, bar: atMost(limit, 'max'), note: 'VmHWM, reset before each run' });
  return [
    rate('the disk alone', disk, `${size} into one file in pieces of ${DISK_PIECE_MIB} MiB, each with fdatasync`),
    rate(
      `incompressible, ${size}`,
      taken.noise.stored,
      'submission to final report, all stored',
      atLeast(100, 'median'),
    ),
    rate(`zeros, ${size}`, taken.zeros.stored, 'likewise', atLeast(100, 'median')),
    rate(
      'incompressible, through aegis submit into a pipe',
      taken.noise.piped,
      'from the start of the CLI to its exit',
    ),
    rate('zeros, through aegis submit into a pipe', taken.zeros.piped, 'likewise'),
    memory('daemon, most resident', [...peaks.stored.daemon, ...peaks.piped.daemon], 150),
    memory('server, most resident, storing', peaks.stored.server, 250),
    memory('server, most resident, with a reader as well', peaks.piped.server, 250),
  ];
};

const storedRate = async (
  { operator, fleet }: BenchFleet,
  argv: string[],
  bytes: number,
  peaks: Peaks,
): Promise<number> =>
  watched(fleet, peaks, async () => {
    const before = wallClockMs();
    const id = await operator.submit({
      command_type: 'RunCommand',
      payload: { argv },
      targets: 'web-1',
      output_limit_bytes: 0,
    });
    const completed = await endOf(operator, id);
    const { items } = await operator.ask<{ items: Ended[] }>('GET', `/api/v1/commands/${id}/executions`);
    const [execution] = items;
    const whole =
      execution?.state === 'succeeded' &&
      execution.output.stdout.bytes === bytes &&
      execution.output.stdout.missing === 0;
    if (!whole || execution.output.stdout.next !== bytes)
      throw new Error(`not the whole output: ${JSON.stringify(items)}`);
    return bytes / 1e6 / ((completed - before) / 1000);
  });

interface Ended {
  state: string;
  output: { stdout: { bytes: number | null; next: number; missing: number } };
}

/** Asks now and then: following the log would read all of it. */
const endOf = async (operator: BenchFleet['operator'], id: string): Promise<number> => {
  for (;;) {
    const { completed_at } = await operator.ask<{ completed_at: string | null }>('GET', `/api/v1/commands/${id}`);
    if (completed_at) return Date.parse(completed_at);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
};

const pipedRate = ({ cliEnv, fleet }: BenchFleet, argv: string[], bytes: number, peaks: Peaks): Promise<number> =>
  watched(fleet, peaks, async () => {
    const words = [aegis, 'submit', '--target', 'web-1', '--output-limit-bytes', '0', '--', ...argv];
    const piped = ['/bin/sh', '-c', '"$@" | wc -c', 'sh', ...words];
    const { ms, stdout } = await runProcess(piped, cliEnv);
    if (Number(stdout) !== bytes) throw new Error(`${stdout.trim()} bytes came through the pipe, not ${bytes}`);
    return bytes / 1e6 / (ms / 1000);
  });

/** Notes what was most resident meanwhile. */
const watched = async (fleet: BenchFleet['fleet'], peaks: Peaks, run: () => Promise<number>): Promise<number> => {
  const daemon = fleet.nodes[0]?.daemon.pid ?? 0;
  const server = fleet.server.pid ?? 0;
  for (const pid of [daemon, server]) resetPeakResident(pid);
  const measured = await run();
  peaks.daemon.push(peakResidentMb(daemon));
  peaks.server.push(peakResidentMb(server));
  return measured;
};

/** Random bytes in memory, so that neither a disk nor a generator is what is measured. */
const writeNoise = (path: string, bytes: number): void => {
  const block = Buffer.alloc(8 * 2 ** 20);
  const fd = openSync(path, 'wx', 0o600);
  for (let written = 0; written < bytes; written += block.length) {
    randomFillSync(block);
    writeSync(fd, block);
  }
  closeSync(fd);
};

/** What the server's disk takes when nobody else wants it: every byte is written there at least once by SQLite's log. */
const diskRate = (path: string, bytes: number): number => {
  const piece = randomFillSync(Buffer.alloc(DISK_PIECE_MIB * 2 ** 20));
  const fd = openSync(path, 'wx', 0o600);
  const started = performance.now();
  for (let written = 0; written < bytes; written += piece.length) {
    writeSync(fd, piece);
    fdatasyncSync(fd);
  }
  const ms = performance.now() - started;
  closeSync(fd);
  rmSync(path);
  return bytes / 1e6 / (ms / 1000);
};
