import type { BackupConfig, ConfigAnswer, ConfigNode } from '@aegis/protocol/backups/endpoints';
import { plainText } from '../ui/plain-text.ts';
import { facts, table } from '../ui/table.ts';
import { ago, byteCount, duration } from '../ui/time.ts';

/** Configurations and their differences as people read them. */

export const destinationText = (destination: BackupConfig['destination']): string =>
  destination.kind === 'file'
    ? `file://${destination.path}`
    : `s3://${destination.bucket}${destination.prefix === '' ? '' : `/${destination.prefix}`}`;

const scheduleText = ({ schedule, paused }: BackupConfig): string | null => {
  if (schedule === undefined) return null;
  const jitter = schedule.jitter_sec > 0 ? `, spread over ${duration(schedule.jitter_sec * 1000)}` : '';
  return `${schedule.cron} (${schedule.timezone}${jitter})${paused ? ', paused' : ''}`;
};

export const configRows = (configs: readonly BackupConfig[], now: number, width: number | undefined): string =>
  table(
    ['NAME', 'DESTINATION', 'SCHEDULE', 'NODES', 'LAST RUN', 'STATE', 'SOURCES'],
    configs.map((config) => [
      config.name,
      destinationText(config.destination),
      `${config.schedule?.cron ?? '-'}${config.paused ? ' (paused)' : ''}`,
      String(config.assigned),
      ago(config.last_run?.started_at ?? null, now),
      config.last_run?.state ?? '-',
      config.sources.join(' '),
    ]),
    width,
  );

const retentionText = ({ retention }: BackupConfig): string => {
  const rules = Object.entries(retention).map(
    ([rule, value]) =>
      `${rule.replaceAll('_', '-')} ${Array.isArray(value) ? value.map((tags) => tags.join('+')).join(' ') : value}`,
  );
  return rules.length === 0 ? 'everything is kept' : rules.join(', ');
};

const excludeText = ({ exclude }: BackupConfig): string | null => {
  const parts = [
    ...exclude.patterns,
    ...exclude.ipatterns.map((pattern) => `${pattern} (any case)`),
    ...exclude.files.map((file) => `patterns of ${file}`),
    ...exclude.ifiles.map((file) => `patterns of ${file} (any case)`),
    ...(exclude.caches ? ['caches'] : []),
    ...exclude.if_present.map((name) => `folders with ${name}`),
    ...(exclude.larger_than === undefined ? [] : [`files above ${byteCount(exclude.larger_than)}`]),
    ...(exclude.one_file_system ? ['other file systems'] : []),
  ];
  return parts.length === 0 ? null : parts.join(', ');
};

const probeText = ({ probe }: BackupConfig, now: number): string => {
  if (probe === null) return 'not tried yet';
  const notes = probe.notes.length > 0 ? `: ${probe.notes.join(' ')}` : '';
  return `${probe.ok ? 'works' : 'does not work'} (${ago(probe.at, now)})${notes}`;
};

export const configFacts = (config: BackupConfig, now: number): string => {
  const s3 = config.destination.kind === 's3' ? config.destination : null;
  const hooks = (['before', 'after', 'on_failure'] as const).flatMap((when) =>
    config.hooks[when].map(({ argv }) => [`hook ${when.replace('_', ' ')}`, argv.join(' ')] as const),
  );
  return facts([
    ['name', config.name],
    ['id', config.config_id],
    ['description', config.description || null],
    ['sources', config.sources.join(', ')],
    ['left out', excludeText(config)],
    ['destination', destinationText(config.destination)],
    ['endpoint', s3 && `${s3.endpoint ?? "Amazon's"} (${s3.region})`],
    ['access', s3 && `${s3.access}, key ${config.credentials?.access_key_id ?? "of the server's own surroundings"}`],
    ['probe', s3 && probeText(config, now)],
    [
      'object lock',
      s3?.object_lock_days
        ? `${s3.object_lock_days === 1 ? '1 day' : `${s3.object_lock_days} days`} (${s3.object_lock_mode})`
        : null,
    ],
    ['encrypted to', config.encryption.recipients.join(', ') || 'nobody: not encrypted'],
    ['compression', `zstd ${config.compression.level}`],
    ['schedule', scheduleText(config) ?? 'none: it runs when it is asked for'],
    ['upload limit', config.bandwidth.upload === undefined ? null : `${byteCount(config.bandwidth.upload)}/s`],
    ...hooks,
    ['retention', retentionText(config)],
    ['runs', config.execution_mode === 'server' ? 'on the control server' : config.nodes.join(', ') || 'nowhere yet'],
    ['tags', config.tags.join(', ') || null],
    ['revision', `${config.revision}, ${ago(config.updated_at, now)} by ${config.updated_by}`],
  ]);
};

export const nodeRows = (nodes: readonly ConfigNode[], now: number, width: number | undefined): string =>
  table(
    ['NODE', 'CONFIGURATION', 'LAST RUN', 'STATE', 'LAST GOOD', 'NEXT', 'NOTE'],
    nodes.map((one) => [
      one.node,
      one.taken ? 'taken' : one.online ? 'under way' : 'waits for the node',
      ago(one.last_run?.started_at ?? null, now),
      one.last_run?.state ?? '-',
      ago(one.last_good?.started_at ?? null, now),
      one.next_run_at ?? '-',
      one.refusal ? `${one.refusal.message} (${one.refusal.code})` : one.overdue ? 'overdue' : '',
    ]),
    width,
  );

/** A line for each field that differs: `+` is new, `-` goes, `~` becomes another. */
export const diffText = ({ diff, nodes }: Pick<ConfigAnswer, 'diff' | 'nodes'>): string => {
  const lines = diff.map(({ field, before, after }) => {
    if (before === null) return `+ ${field}: ${after}`;
    return after === null ? `- ${field}: ${before}` : `~ ${field}: ${before} → ${after}`;
  });
  const said = [
    ...lines,
    ...nodes.added.map((node) => `+ node ${node}`),
    ...nodes.removed.map((node) => `- node ${node}`),
  ];
  return said.map((line) => `  ${plainText(line)}\n`).join('');
};
