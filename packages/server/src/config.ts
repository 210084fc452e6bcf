import { existsSync, readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { join } from 'node:path';
import { AegisError } from '@aegis/protocol/errors';
import { parse as parseToml } from 'smol-toml';
import * as z from 'zod/mini';
import { secondsOf } from './go-duration.ts';
import { isLoopbackHost, parseListen } from './listen-address.ts';

/** The server's configuration: flags over environment over a TOML file over defaults. Each key is written once, in `KEYS`. */

type Kind = 'text' | 'number' | 'seconds' | 'boolean' | 'list';
interface Key<S extends z.ZodMiniType> {
  schema: S;
  kind: Kind;
  /** What is allowed, for the message of a refusal. */
  allowed: string;
  fallback: unknown;
  secret?: true;
  /** Names beside AEGIS_<KEY>: the seeds' own. */
  env?: readonly string[];
}

const key = <S extends z.ZodMiniType>(
  kind: Kind,
  schema: S,
  allowed: string,
  fallback: z.infer<S>,
  more: Pick<Key<S>, 'secret' | 'env'> = {},
): Key<S> => ({ kind, schema, allowed, fallback, ...more });
const whole = (least: number, most: number, fallback: number, env: readonly string[] = []) =>
  key('number', z.int().check(z.minimum(least), z.maximum(most)), `a whole number from ${least} to ${most}`, fallback, {
    env,
  });
/** In seconds, or as Go writes durations. */
const seconds = (least: number, most: number, fallback: number, env: readonly string[] = []) =>
  key(
    'seconds',
    z.int().check(z.minimum(least), z.maximum(most)),
    `seconds from ${least} to ${most}, as a number or as 90s, 30m, 24h`,
    fallback,
    { env },
  );
/** What a seed's variable may say, and what there is one of. */
const only = <const T extends string>(value: T, env: string) =>
  key('text', z.literal(value), `${value}, and nothing else: there is one`, value, { env: [env] });
const MIB = 1024 * 1024;
const OptionalText = z.nullable(z.string().check(z.minLength(1), z.maxLength(4096)));

/** HS256's own strength. */
const JWT_SECRET_BYTES = 32;
const JWT_SECRET = `at least ${JWT_SECRET_BYTES} bytes; 'openssl rand -base64 48' makes one`;
const Paths = z
  .array(z.string().check(z.maxLength(4096), z.regex(/^\/(?!.*(?:^|\/)\.\.?(?:\/|$))/)))
  .check(z.maxLength(256));
function isWebhook(text: string): boolean {
  if (!URL.canParse(text)) return false;
  const { protocol, username, password } = new URL(text);
  return /^https?:$/.test(protocol) && username === '' && password === '';
}
function isHop(text: string): boolean {
  const [address = '', prefix] = text.split('/');
  const family = isIP(address);
  if (family === 0 || text.split('/').length > 2) return false;
  // Every address is no list of proxies: then everyone could say where a request comes from.
  return prefix === undefined || (/^[1-9]\d{0,2}$/.test(prefix) && Number(prefix) <= (family === 4 ? 32 : 128));
}
export const isGuessable = (secret: string): boolean => Buffer.byteLength(secret) < JWT_SECRET_BYTES;

const KEYS = {
  data_dir: key('text', OptionalText, 'a path', null),
  dev: key('boolean', z.boolean(), 'true or false', false),
  listen: key('list', z.array(z.string().check(z.refine(parsesAsListen))), 'ADDR:PORT=DOOR[,DOOR], repeated', []),
  database_url: key(
    'text',
    z.nullable(z.string().check(z.regex(/^postgres(ql)?:\/\/\S+$/))),
    'postgres://USER:PASSWORD@HOST:PORT/NAME',
    null,
    { secret: true, env: ['DATABASE_URL'] },
  ),
  redis_url: key(
    'text',
    z.nullable(z.string().check(z.regex(/^rediss?:\/\/\S+$/), z.refine(URL.canParse))),
    'redis://:PASSWORD@HOST:PORT, or rediss:// with TLS',
    null,
    { secret: true, env: ['REDIS_URL'] },
  ),
  jwt_signing_secret: key('text', z.nullable(z.string().check(z.minLength(1))), JWT_SECRET, null, {
    secret: true,
    env: ['JWT_SIGNING_SECRET'],
  }),
  token_key: key('text', OptionalText, 'the path of a PEM file', null, { env: ['AUTH_PRIVATE_KEY_PATH'] }),
  token_public_key: key('text', OptionalText, 'the path of a PEM file', null, { env: ['AUTH_PUBLIC_KEY_PATH'] }),
  tls_cert: key('text', OptionalText, 'the path of a PEM file', null),
  tls_key: key('text', OptionalText, 'the path of a PEM file', null),
  tls_self_signed: key('boolean', z.boolean(), 'true or false', false),
  tls_client_ca: key('text', OptionalText, 'the path of a PEM file', null),
  tls_reload_sec: whole(1, 3600, 10),
  behind_proxy: key(
    'list',
    z.array(z.string().check(z.refine(isHop))).check(z.maxLength(64)),
    'addresses or networks of proxies, as 10.0.0.5 or 10.0.0.0/24',
    [],
  ),
  insecure_listen: key('boolean', z.boolean(), 'true or false', false),
  log_level: key(
    'text',
    z.enum(['trace', 'debug', 'info', 'warn', 'error', 'silent']),
    'trace, debug, info, warn, error or silent',
    'info',
  ),
  log_format: key('text', z.enum(['json', 'pretty']), 'json or pretty', 'json'),
  stop_timeout_sec: whole(0, 600, 10),
  max_waiting_writes: whole(256, 1_000_000, 16_384),
  'http.body_budget_bytes': whole(16 * MIB, 1024 * 1024 * MIB, 64 * MIB), // at least the largest body, packed and unpacked
  'rate_limits.enrolment_burst': whole(1, 1_000_000, 200),
  'rate_limits.enrolment_per_sec': whole(1, 1_000_000, 20),
  'rate_limits.enrolment_pending': whole(1, 10_000, 200),
  'rate_limits.agent_burst': whole(1, 1_000_000, 60),
  'rate_limits.agent_per_sec': whole(1, 1_000_000, 5),
  'rate_limits.address_burst': whole(1, 1_000_000, 4000),
  'rate_limits.address_per_sec': whole(1, 1_000_000, 1000),
  'rate_limits.token_burst': whole(1, 1_000_000, 2000),
  'rate_limits.token_per_sec': whole(1, 1_000_000, 500),
  'rate_limits.failed_auth_burst': whole(1, 1_000_000, 20),
  'rate_limits.failed_auth_per_sec': whole(1, 1_000_000, 1),
  'commands.redeliver_after_ms': whole(100, 3_600_000, 5000),
  'commands.max_in_flight_per_node': whole(1, 10_000, 100),
  'commands.max_queued_per_node': whole(1, 1_000_000, 10_000),
  'commands.retention_days': whole(1, 3650, 30),
  'commands.lost_after_sec': whole(60, 30 * 86_400, 86_400),
  'channel.handshake_sec': whole(1, 300, 10),
  'channel.heartbeat_sec': whole(1, 300, 10),
  'channel.session_sec': seconds(60, 30 * 86_400, 86_400, ['SESSION_TIMEOUT']),
  'channel.rotation_sec': seconds(1, 30 * 86_400, 86_400, ['KEY_ROTATION_INTERVAL']),
  'channel.rotation_messages': whole(1, 2 ** 24, 2 ** 24),
  'channel.sign_messages': key('boolean', z.boolean(), 'true or false', false),
  'channel.max_connections': whole(1, 1_000_000, 20_000),
  'channel.max_unauthenticated': whole(1, 1_000_000, 1000),
  'channel.max_unauthenticated_each': whole(1, 1_000_000, 500),
  'channel.path': only('/ws/agent', 'WEBSOCKET_PATH'),
  'channel.encryption': only('chacha20poly1305', 'ENCRYPTION_ALGORITHM'),
  'channel.connections_table': only('agent_connections', 'CONNECTIONS_TABLE'),
  'channel.port': key(
    'number',
    z.nullable(z.int().check(z.minimum(1), z.maximum(65_535))),
    'a port from 1 to 65535',
    null,
    {
      env: ['WEBSOCKET_PORT'],
    },
  ),
  'messages.queue_size': whole(1, 1_000_000, 10_000, ['MESSAGE_QUEUE_SIZE']),
  'messages.ttl_sec': seconds(1, 7 * 86_400, 3600, ['MESSAGE_TTL']),
  'messages.retry_attempts': whole(0, 100, 3, ['MESSAGE_RETRY_ATTEMPTS']),
  'messages.answer_timeout_sec': seconds(1, 3600, 320),
  'messages.keep_sec': seconds(1, 90 * 86_400, 86_400),
  'messages.queue_table': only('message_queue', 'MESSAGE_QUEUE_TABLE'),
  'events.max_events': whole(1000, 100_000_000, 500_000),
  'events.max_age_sec': whole(60, 366 * 86_400, 7 * 86_400),
  'events.heartbeat_sec': whole(1, 300, 15),
  'events.stall_sec': whole(1, 3600, 60),
  'events.max_streams': whole(1, 100_000, 500),
  'events.max_streams_each': whole(1, 100_000, 32),
  'artifacts.cache_bytes': whole(16 * MIB, 1024 * 1024 * MIB, 64 * MIB), // at least the largest bundle
  'artifacts.max_artifacts': whole(1, 1_000_000, 10_000),
  'artifacts.max_assignments_per_node': whole(1, 10_000, 256),
  'backups.max_configs': whole(1, 100_000, 1000),
  'backups.max_configs_per_node': whole(1, 1000, 100),
  'backups.max_runs_per_node': whole(10, 1_000_000, 2000),
  'backups.max_running_per_node': whole(1, 1000, 50),
  'backups.log_lines_per_run': whole(10, 1_000_000, 1000),
  'backups.log_lines_per_node': whole(10, 1_000_000, 10_000),
  'backups.log_days': whole(1, 3650, 90),
  'backups.lost_after_sec': whole(60, 30 * 86_400, 15 * 60),
  'backups.offline_lost_after_sec': whole(60, 90 * 86_400, 86_400),
  'backups.s3_timeout_sec': whole(1, 3600, 120),
  'backups.s3_attempts': whole(1, 20, 3),
  'backups.sweep_uploads_after_sec': whole(5, 30 * 86_400, 3600),
  'backups.server_sources': key('list', Paths, 'absolute paths', []),
  'backups.server_destinations': key('list', Paths, 'absolute paths', []),
  'backups.alert_webhooks': key(
    'list',
    z.array(z.string().check(z.maxLength(2048), z.refine(isWebhook))).check(z.maxLength(16)),
    'http:// or https:// addresses without a user in them, at most 16',
    [],
    { secret: true },
  ),
  'backups.alert_webhook_secret': key(
    'text',
    z.nullable(z.string().check(z.minLength(16), z.maxLength(1024))),
    "16 characters or more; 'openssl rand -base64 32' makes one",
    null,
    { secret: true },
  ),
  'backups.alert_command': key(
    'list',
    z.array(z.string().check(z.maxLength(4096))).check(z.maxLength(64)),
    'a program by its absolute path and its arguments',
    [],
  ),
  'backups.alert_timeout_sec': whole(1, 300, 10),
  'backups.alert_give_up_after_sec': whole(60, 30 * 86_400, 86_400),
  'backups.max_alerts': whole(1, 1_000_000, 10_000),
  'audit.retention_days': whole(1, 36_500, 730),
  'audit.sign_every_sec': whole(1, 86_400, 300),
  'nodes.offline_after_sec': whole(2, 86_400, 90),
  'nodes.degraded_after_sec': whole(1, 86_400, 45),
  'nodes.token_ttl_sec': whole(60, 30 * 86_400, 86_400),
  'nodes.keyless': key('boolean', z.boolean(), 'true or false', true),
  'nodes.keyless_token_ttl_sec': whole(60, 10 * 366 * 86_400, 365 * 86_400),
} as const;
type KeyName = keyof typeof KEYS;
export const CONFIG_KEYS = Object.keys(KEYS) as KeyName[];

type Group<Prefix extends string> = {
  [K in KeyName as K extends `${Prefix}.${infer Rest}` ? Rest : never]: (typeof KEYS)[K]['schema'];
};
const group = <P extends string>(prefix: P): Group<P> =>
  Object.fromEntries(
    Object.entries(KEYS).flatMap(([name, { schema }]) =>
      name.startsWith(`${prefix}.`) ? [[name.slice(prefix.length + 1), schema]] : [],
    ),
  ) as Group<P>;
const plain = Object.fromEntries(
  Object.entries(KEYS).flatMap(([name, { schema }]) => (name.includes('.') ? [] : [[name, schema]])),
) as { [K in KeyName as K extends `${string}.${string}` ? never : K]: (typeof KEYS)[K]['schema'] };

export const ServerConfig = z.strictObject({
  ...plain,
  http: z.strictObject(group('http')),
  rate_limits: z.strictObject(group('rate_limits')),
  commands: z.strictObject(group('commands')),
  channel: z.strictObject(group('channel')),
  messages: z.strictObject(group('messages')),
  events: z.strictObject(group('events')),
  artifacts: z.strictObject(group('artifacts')),
  backups: z.strictObject(group('backups')),
  audit: z.strictObject(group('audit')),
  nodes: z.strictObject(group('nodes')),
});
export type ServerConfig = z.infer<typeof ServerConfig>;

export type Origin = 'flag' | 'default' | `env ${string}` | `file ${string}`;
export type Env = Readonly<Record<string, string | undefined>>;
export type Flags = Readonly<Record<string, unknown>>;

export const DEFAULT_CONFIG_FILE = '/etc/aegis/server.toml';
export const DEFAULT_DATA_DIR = '/var/lib/aegis/server';

/** @throws AegisError config.invalid naming key, value (masked if secret), origin and what is allowed */
export const loadServerConfig = (from: {
  /** By key, in kebab or snake case; absent or undefined: not given. Keys that are none of the configuration are overlooked. */
  flags: Flags;
  env: Env;
  configFile?: string | undefined;
}): { config: ServerConfig; origins: Record<string, Origin> } => {
  const file = readConfigFile(from.configFile);
  const values: Record<string, unknown> = {};
  const origins: Record<string, Origin> = {};
  for (const name of CONFIG_KEYS) {
    const [given, origin] = fromFlags(name, from.flags) ??
      fromEnv(name, from.env) ??
      fromFile(name, file) ?? [KEYS[name].fallback, 'default' as const];
    origins[name] = origin;
    values[name] = origin === 'default' ? given : checked(name, given, origin);
  }
  const config = z.parse(ServerConfig, nested(values));
  finish(config, origins);
  return { config, origins };
};

/** Key, value and origin of each setting, secrets masked, for `aegis server config`. */
export const shownConfig = (loaded: { config: ServerConfig; origins: Record<string, Origin> }) =>
  CONFIG_KEYS.map((name) => {
    const value = flatValue(loaded.config, name);
    const definition: Key<z.ZodMiniType> = KEYS[name];
    return {
      key: name,
      value: definition.secret && value !== null && !(Array.isArray(value) && value.length === 0) ? '(secret)' : value,
      origin: loaded.origins[name] ?? 'default',
    };
  });

type Given = readonly [unknown, Origin] | undefined;

const fromFlags = (name: KeyName, flags: Flags): Given => {
  const wanted = name.replace('.', '_');
  const found = Object.entries(flags).find(
    ([flag, value]) => value !== undefined && flag.replaceAll(/[-.]/g, '_') === wanted,
  );
  return found && [found[1], 'flag'];
};

const fromEnv = (name: KeyName, env: Env): Given => {
  if (name === 'data_dir') {
    const base = env.AEGIS_DATA_DIR;
    return base ? [join(base, 'server'), 'env AEGIS_DATA_DIR'] : undefined;
  }
  const definition: Key<z.ZodMiniType> = KEYS[name];
  for (const variable of [`AEGIS_${name.replace('.', '_').toUpperCase()}`, ...(definition.env ?? [])])
    if (env[variable]) return [env[variable], `env ${variable}`];
  return name === 'database_url' && env.DB_HOST ? [urlFromParts(env, env.DB_HOST), 'env DB_HOST'] : undefined;
};

const urlFromParts = (env: Env, host: string): string => {
  const part = (text: string | undefined, fallback: string) => encodeURIComponent(text || fallback);
  const password = env.DB_PASSWORD ? `:${part(env.DB_PASSWORD, '')}` : '';
  return `postgres://${part(env.DB_USER, 'aegis')}${password}@${host.includes(':') ? `[${host}]` : host}:${part(env.DB_PORT, '5432')}/${part(env.DB_NAME, 'aegis')}`;
};

interface ConfigFile {
  path: string;
  values: Record<string, unknown>;
}

const fromFile = (name: KeyName, file: ConfigFile | undefined): Given =>
  file && name in file.values ? [file.values[name], `file ${file.path}`] : undefined;

const readConfigFile = (given: string | undefined): ConfigFile | undefined => {
  const path = given ?? DEFAULT_CONFIG_FILE;
  if (given === undefined && !existsSync(path)) return undefined;
  let document: Record<string, unknown>;
  try {
    document = parseToml(readFileSync(path, 'utf8'));
  } catch (cause) {
    const why = cause instanceof Error ? cause.message.split('\n', 1)[0] : 'it cannot be read';
    throw new AegisError('config.invalid', `The configuration file ${path} cannot be used: ${why}`, { cause });
  }
  const values: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(document)) {
    if (typeof value === 'object' && value !== null && !Array.isArray(value))
      for (const [inner, one] of Object.entries(value)) values[`${name}.${inner}`] = one;
    else values[name] = value;
  }
  for (const name of Object.keys(values))
    if (!Object.hasOwn(KEYS, name))
      throw new AegisError(
        'config.invalid',
        `${name}: there is no such setting (file ${path}). See 'aegis server config'.`,
      );
  return { path, values };
};

const checked = (name: KeyName, given: unknown, origin: Origin): unknown => {
  const definition: Key<z.ZodMiniType> = KEYS[name];
  const result = z.safeParse(definition.schema, typed(definition.kind, given));
  if (result.success) return result.data;
  throw refused(name, given, origin, definition.allowed);
};

const refused = (name: KeyName, given: unknown, origin: Origin, allowed: string): AegisError => {
  const definition: Key<z.ZodMiniType> = KEYS[name];
  const shown = definition.secret ? '(secret)' : JSON.stringify(given)?.slice(0, 200);
  return new AegisError('config.invalid', `${name}: ${shown} (${origin}) is not allowed. Allowed: ${allowed}.`, {
    details: { key: name, origin, allowed },
  });
};

/** Flags and variables are text; what does not read as the kind stays text and is refused by the schema. */
const typed = (kind: Kind, given: unknown): unknown => {
  if (kind === 'list') return typeof given === 'string' ? given.split(/[\s;]+/).filter((one) => one !== '') : given;
  if (typeof given !== 'string') return given;
  if (kind === 'seconds') return /^\d+$/.test(given.trim()) ? Number(given) : (secondsOf(given.trim()) ?? given);
  if (kind === 'number') return /^-?\d+$/.test(given.trim()) ? Number(given) : given;
  if (kind === 'boolean')
    return given === 'true' || given === '1' ? true : given === 'false' || given === '0' ? false : given;
  return given;
};

const nested = (values: Readonly<Record<string, unknown>>): Record<string, unknown> => {
  const config: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(values)) {
    const [first = '', second] = name.split('.');
    if (second === undefined) config[first] = value;
    else config[first] = { ...(config[first] as object | undefined), [second]: value };
  }
  return config;
};
const flatValue = (config: ServerConfig, name: string): unknown => {
  const [first = '', second] = name.split('.');
  const value = (config as Record<string, unknown>)[first];
  return second === undefined ? value : (value as Record<string, unknown>)[second];
};

const WITHOUT_TLS =
  'without TLS loopback addresses only (127.0.0.1, [::1]), because tokens and output would be readable on the way. Ways out: --tls-cert and --tls-key; --tls-self-signed, whose fingerprint join tokens carry; --behind-proxy ADDRESS for a TLS proxy in front; or --insecure-listen where the network itself is encrypted';

const DEV_LISTEN = ['127.0.0.1:8080=all', '127.0.0.1:8083=actions', '127.0.0.1:8090=registry'];

/** Defaults that depend on other keys, and rules that span several. */
const finish = (config: ServerConfig, origins: Record<string, Origin>): void => {
  if (config.data_dir === null && !config.dev) config.data_dir = DEFAULT_DATA_DIR; // under --dev: a temporary one
  if (config.listen.length === 0) config.listen = config.dev ? DEV_LISTEN : ['127.0.0.1:8080=all'];
  addGateway(config);
  const open = config.dev ? config.listen.find((text) => !isLoopbackHost(parseListen(text).host)) : undefined;
  if (open !== undefined)
    throw refused(
      'listen',
      open,
      origins.listen ?? 'default',
      'under --dev only loopback addresses (127.0.0.1, [::1])',
    );
  const secret = config.jwt_signing_secret;
  if (secret !== null && isGuessable(secret) && !config.dev)
    throw refused('jwt_signing_secret', secret, origins.jwt_signing_secret ?? 'default', JWT_SECRET);
  const { alert_webhooks: webhooks, alert_webhook_secret, alert_command } = config.backups;
  if (webhooks.length > 0 && alert_webhook_secret === null)
    throw refused(
      'backups.alert_webhook_secret',
      null,
      origins['backups.alert_webhook_secret'] ?? 'default',
      "a secret that signs what alert_webhooks get; 'openssl rand -base64 32' makes one",
    );
  if (alert_command[0] !== undefined && !alert_command[0].startsWith('/'))
    throw refused(
      'backups.alert_command',
      alert_command,
      origins['backups.alert_command'] ?? 'default',
      'a program by its absolute path and its arguments',
    );
  if ((config.tls_cert === null) !== (config.tls_key === null)) {
    const missing = config.tls_cert === null ? 'tls_cert' : 'tls_key';
    throw refused(missing, null, origins[missing] ?? 'default', 'tls_cert and tls_key together, or neither');
  }
  if (config.tls_self_signed && config.tls_cert !== null)
    throw refused(
      'tls_self_signed',
      true,
      origins.tls_self_signed ?? 'default',
      'false beside tls_cert: a server shows one certificate',
    );
  const tls = config.tls_self_signed || config.tls_cert !== null;
  if (config.tls_client_ca !== null && !tls)
    throw refused(
      'tls_client_ca',
      config.tls_client_ca,
      origins.tls_client_ca ?? 'default',
      'a file beside tls_cert and tls_key, or tls_self_signed: without TLS nobody shows a certificate',
    );
  const bare = config.listen.find((text) => !isLoopbackHost(parseListen(text).host));
  if (bare !== undefined && !tls && config.behind_proxy.length === 0 && !config.insecure_listen)
    throw refused('listen', bare, origins.listen ?? 'default', WITHOUT_TLS);
  if (config.backups.offline_lost_after_sec < config.backups.lost_after_sec)
    throw refused(
      'backups.offline_lost_after_sec',
      config.backups.offline_lost_after_sec,
      origins['backups.offline_lost_after_sec'] ?? 'default',
      `not less than backups.lost_after_sec (${config.backups.lost_after_sec})`,
    );
  if (config.nodes.degraded_after_sec >= config.nodes.offline_after_sec)
    throw refused(
      'nodes.degraded_after_sec',
      config.nodes.degraded_after_sec,
      origins['nodes.degraded_after_sec'] ?? 'default',
      `less than nodes.offline_after_sec (${config.nodes.offline_after_sec})`,
    );
};

/** WEBSOCKET_PORT: where nodes were told to come, beside what is served there already. */
const addGateway = ({ listen, channel: { port } }: ServerConfig): void => {
  const known = listen.map(parseListen);
  const host = known[0]?.host ?? '127.0.0.1';
  if (port === null || known.some((at) => at.port === port)) return;
  listen.push(`${host.includes(':') ? `[${host}]` : host}:${port}=gateway`);
};

function parsesAsListen(text: string): boolean {
  try {
    parseListen(text);
    return true;
  } catch {
    return false; // the refusal names the key and what is allowed
  }
}
