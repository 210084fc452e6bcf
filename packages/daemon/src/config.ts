import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { isProxyUrl } from '@aegis/protocol/channel/proxy';
import { AegisError } from '@aegis/protocol/errors';
import { Labels, NodeName, Site } from '@aegis/protocol/nodes/node';
import { validate } from '@aegis/protocol/validation';
import { parse as parseToml } from 'smol-toml';
import * as z from 'zod/mini';
import { MessageHooks } from './messages/hook.ts';

/** The daemon's configuration: flags > environment > TOML file > defaults, each value with where it came from. */

const MIB = 1024 * 1024;
const whole = (least: number, most: number) =>
  z.coerce.number(`a whole number from ${least} to ${most}`).check(z.int(), z.minimum(least), z.maximum(most));
const toggle = z.pipe(
  z.union([z.boolean(), z.enum(['true', 'false', '1', '0'])], 'true or false'),
  z.transform((value) => value === true || value === 'true' || value === '1'),
);
const ServerUrl = z.pipe(
  z.string().check(z.refine(isOrigin, 'an http:// or https:// address without a path, e.g. https://aegis.example.com')),
  z.transform((text) => new URL(text).origin),
);

export const DaemonConfig = z.strictObject({
  data_dir: z.string().check(z.minLength(1)),
  server: z.optional(ServerUrl),
  /** Where the server's registry door is served, when that is another address. */
  registry: z.optional(ServerUrl),
  join_token: z.optional(z.string().check(z.minLength(1))),
  name: z.optional(NodeName),
  site: z.optional(Site),
  labels: z._default(z.pipe(z.transform(labelsOf), Labels), {}),
  log_level: z._default(z.enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']), 'info'),
  log_format: z._default(z.enum(['json', 'pretty']), 'json'),
  max_concurrent: z._default(whole(1, 1000), 4),
  /** How work comes and reports go: over the channel, by polls while there is none (auto); over it alone; by polls alone. */
  carrier: z._default(z.enum(['auto', 'ws', 'poll']), 'auto'),
  poll_wait_sec: z._default(whole(0, 60), 30),
  /** Per stream of an execution, on disk. */
  spool_bytes: z._default(whole(8192, 1024 * 1024 * MIB), 64 * MIB),
  segment_bytes: z._default(whole(1024, 64 * MIB), 4 * MIB),
  /** From SIGTERM to SIGKILL, for commands that name no grace of their own. */
  grace_sec: z._default(whole(0, 600), 10),
  /** How long pipes that left-over processes hold open are still read. */
  drain_sec: z._default(whole(0, 600), 2),
  compress: z._default(z.enum(['auto', 'off', 'on']), 'auto'),
  cgroup: z._default(z.enum(['auto', 'off']), 'auto'),
  journal_max_executions: z._default(whole(1, 100_000), 2000),
  journal_max_bytes: z._default(whole(MIB, 1024 * 1024 * MIB), 1024 * MIB),
  journal_kept_reports: z._default(whole(0, 1_000_000), 10_000),
  journal_max_seen: z._default(whole(1000, 10_000_000), 1_000_000),
  undelivered_bytes: z._default(whole(MIB, 1024 * 1024 * MIB), 2048 * MIB),
  /** Artifacts that may be assigned to this node at once. */
  journal_max_artifacts: z._default(whole(1, 10_000), 256),
  /** Bundles on disk, all together. */
  artifacts_max_bytes: z._default(whole(MIB, 1024 * 1024 * MIB), 256 * MIB),
  /** Between two comparisons of what is wished with what the kernel holds. */
  artifacts_reconcile_sec: z._default(whole(1, 3600), 15),
  /** Between two reports that say nothing new but counters. */
  artifacts_status_sec: z._default(whole(1, 86_400), 60),
  /** Backup configurations that may be assigned to this node at once. */
  backups_max_configs: z._default(whole(1, 1000), 100),
  /** Backups and restores at once; more wait. */
  backups_max_concurrent: z._default(whole(1, 100), 2),
  /** Of an upload in parts, before they grow with the archive. S3 takes none under 5 MiB but the last. */
  backups_part_bytes: z._default(whole(5 * MIB, 1024 * MIB), 16 * MIB),
  /** Of one backup on disk that are not uploaded yet. */
  backups_spool_parts: z._default(whole(1, 64), 4),
  /** Of one backup on their way at once. */
  backups_parallel_parts: z._default(whole(1, 16), 3),
  /** How long a request to S3 that fails is tried again before the attempt has failed. */
  backups_retry_sec: z._default(whole(1, 86_400), 900),
  /** How long a request to S3 may stand still. */
  backups_stall_sec: z._default(whole(1, 3600), 60),
  /** Counts runs and run time of all eBPF programs of the machine, for status reports. */
  bpf_statistics: z._default(toggle, false),
  /** From the first contact to the probe of the kernel, once a boot: at least this, at most twice. */
  kernel_report_delay_sec: z._default(whole(0, 3600), 5),
  /** Where eBPF programs are pinned, and below what the manifests' cgroup paths hang. */
  bpffs: z._default(z.string().check(z.startsWith('/')), '/sys/fs/bpf'),
  cgroup_root: z._default(z.union([z.literal('auto'), z.string().check(z.startsWith('/'))]), 'auto'),
  /** This node's own rules about what it obeys; beside the configuration file unless it is named here. */
  policy_file: z._default(z.string(), ''),
  /** By channel: what takes operators' messages. As JSON where it comes from the environment. */
  hooks: z._default(z.pipe(z.transform(jsonOf), MessageHooks), {}),
  native_dir: z.optional(z.string()),
  tls_ca: z.optional(z.string()),
  /** What this node shows a server that asks for certificates. */
  tls_client_cert: z.optional(z.string()),
  tls_client_key: z.optional(z.string()),
  https_proxy: z.optional(z.string().check(z.refine(isProxyUrl, 'an http:// or https:// address of a proxy'))),
  no_proxy: z.optional(z.string()),
  insecure_dev: z._default(toggle, false),
});
export type DaemonConfig = z.infer<typeof DaemonConfig>;
export type Origin = 'default' | `flag` | `env ${string}` | `file ${string}`;
export type Origins = Record<keyof DaemonConfig, Origin>;

export const DAEMON_KEYS = Object.keys(DaemonConfig.shape) as (keyof DaemonConfig)[];
const SECRET: readonly string[] = ['join_token', 'https_proxy']; // a proxy's address may hold a password
/** Beside AEGIS_<KEY>: what the agents that this daemon succeeds were told their server by, and what every program is told its proxy by. */
const MORE_VARIABLES: Readonly<Partial<Record<keyof DaemonConfig, readonly string[]>>> = {
  server: ['AGENT_SVC_URL'],
  registry: ['AGENT_REGISTRY_URL'],
  https_proxy: ['HTTPS_PROXY', 'https_proxy'],
  no_proxy: ['NO_PROXY', 'no_proxy'],
};
export const DEFAULT_CONFIG_FILE = '/etc/aegis/daemon.toml';

export interface ConfigSources {
  /** By key, in kebab-case or snake_case; undefined means not given. */
  flags: Readonly<Record<string, unknown>>;
  env: Readonly<Record<string, string | undefined>>;
  configFile?: string | undefined;
}

/** @throws AegisError config.invalid, naming key, value, origin and what is allowed */
export const loadDaemonConfig = ({
  flags,
  env,
  configFile,
}: ConfigSources): { config: DaemonConfig; origins: Origins } => {
  const file =
    configFile ?? env.AEGIS_DAEMON_CONFIG ?? (existsSync(DEFAULT_CONFIG_FILE) ? DEFAULT_CONFIG_FILE : undefined);
  const fromFile = file === undefined ? {} : readToml(file);
  for (const key of Object.keys(fromFile))
    if (!DAEMON_KEYS.includes(key as keyof DaemonConfig))
      throw invalid(key, fromFile[key], `file ${file}`, `there is no such key; known: ${DAEMON_KEYS.join(', ')}`);
  const fromFlags = Object.fromEntries(Object.entries(flags).map(([key, value]) => [key.replaceAll('-', '_'), value]));

  const values: Record<string, unknown> = {};
  const origins: Record<string, Origin> = {};
  for (const key of DAEMON_KEYS) {
    const names = [`AEGIS_${key.toUpperCase()}`, ...(MORE_VARIABLES[key] ?? [])];
    const variable = names.find((name) => env[name]) ?? names[0] ?? '';
    const [value, origin] = pick(key, fromFlags[key], env[variable], fromFile[key], variable, file);
    origins[key] = origin;
    if (value === undefined) continue;
    const checked = validate(DaemonConfig.shape[key], value, key);
    if (!checked.ok) throw invalid(key, value, origin, checked.refusal.reason);
    values[key] = checked.value;
  }
  const config = z.parse(DaemonConfig, { ...values });
  config.data_dir = resolve(config.data_dir);
  config.policy_file = resolve(config.policy_file || join(dirname(file ?? DEFAULT_CONFIG_FILE), 'policy.toml'));
  checkTogether(config, origins as Origins);
  return { config, origins: origins as Origins };
};

const pick = (
  key: string,
  flag: unknown,
  variable: string | undefined,
  inFile: unknown,
  name: string,
  file: string | undefined,
): [unknown, Origin] => {
  if (flag !== undefined) return [flag, 'flag'];
  // AEGIS_DATA_DIR is the parent of server's and daemon's own folders.
  if (variable !== undefined && variable !== '')
    return [key === 'data_dir' ? join(variable, 'daemon') : variable, `env ${name}`];
  if (inFile !== undefined) return [inFile, `file ${file}`];
  return [key === 'data_dir' ? '/var/lib/aegis/daemon' : undefined, 'default'];
};

const checkTogether = (config: DaemonConfig, origins: Origins): void => {
  const { spool_bytes: spool, segment_bytes: segment } = config;
  if ((config.tls_client_cert === undefined) !== (config.tls_client_key === undefined)) {
    const missing = config.tls_client_cert === undefined ? 'tls_client_cert' : 'tls_client_key';
    throw invalid(missing, null, origins[missing], 'tls_client_cert and tls_client_key together, or neither');
  }
  // The output limit keeps half a spool as tail; with fewer segments than four that could fill it for good.
  if (spool < 4 * segment)
    throw invalid('spool_bytes', spool, origins.spool_bytes, `at least 4 × segment_bytes (${4 * segment})`);
  if (spool > 1024 * segment)
    throw invalid('spool_bytes', spool, origins.spool_bytes, `at most 1024 × segment_bytes (${1024 * segment})`);
};

const readToml = (path: string): Record<string, unknown> => {
  try {
    return parseToml(readFileSync(path, 'utf8'));
  } catch (cause) {
    const why = cause instanceof Error ? (cause.message.split('\n')[0] ?? '') : '';
    throw new AegisError('config.invalid', `The configuration file ${path} cannot be read: ${why}.`, { cause });
  }
};

const invalid = (key: string, value: unknown, origin: string, allowed: string): AegisError =>
  new AegisError(
    'config.invalid',
    `${key} = ${SECRET.includes(key) ? '***' : JSON.stringify(value)} (${origin}) is not valid: ${allowed}.`,
    { details: { key, origin } },
  );

/** The effective configuration for people, secrets masked. */
export const shownConfig = (config: DaemonConfig): Record<string, unknown> =>
  Object.fromEntries(
    DAEMON_KEYS.map((key) => [key, SECRET.includes(key) && config[key] !== undefined ? '***' : (config[key] ?? null)]),
  );

function isOrigin(text: string): boolean {
  try {
    const url = new URL(text);
    return (
      ['http:', 'https:'].includes(url.protocol) &&
      url.pathname === '/' &&
      !url.search &&
      !url.hash &&
      !url.username &&
      !url.password
    );
  } catch {
    return false;
  }
}

function jsonOf(value: unknown): unknown {
  if (typeof value !== 'string') return value;
  try {
    return JSON.parse(value);
  } catch {
    return value; // no table either: refused as what it is
  }
}

/** `{k: "v"}`, `["k=v"]` or `"k=v,k2=v2"`. */
function labelsOf(value: unknown): unknown {
  const list = typeof value === 'string' ? value.split(',').filter(Boolean) : value;
  if (!Array.isArray(list)) return list;
  return Object.fromEntries(
    list.map((one) => {
      const text = String(one);
      const at = text.indexOf('=');
      return at < 0 ? [text, ''] : [text.slice(0, at), text.slice(at + 1)];
    }),
  );
}
