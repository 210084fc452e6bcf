import { loadavg } from 'node:os';
import type { Figure } from './figure.ts';
import { thisMachine } from './machine.ts';
import type { BenchContext, Section } from './section.ts';
import { assignment } from './sections/assignment.ts';
import { backup } from './sections/backup.ts';
import { backupScale } from './sections/backup-scale.ts';
import { connections } from './sections/connections.ts';
import { deployment } from './sections/deployment.ts';
import { fanOut } from './sections/fan-out.ts';
import { herd } from './sections/herd.ts';
import { idle } from './sections/idle.ts';
import { latency } from './sections/latency.ts';
import { loader } from './sections/loader.ts';
import { nodeThroughput } from './sections/node-throughput.ts';
import { output } from './sections/output.ts';
import { reconcile } from './sections/reconcile.ts';
import { sealing } from './sections/sealing.ts';
import { serverThroughput } from './sections/server-throughput.ts';
import { severalServers } from './sections/several-servers.ts';
import { signing } from './sections/signing.ts';
import { soak } from './sections/soak.ts';
import { start } from './sections/start.ts';
import { submitFifty, submitOne } from './sections/submit.ts';
import { tableOf } from './table.ts';

/** bench: measures Aegis against what one would use instead. Started by bin/bench; docs/performance.md holds its last table.
 *  Every figure comes from real processes on loopback; a comparison's sides take turns in the same run.
 *  Must not fail for a missed bar: the table says it. A section that breaks is named and makes the exit code 1. */

const SECTIONS: readonly Section[] = [
  start,
  submitOne,
  submitFifty,
  latency,
  nodeThroughput,
  serverThroughput,
  severalServers,
  output,
  idle,
  loader,
  deployment,
  reconcile,
  assignment,
  backup,
  signing,
  backupScale,
  connections,
  fanOut,
  herd,
  sealing,
];

const usage = (): string =>
  [
    'usage: bin/bench [--json] [--quick] [--list] [--only SECTION…] [--soak [MINUTES]]',
    '',
    ...SECTIONS.map(({ name, what }) => `  ${name.padEnd(18)} ${what}`),
  ].join('\n');

const SOAK_MINUTES = 30;

interface Options {
  json: boolean;
  quick: boolean;
  sections: readonly Section[];
}

/** @returns a message instead when the arguments make no sense, or ask for one */
const readOptions = (argv: readonly string[]): Options | { message: string; exitCode: number } => {
  const options = { json: false, quick: false };
  const only: string[] = [];
  let naming = false;
  for (const [at, word] of argv.entries()) {
    if (word === '--json' || word === '--quick') {
      options[word === '--json' ? 'json' : 'quick'] = true;
      naming = false;
    } else if (word === '--only') naming = true;
    else if (word === '--soak') {
      const minutes = /^\d+(?:\.\d+)?$/.test(argv[at + 1] ?? '') ? Number(argv[at + 1]) : SOAK_MINUTES;
      return { ...options, sections: [soak(minutes)] };
    } else if (word === '--list' || word === '--help') return { message: usage(), exitCode: 0 };
    else if (naming && SECTIONS.some(({ name }) => name === word)) only.push(word);
    else return { message: `bench: '${word}' is no ${naming ? 'section' : 'option'}\n${usage()}`, exitCode: 2 };
  }
  if (naming && only.length === 0) return { message: `bench: --only names no section\n${usage()}`, exitCode: 2 };
  return { ...options, sections: only.length === 0 ? SECTIONS : SECTIONS.filter(({ name }) => only.includes(name)) };
};

const runBench = async ({ json, quick, sections }: Options): Promise<number> => {
  const machine = thisMachine();
  const context: BenchContext = { quick, say: (line) => process.stderr.write(`bench: ${line}\n`) };
  const figures: Figure[] = [];
  const broken: { section: string; reason: string }[] = [];
  const loads: Record<string, number> = {};
  for (const section of sections) {
    context.say(`${section.name}: ${section.what}`);
    loads[section.name] = loadavg()[0] ?? 0;
    try {
      figures.push(...(await section.run(context)));
    } catch (error) {
      const reason = error instanceof Error ? (error.stack ?? error.message) : String(error);
      broken.push({ section: section.name, reason });
      context.say(`${section.name} broke: ${reason}`);
    }
  }
  const judged = figures.filter(({ met }) => met !== null);
  const missed = judged.filter(({ met }) => met === false).length;
  if (json) process.stdout.write(`${JSON.stringify({ machine, quick, loads, figures, missed, broken })}\n`);
  else {
    const sum = `${judged.length - missed} bars met, ${missed} missed${quick ? ' (a quick run: for a look only)' : ''}`;
    const worse = broken.map(({ section }) => `${section}: broke, see above`);
    process.stdout.write(`\n${[tableOf(machine, figures, loads), '', ...worse, sum].join('\n')}\n`);
  }
  return broken.length > 0 ? 1 : 0;
};

const options = readOptions(process.argv.slice(2));
if ('message' in options) {
  (options.exitCode === 0 ? process.stdout : process.stderr).write(`${options.message}\n`);
  process.exitCode = options.exitCode;
} else process.exitCode = await runBench(options);
