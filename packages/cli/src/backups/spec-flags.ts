/** backups: what the topics of `aegis backups` need beside the server's word: configurations from flags and files, runs by name, the nodes that
 *  this user trusts, and a run's objects read through links or from a folder. Called by topics/backups*.ts.
 *  Invariant: nothing of a run is believed that the statement of a trusted node does not vouch for; no secret comes from, or goes to, a
 *  command line. Must not hold formats: those stand in @aegis/archive. */
import { AegisError } from '@aegis/protocol/errors';
import * as Flags from '@oclif/core/flags';
import { plainText } from '../ui/plain-text.ts';
import { bytesOf } from '../ui/size.ts';
import { secondsOf } from '../ui/time.ts';

/** A configuration as text has it, before its defaults are filled in. */
export type SpecTree = Record<string, unknown>;

const many = { multiple: true, multipleNonGreedy: true } as const;
const DESTINATION = 'DESTINATION';
const SELECT = 'SELECTION';
const WHEN = 'SCHEDULE';
const KEEP = 'RETENTION';
const HOW = 'RUNS';

const count = (summary: string) => Flags.integer({ min: -1, helpValue: 'N', summary, helpGroup: KEEP });
const within = (unit: string) =>
  Flags.string({ helpValue: 'TIME', summary: `Keep ${unit} within this time of the newest`, helpGroup: KEEP });
const hook = (when: string) =>
  Flags.string({ ...many, helpValue: 'LINE', summary: `Shell line on the node ${when}; repeatable`, helpGroup: HOW });

export const specFlags = {
  source: Flags.string({ ...many, helpValue: 'PATH', summary: 'What is backed up, on the node; repeatable' }),
  description: Flags.string({ helpValue: 'TEXT', summary: 'For people' }),
  node: Flags.string({ ...many, helpValue: 'NODE|SELECTOR', summary: 'Who makes it; repeatable' }),
  mode: Flags.option({
    options: ['agent', 'server'] as const,
    summary: "On nodes, or of the control server's own files",
  })(),
  recipient: Flags.string({
    ...many,
    helpValue: 'age1...',
    summary: 'Encrypt to this public key; repeatable',
  }),
  compression: Flags.integer({ min: 1, max: 19, helpValue: 'LEVEL', summary: "zstd's level (default 3)" }),
  tag: Flags.string({ ...many, helpValue: 'TAG', summary: 'Mark its runs; repeatable' }),
  paused: Flags.boolean({ allowNo: true, summary: 'Start no scheduled runs' }),
  to: Flags.string({
    helpValue: 'URL',
    summary: 's3://BUCKET/PREFIX, or file:///PATH on the node',
    helpGroup: DESTINATION,
  }),
  endpoint: Flags.string({ helpValue: 'URL', summary: "S3 server (default: Amazon's)", helpGroup: DESTINATION }),
  region: Flags.string({ helpValue: 'REGION', summary: 'Its region (default us-east-1)', helpGroup: DESTINATION }),
  'path-style': Flags.boolean({
    allowNo: true,
    summary: 'Bucket in the path, not in the host name',
    helpGroup: DESTINATION,
  }),
  access: Flags.option({
    options: ['signed', 'presigned', 'sts', 'static'] as const,
    summary: 'How nodes get at the bucket (default signed: they hold no key)',
    helpGroup: DESTINATION,
  })(),
  'sts-role': Flags.string({ helpValue: 'ARN', summary: 'Role for --access sts', helpGroup: DESTINATION }),
  'storage-class': Flags.string({ helpValue: 'CLASS', summary: 'Such as STANDARD_IA', helpGroup: DESTINATION }),
  'object-lock-days': Flags.integer({
    min: 1,
    helpValue: 'N',
    summary: 'Nobody can delete an archive for so long',
    helpGroup: DESTINATION,
  }),
  exclude: Flags.string({
    ...many,
    helpValue: 'PATTERN',
    summary: "Leave out, by restic's rules; repeatable",
    helpGroup: SELECT,
  }),
  iexclude: Flags.string({
    ...many,
    helpValue: 'PATTERN',
    summary: 'The same, upper and lower case alike',
    helpGroup: SELECT,
  }),
  'exclude-file': Flags.string({
    ...many,
    helpValue: 'PATH',
    summary: 'Patterns from a file on the node; repeatable',
    helpGroup: SELECT,
  }),
  'iexclude-file': Flags.string({
    ...many,
    helpValue: 'PATH',
    summary: 'The same, upper and lower case alike',
    helpGroup: SELECT,
  }),
  'exclude-caches': Flags.boolean({
    allowNo: true,
    summary: 'Leave out what CACHEDIR.TAG marks',
    helpGroup: SELECT,
  }),
  'exclude-if-present': Flags.string({
    ...many,
    helpValue: 'NAME[:HEADER]',
    summary: 'Leave out folders that have this file',
    helpGroup: SELECT,
  }),
  'exclude-larger-than': Flags.string({ helpValue: 'SIZE', summary: 'Leave out larger files', helpGroup: SELECT }),
  'one-file-system': Flags.boolean({
    allowNo: true,
    summary: 'Stay on the file system of each source',
    helpGroup: SELECT,
  }),
  schedule: Flags.string({ helpValue: 'CRON', summary: "Such as '30 2 * * *' or @daily", helpGroup: WHEN }),
  timezone: Flags.string({ helpValue: 'ZONE', summary: 'Such as Europe/Berlin (default UTC)', helpGroup: WHEN }),
  jitter: Flags.string({ helpValue: 'TIME', summary: 'Spread the starts of nodes over this', helpGroup: WHEN }),
  'catch-up': Flags.boolean({ allowNo: true, summary: 'Run once what was missed (default)', helpGroup: WHEN }),
  'keep-last': count('Keep the newest N (-1: all)'),
  'keep-hourly': count('Keep one of each of the last N hours with runs'),
  'keep-daily': count('Keep one of each of the last N days with runs'),
  'keep-weekly': count('Keep one of each of the last N weeks with runs'),
  'keep-monthly': count('Keep one of each of the last N months with runs'),
  'keep-yearly': count('Keep one of each of the last N years with runs'),
  'keep-within': within('all'),
  'keep-within-hourly': within('hourly ones'),
  'keep-within-daily': within('daily ones'),
  'keep-within-weekly': within('weekly ones'),
  'keep-within-monthly': within('monthly ones'),
  'keep-within-yearly': within('yearly ones'),
  'keep-tag': Flags.string({
    ...many,
    helpValue: 'TAG[,TAG]',
    summary: 'Keep runs with all of these tags; repeatable',
    helpGroup: KEEP,
  }),
  'retention-days': Flags.integer({ min: 1, helpValue: 'N', summary: 'Keep what is younger', helpGroup: KEEP }),
  'upload-limit': Flags.string({ helpValue: 'SIZE', summary: 'Bytes a second, such as 10M', helpGroup: HOW }),
  before: hook('before it; a failure stops the run'),
  after: hook('after it'),
  'on-failure': hook('when it failed'),
  'hook-timeout': Flags.string({ helpValue: 'TIME', summary: 'For each of them (default 5m)', helpGroup: HOW }),
  'time-limit': Flags.string({ helpValue: 'TIME', summary: 'End a run after this long (default 1d)', helpGroup: HOW }),
  'size-limit': Flags.string({ helpValue: 'SIZE', summary: 'End a run when its archive is larger', helpGroup: HOW }),
  retries: Flags.integer({ min: 0, helpValue: 'N', summary: 'Try a failed run again (default 2)', helpGroup: HOW }),
  'alert-after': Flags.string({
    helpValue: 'TIME',
    summary: 'Alert when a node had no success for so long',
    helpGroup: HOW,
  }),
  'verify-every': Flags.integer({
    min: 1,
    helpValue: 'DAYS',
    summary: 'Let the server check the newest archives this often',
    helpGroup: HOW,
  }),
} as const;

type Value = string | number | boolean | readonly string[] | undefined;
export type SpecFlags = Readonly<Partial<Record<keyof typeof specFlags, Value>>>;

const usage = (message: string): AegisError => new AegisError('cli.usage', message);
const inSeconds = (flag: string, text: string): number => {
  const seconds = secondsOf(text);
  if (seconds === null) throw usage(`--${flag} ${plainText(text)}: not a time; write 90, 90s, 15m, 2h or 7d.`);
  return Math.round(seconds);
};
const inBytes = (flag: string, text: string): number => {
  const bytes = bytesOf(text);
  if (bytes === null) throw usage(`--${flag} ${plainText(text)}: not a size; write 4096, 100k, 10M or 1.5G.`);
  return bytes;
};
/** The other half is not told to anybody: not even in the request that would be refused. */
const publicOnly = (_flag: string, keys: Value): Value => {
  if ((keys as readonly string[]).some((key) => /^AGE-SECRET-KEY-/i.test(key)))
    throw usage(
      "--recipient: this is an identity, the secret that opens backups. Give its public half, which 'age-keygen -y FILE' prints (age1…).",
    );
  return keys;
};
const shellLine = (flags: SpecFlags) => (_flag: string, lines: Value) =>
  (lines as readonly string[]).map((line) => ({
    argv: ['/bin/sh', '-c', line],
    ...(flags['hook-timeout'] === undefined
      ? {}
      : { timeout_sec: inSeconds('hook-timeout', String(flags['hook-timeout'])) }),
  }));

type Place = readonly [path: string, form?: (flag: string, value: Value) => unknown];
const plain = (path: string): Place => [path];
const seconds = (path: string): Place => [path, (flag, value) => inSeconds(flag, String(value))];
const bytes = (path: string): Place => [path, (flag, value) => inBytes(flag, String(value))];

/** Where each flag's value stands in a configuration. `--to` comes before them, `hook-timeout` goes into the hooks. */
const places = (flags: SpecFlags): Readonly<Partial<Record<keyof typeof specFlags, Place>>> => ({
  source: plain('sources'),
  description: plain('description'),
  node: plain('nodes'),
  mode: plain('execution_mode'),
  recipient: ['encryption.recipients', publicOnly],
  compression: plain('compression.level'),
  tag: plain('tags'),
  paused: plain('paused'),
  endpoint: plain('destination.endpoint'),
  region: plain('destination.region'),
  'path-style': plain('destination.path_style'),
  access: plain('destination.access'),
  'sts-role': plain('destination.sts.role_arn'),
  'storage-class': plain('destination.storage_class'),
  'object-lock-days': plain('destination.object_lock_days'),
  exclude: plain('exclude.patterns'),
  iexclude: plain('exclude.ipatterns'),
  'exclude-file': plain('exclude.files'),
  'iexclude-file': plain('exclude.ifiles'),
  'exclude-caches': plain('exclude.caches'),
  'exclude-if-present': plain('exclude.if_present'),
  'exclude-larger-than': bytes('exclude.larger_than'),
  'one-file-system': plain('exclude.one_file_system'),
  schedule: plain('schedule.cron'),
  timezone: plain('schedule.timezone'),
  jitter: seconds('schedule.jitter_sec'),
  'catch-up': plain('schedule.catch_up'),
  'keep-last': plain('retention.keep_last'),
  'keep-hourly': plain('retention.keep_hourly'),
  'keep-daily': plain('retention.keep_daily'),
  'keep-weekly': plain('retention.keep_weekly'),
  'keep-monthly': plain('retention.keep_monthly'),
  'keep-yearly': plain('retention.keep_yearly'),
  'keep-within': plain('retention.keep_within'),
  'keep-within-hourly': plain('retention.keep_within_hourly'),
  'keep-within-daily': plain('retention.keep_within_daily'),
  'keep-within-weekly': plain('retention.keep_within_weekly'),
  'keep-within-monthly': plain('retention.keep_within_monthly'),
  'keep-within-yearly': plain('retention.keep_within_yearly'),
  'keep-tag': ['retention.keep_tags', (_, value) => (value as readonly string[]).map((list) => list.split(','))],
  'retention-days': plain('retention.days'),
  'upload-limit': bytes('bandwidth.upload'),
  before: ['hooks.before', shellLine(flags)],
  after: ['hooks.after', shellLine(flags)],
  'on-failure': ['hooks.on_failure', shellLine(flags)],
  'time-limit': seconds('limits.run_sec'),
  'size-limit': bytes('limits.archive_bytes'),
  retries: plain('retries.max'),
  'alert-after': seconds('alerts.expect_within_sec'),
  'verify-every': plain('verification.every_days'),
});

/** What the flags say, on top of `base`; lists take the place of those that were there. The server validates it.
 *  @throws AegisError cli.usage */
export const specOf = (flags: SpecFlags, base: SpecTree = {}): SpecTree => {
  const spec = structuredClone(base);
  if (flags.to !== undefined) spec.destination = destinationOf(String(flags.to), spec.destination);
  if (flags['hook-timeout'] !== undefined && !flags.before && !flags.after && !flags['on-failure'])
    throw usage('--hook-timeout belongs to --before, --after or --on-failure.');
  for (const [flag, [path, form]] of Object.entries(places(flags))) {
    const value = flags[flag as keyof SpecFlags];
    if (value === undefined) continue;
    if (path.startsWith('destination.') && !isTree(spec.destination))
      throw usage(`--${flag} belongs to an S3 destination: add --to s3://BUCKET/PREFIX.`);
    put(spec, path.split('.'), form ? form(flag, value) : value);
  }
  return spec;
};

/** The flag whose value stands at, or above, a field of a configuration. */
export const flagOf = (field: string): string | null => {
  const found = Object.entries({ ...places({}), to: plain('destination') }).find(
    ([, [path]]) => field === path || field.startsWith(`${path}.`),
  );
  return found ? `--${found[0]}` : null;
};

/** Whether any of the flags says something. */
export const saysAnything = (flags: SpecFlags): boolean =>
  Object.keys(specFlags).some((flag) => flags[flag as keyof SpecFlags] !== undefined);

/** Takes a field away, by its dotted path as `diff` shows it, so that its default counts again. @throws AegisError cli.usage */
export const unset = (spec: SpecTree, path: string): void => {
  const steps = path.split('.');
  const last = steps.pop() ?? '';
  let place: unknown = spec;
  for (const step of steps) place = isTree(place) && Object.hasOwn(place, step) ? place[step] : undefined;
  if (!isTree(place) || !Object.hasOwn(place, last))
    throw usage(`--unset ${plainText(path)}: it is not set. 'aegis backups configs show NAME --toml' shows what is.`);
  delete place[last];
};

const isTree = (value: unknown): value is SpecTree =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

const put = (tree: SpecTree, [first = '', ...rest]: readonly string[], value: unknown): void => {
  if (rest.length === 0) tree[first] = value;
  else {
    const below = tree[first];
    const place = isTree(below) ? below : {};
    tree[first] = place;
    put(place, rest, value);
  }
};

const destinationOf = (url: string, before: unknown): SpecTree => {
  const s3 = /^s3:\/\/([^/]+)(?:\/(.*))?$/.exec(url);
  if (s3) {
    const settings = isTree(before) && before.kind === 's3' ? before : {};
    return { ...settings, kind: 's3', bucket: s3[1], prefix: (s3[2] ?? '').replace(/\/+$/, '') };
  }
  const file = /^file:(?:\/\/)?(\/(?!\/).*)$/.exec(url);
  if (file) return { kind: 'file', path: file[1] };
  throw usage(`--to ${plainText(url)}: write s3://BUCKET/PREFIX, or file:///PATH for a folder of the node.`);
};
