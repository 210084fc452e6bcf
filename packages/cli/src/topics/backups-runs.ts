import type { Run } from '@aegis/protocol/backups/run';
import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { Api } from '../api/client.ts';
import { everyPage } from '../api/pages.ts';
import { routes } from '../api/routes.ts';
import { RUN, runNamed, shortIds } from '../backups/run-reference.ts';
import { backupTable, canBeRestored, decisionTable, logLine, runFacts, runRow, runTable } from '../backups/run-text.ts';
import { ServerCommand, serverFlags } from '../base-command.ts';
import { EXIT } from '../following/exit-status.ts';
import { untilInterrupted } from '../following/until-interrupted.ts';
import { watch } from '../following/watch.ts';
import { plainText } from '../ui/plain-text.ts';
import { configArg } from './backups-configs.ts';

export const runArg = Args.string({ required: true, ignoreStdin: true, description: RUN });

const filterFlags = {
  config: Flags.string({ helpValue: 'NAME', summary: 'Only of this configuration' }),
  node: Flags.string({ helpValue: 'NODE', summary: 'Only of this node' }),
  limit: Flags.integer({ min: 1, default: 50, helpValue: 'N', summary: 'At most this many, the newest' }),
};
type Filter = { config?: string | undefined; node?: string | undefined; state?: Run['state'] | undefined };

const runsOf = async (
  api: Api,
  filter: Filter & { removed?: string },
  limit: number,
  wanted: (run: Run) => boolean = () => true,
): Promise<Run[]> => {
  const runs: Run[] = [];
  const query = { ...filter, limit: Math.min(1000, limit) };
  for await (const { items } of everyPage((cursor) => api.call(routes.listRuns, { query: { ...query, cursor } }))) {
    runs.push(...items.filter(wanted));
    if (runs.length >= limit) break;
  }
  return runs.slice(0, limit);
};

export class BackupsList extends ServerCommand {
  static override description =
    "Lists the backups that can be restored, the newest first. 'aegis backups runs' lists every run, also those that failed or are under way.";
  static override examples = [
    { description: 'The newest 50', command: 'aegis backups list' },
    { description: 'Of one folder of one node', command: 'aegis backups list --config etc --node web-1' },
  ];
  static override flags = { ...filterFlags, ...serverFlags };

  async run(): Promise<undefined> {
    const { flags } = await this.parse(BackupsList);
    const { config, node } = flags;
    await this.withApi(flags, async (api) => {
      const runs = await runsOf(api, { config, node }, flags.limit, canBeRestored);
      if (flags.json) return await this.printJson({ runs });
      await this.print(backupTable(runs, this.around.now(), this.width));
      if (runs.length === 0) await this.note("no backup matches. 'aegis backups runs' shows what was tried.");
    });
  }
}

export class BackupsRuns extends ServerCommand {
  static override description =
    `Lists runs, the newest first: running (with how far they are), completed, completed_with_errors (something could not be read, or changed meanwhile: 'show' says what), failed, cancelled, or lost (the node was not heard of for too long).

With --watch it goes on until Ctrl-C: on a terminal one screen, on a pipe a line for each change (with --json NDJSON).`;
  static override examples = [
    { description: 'What is under way, live', command: 'aegis backups runs --state running --watch' },
    { description: 'What failed of one configuration', command: 'aegis backups runs --config etc --state failed' },
  ];
  static override flags = {
    ...filterFlags,
    state: Flags.option({
      options: ['running', 'completed', 'completed_with_errors', 'failed', 'cancelled', 'lost'] as const,
      summary: 'Only in this state',
    })(),
    removed: Flags.boolean({ summary: 'Also those whose archives are gone' }),
    watch: Flags.boolean({ char: 'w', summary: 'Go on until Ctrl-C' }),
    ...serverFlags,
  };

  async run(): Promise<number | undefined> {
    const { flags } = await this.parse(BackupsRuns);
    const { config, node, state, limit } = flags;
    return await this.withApi(flags, async (api) => {
      const ask = () => runsOf(api, { config, node, state, ...(flags.removed ? { removed: 'true' } : {}) }, limit);
      if (flags.watch) return await this.watch(ask, flags.json);
      const runs = await ask();
      if (flags.json) return await this.printJson({ runs });
      await this.print(runTable(runs, this.around.now(), this.width));
      if (runs.length === 0) await this.note("no run matches. 'aegis backups run NAME --node NODE' starts one.");
      return undefined;
    });
  }

  private async watch(ask: () => Promise<Run[]>, json: boolean): Promise<number> {
    const { now } = this.around;
    return await untilInterrupted(async (signal) => {
      await watch<Run>({
        json,
        around: this.around,
        signal,
        ask,
        say: (text) => this.note(text),
        key: ({ run_id }) => run_id,
        state: (run) => JSON.stringify(json ? run : { ...run, progress: run.progress?.phase ?? null }),
        table: (runs, columns) => runTable(runs, now(), columns),
        line: (run, gone) => (json ? jsonLine(run, gone) : textLine(run, gone, now())),
      });
      return EXIT.interrupted;
    });
  }
}

const jsonLine = (run: Run, gone: boolean): string =>
  JSON.stringify(gone ? { type: 'gone', run_id: run.run_id } : { type: 'run', ...run });
const textLine = (run: Run, gone: boolean, now: number): string =>
  gone
    ? `${plainText(run.run_id)}  gone`
    : runRow(run, now, shortIds([]))
        .filter((cell) => cell !== '')
        .map(plainText)
        .join('  ');

export class BackupsShow extends ServerCommand {
  static override description =
    'Shows one run: how it ended and why, what it holds, where it lies, and which files were not backed up as they are.';
  static override examples = [
    { description: 'The newest good one of a node', command: 'aegis backups show latest:etc@web-1' },
    { description: 'Every error that was kept', command: "aegis backups show 01981c2e-7f3a --json | jq '.errors[]'" },
  ];
  static override args = { run: runArg };
  static override flags = { ...serverFlags };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(BackupsShow);
    await this.withApi(flags, async (api) => {
      const run = await runNamed(api, args.run);
      await (flags.json ? this.printJson(run) : this.print(runFacts(run, this.around.now())));
    });
  }
}

export class BackupsLog extends ServerCommand {
  static override description =
    'Prints what was logged of a run, the oldest first: what came of its hooks, retries, what was refused.';
  static override examples = [
    { description: 'Why it failed', command: 'aegis backups log 01981c2e-7f3a' },
    { description: 'Errors alone', command: 'aegis backups log latest:etc --json | jq \'select(.level=="error")\'' },
  ];
  static override args = { run: runArg };
  static override flags = { ...serverFlags };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(BackupsLog);
    await this.withApi(flags, async (api) => {
      const { run_id: id } = await runNamed(api, args.run);
      const pages = everyPage((cursor) => api.call(routes.runLog, { params: { id }, query: { limit: 1000, cursor } }));
      for await (const { items } of pages)
        await this.print(items.map((line) => (flags.json ? `${JSON.stringify(line)}\n` : logLine(line))).join(''));
    });
  }
}

export class BackupsCancel extends ServerCommand {
  static override description =
    'Asks the node to end a run; it hears of it within seconds, and what it has uploaded is removed. A run that has ended stays as it is.';
  static override examples = [
    { description: 'One that takes too long', command: 'aegis backups cancel 01981c2e-7f3a' },
    {
      description: 'All of a configuration',
      command:
        'aegis backups runs --config etc --state running --json | jq -r .runs[].run_id | xargs -n1 aegis backups cancel',
    },
  ];
  static override args = { run: runArg };
  static override flags = { ...serverFlags };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(BackupsCancel);
    await this.withApi(flags, async (api) => {
      const { run_id: id } = await runNamed(api, args.run);
      const run = await api.call(routes.cancelRun, { params: { id } });
      if (flags.json) return await this.printJson(run);
      const what = run.state === 'running' ? 'is asked to end' : `is ${run.state}`;
      await this.print(`${plainText(run.config)} on ${plainText(run.node)} ${what}\n`);
    });
  }
}

export class BackupsForget extends ServerCommand {
  static override description =
    `Applies a configuration's retention now, and shows for each run whether it stays and by which rule. By itself that happens after each run and each hour. The last good one of a node always stays, and what is locked at the destination stays until the lock ends.`;
  static override examples = [
    { description: 'What would go, and why the rest stays', command: 'aegis backups forget etc --dry-run' },
    { description: 'Do it, for one node', command: 'aegis backups forget etc --node web-1' },
  ];
  static override args = { config: configArg };
  static override flags = {
    'dry-run': Flags.boolean({ summary: 'Remove nothing' }),
    node: Flags.string({ helpValue: 'NODE', summary: 'Only of this node' }),
    ...serverFlags,
  };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(BackupsForget);
    const dry_run = flags['dry-run'];
    await this.withApi(flags, async (api) => {
      const body = { dry_run, ...(flags.node === undefined ? {} : { node: flags.node }) };
      const { decisions } = await api.call(routes.forgetRuns, { params: { id: args.config }, body });
      if (flags.json) return await this.printJson({ dry_run: dry_run ?? false, decisions });
      await this.print(decisionTable(decisions, this.around.now(), this.width));
      const going = decisions.filter(({ keep }) => !keep).length;
      const verb = dry_run ? 'would be removed' : 'removed';
      await this.note(`${decisions.length - going} kept, ${going} ${verb}.`);
    });
  }
}
