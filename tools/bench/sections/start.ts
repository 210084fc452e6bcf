import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { aegis, cleanEnv } from '../../../test/fleet/fleet.ts';
import { atMost, figure } from '../figure.ts';
import { type Section, times } from '../section.ts';
import { alternately, runProcess } from '../stopwatch.ts';

/** What it costs to start a command, before it has done anything. */

const BARE = 'node -e 0';
const COMMANDS = [
  'nodes list --help',
  'submit --help',
  'logs --help',
  'commands list --help',
  'server start --help',
  'daemon start --help',
  'register --help',
  '--help',
  // Not only its manual, but a command that runs whole; this one needs no server.
  'context list',
] as const;

export const start: Section = {
  name: 'start',
  what: 'starting a command, against bare Node.js',
  run: async (context) => {
    const home = mkdtempSync(join(tmpdir(), 'aegis-bench-'));
    const env = cleanEnv(home);
    const timed = async (argv: readonly string[]) => (await runProcess(argv, env)).ms;
    try {
      const samples: Record<string, number[]> = await alternately(times(context, 25, 5), {
        [BARE]: () => timed([process.execPath, '-e', '0']),
        '--version': () => timed([aegis, '--version']),
        ...Object.fromEntries(COMMANDS.map((words) => [words, () => timed([aegis, ...words.split(' ')])])),
      });
      const bare = samples[BARE] ?? [];
      return [
        figure('start', { name: BARE, unit: 'ms', samples: bare }),
        ...['--version', ...COMMANDS].map((words) =>
          figure('start', {
            name: `aegis ${words}`,
            unit: 'ms',
            samples: samples[words] ?? [],
            comparedWith: { name: BARE, samples: bare },
            bar: atMost(words === '--version' ? 1.3 : 3, 'ratio'),
          }),
        ),
      ];
    } finally {
      rmSync(home, { recursive: true, force: true });
    }
  },
};
