import { AegisError } from '@aegis/protocol/errors';
import * as Flags from '@oclif/core/flags';
import { readToken } from '../api/settings.ts';
import { AegisCommand } from '../base-command.ts';
import { daemonFlags, daemonSettings, localFlags } from '../daemon-flags.ts';
import { configText, settingsOf } from '../settings-flags.ts';
import { startBundle } from '../start-bundle.ts';
import { facts } from '../ui/table.ts';

export class DaemonStart extends AegisCommand {
  static override description =
    `Runs in the foreground until SIGTERM or SIGINT, logs to stderr, and prints one line on stdout when it is ready. With --server and a join token it makes this machine a node on its first run, as 'aegis register' does. Commands that run survive a stop: the next start takes them up again.

Settings come from flags, then the environment (AEGIS_...), then the configuration file, then defaults; 'aegis daemon config' shows which.`;
  static override examples = [
    { description: 'A machine that is registered', command: 'aegis daemon start' },
    {
      description: 'Register and start in one',
      command: 'AEGIS_JOIN_TOKEN=aegis1... aegis daemon start --server https://aegis.example.net --name web-1',
    },
  ];
  static override flags = daemonFlags;

  async run(): Promise<undefined> {
    const { flags } = await this.parse(DaemonStart);
    startBundle(
      'daemon',
      { flags: settingsOf(daemonSettings(flags, readToken) as Parameters<typeof settingsOf>[0]), json: flags.json },
      process.env,
    );
  }
}

export class DaemonConfigShow extends AegisCommand {
  static override description =
    'Prints every setting, its value and where it comes from (flag, environment, file, default); secrets are masked. Takes the flags of start, so that a start can be tried out.';
  static override examples = [
    { description: 'As the service would see it', command: 'aegis daemon config' },
    {
      description: 'What a flag would change',
      command: 'aegis daemon config --config ./daemon.toml --max-concurrent 8',
    },
  ];
  static override flags = daemonFlags;

  async run(): Promise<undefined> {
    const { flags } = await this.parse(DaemonConfigShow);
    const { loadDaemonConfig, shownConfig } = await import('@aegis/daemon/config');
    const given = settingsOf(daemonSettings(flags, readToken) as Parameters<typeof settingsOf>[0]);
    const { config, origins } = loadDaemonConfig({ flags: given, env: this.around.env, configFile: flags.config });
    const settings = Object.entries(shownConfig(config)).map(([key, value]) => ({
      key,
      value,
      origin: (origins as Readonly<Record<string, string>>)[key] ?? 'default',
    }));
    await (flags.json ? this.printJson({ settings }) : this.print(configText(settings, this.width)));
  }
}

const askDaemon = async (
  flags: { 'data-dir'?: string | undefined; config?: string | undefined },
  env: Readonly<Record<string, string | undefined>>,
  order: { op: 'status' | 'undrain' } | { op: 'drain'; timeout_sec: number },
): Promise<Record<string, unknown>> => {
  const { loadDaemonConfig } = await import('@aegis/daemon/config');
  const { controlDaemon } = await import('@aegis/daemon/control');
  const { config } = loadDaemonConfig({
    flags: settingsOf({ 'data-dir': flags['data-dir'] }),
    env,
    configFile: flags.config,
  });
  const answer: unknown = await controlDaemon(config.data_dir, order);
  if (typeof answer !== 'object' || answer === null)
    throw new AegisError('http.internal', 'The daemon gave no answer that makes sense.');
  return answer as Record<string, unknown>;
};

const answerFacts = (answer: Readonly<Record<string, unknown>>): string =>
  facts(Object.entries(answer).map(([key, value]) => [key.replaceAll('_', ' '), factText(value)] as const));
const factText = (value: unknown): string | null => {
  if (typeof value === 'string' || value === null) return value;
  if (isBackups(value)) return backupsText(value);
  return isArtifacts(value) ? artifactsText(value) : JSON.stringify(value);
};

interface Backups {
  configs: number;
  running: number;
  queued: number;
  unreported: number;
  failed: readonly string[];
}
const isBackups = (value: unknown): value is Backups =>
  typeof value === 'object' && value !== null && 'configs' in value && 'queued' in value;
/** `2 configured, 1 running; failed last: etc, db`. */
const backupsText = ({ configs, running, queued, unreported, failed }: Backups): string => {
  const counts = { running, queued, unreported };
  const parts = Object.entries(counts).flatMap(([what, count]) => (count > 0 ? [`, ${count} ${what}`] : []));
  const last = failed.length > 0 ? `; failed last: ${failed.join(', ')}` : '';
  return `${configs} configured${parts.join('')}${last}`;
};

interface Artifacts {
  assigned: number;
  attached: number;
  waiting: number;
  failed: number;
  problems: readonly { name: string; code: string; message: string }[];
}
const isArtifacts = (value: unknown): value is Artifacts =>
  typeof value === 'object' && value !== null && 'assigned' in value && 'problems' in value;
/** `2 assigned, 1 attached, 1 failed; block-icmp: the reason (its code)`. */
const artifactsText = ({ assigned, attached, waiting, failed, problems }: Artifacts): string => {
  const counts = [
    `${assigned} assigned`,
    `${attached} attached`,
    ...(waiting > 0 ? [`${waiting} waiting`] : []),
    ...(failed > 0 ? [`${failed} failed`] : []),
  ];
  return [counts.join(', '), ...problems.map(({ name, code, message }) => `${name}: ${message} (${code})`)].join('; ');
};

export class DaemonStatus extends AegisCommand {
  static override description =
    'Asks the daemon on this machine through its socket in the data directory; only its own user and root may.';
  static override examples = [
    { description: 'As text', command: 'aegis daemon status' },
    {
      description: 'One of several daemons on this machine',
      command: 'aegis daemon status --data-dir /tmp/node-2 --json',
    },
  ];
  static override flags = localFlags;

  async run(): Promise<undefined> {
    const { flags } = await this.parse(DaemonStatus);
    const answer = await askDaemon(flags, this.around.env, { op: 'status' });
    await (flags.json ? this.printJson(answer) : this.print(answerFacts(answer)));
  }
}

const DAY_SEC = 86_400;

export class DaemonDrain extends AegisCommand {
  static override description =
    'The daemon takes no new commands, and this returns when those that run have ended and been reported, or when the time is over (exit code 1). Until it is undone or the daemon starts anew, nothing is taken; what runs can still be cancelled.';
  static override examples = [
    { description: 'Before a reboot', command: 'aegis daemon drain && reboot' },
    { description: 'For ten minutes at most', command: 'aegis daemon drain --timeout 600' },
    { description: 'Take commands again', command: 'aegis daemon drain --undo' },
  ];
  static override flags = {
    timeout: Flags.integer({
      min: 0,
      helpValue: 'SEC',
      max: DAY_SEC,
      summary: 'Wait this long at most (default: a day)',
    }),
    undo: Flags.boolean({ summary: 'Take commands again', exclusive: ['timeout'] }),
    ...localFlags,
  };

  async run(): Promise<number | undefined> {
    const { flags } = await this.parse(DaemonDrain);
    const timeout_sec = flags.timeout ?? DAY_SEC;
    const answer = await askDaemon(
      flags,
      this.around.env,
      flags.undo ? { op: 'undrain' } : { op: 'drain', timeout_sec },
    );
    await (flags.json ? this.printJson(answer) : this.print(answerFacts(answer)));
    if (flags.undo || answer.drained === true) return undefined;
    await this.note('the time is over and not all has ended and been reported.');
    return 1;
  }
}
