import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { makeCertificate } from '../../../test/fleet/certificate.ts';
import { atMost, type Figure, figure } from '../figure.ts';
import { startHerdStage } from '../herd/stage.ts';
import { cpuMs, residentMb } from '../proc.ts';
import { type BenchContext, type Section, times } from '../section.ts';
import { median } from '../statistics.ts';

/** What a connected node costs the server: resident memory, beyond that of the same server when a few had come and gone, and processor time. Three
 *  ways: connected and silent but for its heartbeats; the same over TLS; and with a poll held, as every daemon has one. */

const KIB_PER_MB = 1e6 / 1024;
const SETTLE_MS = 15_000;
const UP_MS = 300_000;
const FIRST = 100;

interface Way {
  name: string;
  tls: boolean;
  polls: boolean;
  most: number | null;
}
const WAYS: readonly Way[] = [
  { name: 'without TLS', tls: false, polls: false, most: 20 },
  { name: 'with TLS', tls: true, polls: false, most: 70 },
  { name: 'without TLS, a poll held for each', tls: false, polls: true, most: null },
];

export const connections: Section = {
  name: 'connections',
  what: 'memory of the server for each of 2,000, 5,000 and 10,000 connected nodes, with TLS and without',
  run: async (context) => {
    const figures: Figure[] = [];
    for (const way of WAYS) figures.push(...(await measured(context, way)));
    return figures;
  },
};

const measured = async (context: BenchContext, { name, tls, polls, most }: Way): Promise<Figure[]> => {
  const steps = context.quick ? [200, 500] : [2000, 5000, 10_000];
  const folder = mkdtempSync(join(tmpdir(), 'aegis-bench-tls-'));
  try {
    const certificate = tls ? makeCertificate(folder) : null;
    const serverFlags = certificate ? ['--tls-cert', certificate.certFile, '--tls-key', certificate.keyFile] : [];
    await using stage = await startHerdStage(steps.at(-1) ?? 0, { tls, serverFlags });
    const { fleet, herd } = stage;
    const pid = fleet.server.pid ?? 0;
    // What is loaded and compiled for the first of them is not theirs.
    await herd.start(0, FIRST, { polls });
    await herd.untilUp(FIRST, UP_MS);
    await herd.stop();
    await sleep(times(context, SETTLE_MS, 1000));
    await herd.tell();
    const before = residentMb(pid);
    const figures: Figure[] = [];
    let from = 0;
    for (const nodes of steps) {
      const cpuBefore = cpuMs(pid);
      await herd.start(from, nodes - from, { polls });
      await herd.untilUp(nodes, UP_MS);
      const connectMs = (cpuMs(pid) - cpuBefore) / (nodes - from);
      from = nodes;
      const idleFrom = cpuMs(pid);
      const idleSince = performance.now();
      const samples: number[] = [];
      for (let at = 0; at < times(context, 10, 3); at++) {
        await sleep(times(context, SETTLE_MS, 1000) / 10);
        samples.push(((residentMb(pid) - before) * KIB_PER_MB) / nodes);
      }
      const idleCores = (cpuMs(pid) - idleFrom) / (performance.now() - idleSince);
      const told = await herd.tell();
      if (told.up !== nodes) throw new Error(`${told.up} of ${nodes} nodes stayed connected`);
      context.say(`${name}, ${nodes} nodes: ${median(samples).toFixed(1)} KiB each`);
      figures.push(
        figure('connections', {
          name: `${nodes} nodes ${name}, each`,
          unit: 'KiB',
          samples,
          ...(most !== null && nodes === steps.at(-1) ? { bar: atMost(most, 'median') } : {}),
          note: `resident, beyond ${before.toFixed(0)} MB when a hundred had come and gone; to connect costs ${connectMs.toFixed(2)} ms of the server's processor, all together at rest ${idleCores.toFixed(2)} cores`,
        }),
      );
    }
    return figures;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
};
