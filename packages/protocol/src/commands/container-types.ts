import * as z from 'zod/mini';
import { type CommandType, commandType, type NodeTools, type ProcessPlan, TimeLimits } from './process-plan.ts';

/** docker.* and compose.*: the verbs of seed 003 as argument vectors of the node's own docker client. No value can be taken for
 *  an option: names must begin with a letter or digit, and free values come after `=` or `--`. */

const Container = z.string().check(z.regex(/^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/, 'not a container name or id'));
const Image = z.string().check(z.regex(/^[A-Za-z0-9][A-Za-z0-9._/:@-]{0,511}$/, 'not an image reference'));
const Service = z.string().check(z.regex(/^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/, 'not a service name'));
const AbsolutePath = z.string().check(z.maxLength(4096), z.regex(/^\/[^\0]*$/, 'must be an absolute path'));
const Text = z.string().check(z.maxLength(4096), z.regex(/^[^\0]*$/, 'may not contain a NUL byte'));
const Argv = z.array(Text).check(z.minLength(1), z.maxLength(1024));
const EnvName = z.string().check(z.regex(/^[A-Za-z_][A-Za-z0-9_]{0,127}$/, 'not an environment variable name'));
const Env = z.optional(z.record(EnvName, Text));
const Since = z.string().check(z.regex(/^[0-9][0-9A-Za-z:.+-]{0,63}$/, 'a time or a duration such as 10m'));
const flag = z.optional(z.boolean());
const count = z.optional(z.int().check(z.minimum(0), z.maximum(1_000_000)));

type Limits = { timeout_sec: number; grace_sec: number };
const plan = (argv: string[], { timeout_sec, grace_sec }: Limits, cwd: string | null = null): ProcessPlan => ({
  argv,
  env: {},
  user: null,
  cwd,
  umask: null,
  stdin: null,
  timeoutSec: timeout_sec,
  graceSec: grace_sec,
});

/** The option when its value is set. */
const opt = (name: string, value: string | number | undefined): string[] =>
  value === undefined ? [] : [`${name}=${value}`];
const on = (name: string, value: boolean | undefined): string[] => (value ? [name] : []);
const envs = (env: Record<string, string> | undefined): string[] =>
  Object.entries(env ?? {}).map(([key, value]) => `--env=${key}=${value}`);

const docker = <S extends z.core.$ZodShape>(
  shape: S,
  argv: (payload: z.infer<z.ZodMiniObject<S & typeof TimeLimits, z.core.$strict>>) => string[],
): CommandType => {
  const schema = z.strictObject({ ...shape, ...TimeLimits });
  return commandType(schema, (payload) => plan(['docker', ...argv(payload as never)], payload as Limits));
};

export const dockerTypes: Readonly<Record<string, CommandType>> = {
  'docker.ps': docker({ all: flag }, (p) => ['ps', '--no-trunc', '--format={{json .}}', ...on('--all', p.all)]),
  'docker.inspect': docker({ target: z.union([Container, Image]) }, (p) => ['inspect', '--', p.target]),
  'docker.logs': docker({ container: Container, tail: count, since: z.optional(Since), timestamps: flag }, (p) => [
    'logs',
    ...opt('--tail', p.tail),
    ...opt('--since', p.since),
    ...on('--timestamps', p.timestamps),
    '--',
    p.container,
  ]),
  'docker.stats': docker({ containers: z.optional(z.array(Container)) }, (p) => [
    'stats',
    '--no-stream',
    '--no-trunc',
    '--format={{json .}}',
    '--',
    ...(p.containers ?? []),
  ]),
  'docker.exec': docker(
    { container: Container, argv: Argv, user: z.optional(Container), workdir: z.optional(AbsolutePath), env: Env },
    (p) => [
      'exec',
      ...opt('--user', p.user),
      ...opt('--workdir', p.workdir),
      ...envs(p.env),
      '--',
      p.container,
      ...p.argv,
    ],
  ),
  'docker.run': docker(
    {
      image: Image,
      argv: z.optional(Argv),
      name: z.optional(Container),
      detach: flag,
      rm: flag,
      env: Env,
      publish: z.optional(z.array(z.string().check(z.regex(/^[0-9.:/a-z[\]-]{1,64}$/, 'not a port mapping')))),
      volumes: z.optional(z.array(Text.check(z.regex(/^[^-]/, 'not a volume')))),
      network: z.optional(Container),
      restart: z.optional(z.enum(['no', 'always', 'on-failure', 'unless-stopped'])),
    },
    (p) => [
      'run',
      ...on('--detach', p.detach),
      ...on('--rm', p.rm),
      ...opt('--name', p.name),
      ...opt('--network', p.network),
      ...opt('--restart', p.restart),
      ...envs(p.env),
      ...(p.publish ?? []).flatMap((port) => opt('--publish', port)),
      ...(p.volumes ?? []).flatMap((v) => opt('--volume', v)),
      '--',
      p.image,
      ...(p.argv ?? []),
    ],
  ),
  'docker.stop': docker({ container: Container, time_sec: count }, (p) => [
    'stop',
    ...opt('--time', p.time_sec),
    '--',
    p.container,
  ]),
  'docker.rm': docker({ container: Container, force: flag, volumes: flag }, (p) => [
    'rm',
    ...on('--force', p.force),
    ...on('--volumes', p.volumes),
    '--',
    p.container,
  ]),
  'docker.pull': docker({ image: Image }, (p) => ['pull', '--', p.image]),
  'docker.build': docker(
    { context: AbsolutePath, tag: z.optional(Image), file: z.optional(AbsolutePath), pull: flag, no_cache: flag },
    (p) => [
      'build',
      ...opt('--tag', p.tag),
      ...opt('--file', p.file),
      ...on('--pull', p.pull),
      ...on('--no-cache', p.no_cache),
      '--',
      p.context,
    ],
  ),
};

const project = {
  project_dir: AbsolutePath,
  file: z.optional(AbsolutePath),
  project: z.optional(Service),
  services: z.optional(z.array(Service)),
};
interface Project extends Limits {
  project_dir: string;
  file?: string | undefined;
  project?: string | undefined;
  services?: string[] | undefined;
}

const compose = <S extends z.core.$ZodShape>(
  shape: S,
  verb: string,
  options: (payload: z.infer<z.ZodMiniObject<S, z.core.$strict>>) => string[],
  takesServices = true,
): CommandType => {
  const schema = z.strictObject({ ...project, ...shape, ...TimeLimits });
  return commandType(schema, (value, tools: NodeTools) => {
    const payload = value as unknown as Project;
    const where = [...(payload.file ? ['-f', payload.file] : []), ...(payload.project ? ['-p', payload.project] : [])];
    const services = takesServices ? (payload.services ?? []) : [];
    return plan(
      [...tools.compose, ...where, verb, ...options(value as never), ...services],
      payload,
      payload.project_dir,
    );
  });
};

export const composeTypes: Readonly<Record<string, CommandType>> = {
  'compose.up': compose({ build: flag, remove_orphans: flag }, 'up', (p) => [
    '-d',
    ...on('--build', p.build),
    ...on('--remove-orphans', p.remove_orphans),
  ]),
  'compose.down': compose(
    { volumes: flag, remove_orphans: flag },
    'down',
    (p) => [...on('--volumes', p.volumes), ...on('--remove-orphans', p.remove_orphans)],
    false,
  ),
  'compose.ps': compose({}, 'ps', () => []),
  'compose.logs': compose({ tail: count, timestamps: flag }, 'logs', (p) => [
    '--no-color',
    ...opt('--tail', p.tail),
    ...on('--timestamps', p.timestamps),
  ]),
};
