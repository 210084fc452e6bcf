import * as z from 'zod/mini';
import { AegisError } from '../errors.ts';
import { validate } from '../validation.ts';
import { artifactTypes } from './artifact-types.ts';
import { backupTypes } from './backup-types.ts';
import { composeTypes, dockerTypes } from './container-types.ts';
import { type CommandType, commandType, type NodeTools, type ProcessPlan, TimeLimits } from './process-plan.ts';

/** The command types: what each takes, and which process it becomes on the node. A wrong parameter is refused at submission,
 *  naming the field. Nothing but RunCommand's `cmd` ever passes through a shell: everything else is an argument vector. */

const MAX_STDIN_CHARS = 6 * 1024 * 1024;
const Argument = z.string().check(
  z.maxLength(128 * 1024),
  z.refine((text) => !text.includes('\0'), 'may not contain a NUL byte'),
);
const Argv = z.array(Argument).check(
  z.minLength(1),
  z.maxLength(4096),
  z.refine((argv) => argv[0] !== '', 'the program may not be empty'),
);
const Env = z
  .record(z.string().check(z.regex(/^[A-Za-z_][A-Za-z0-9_]{0,127}$/, 'not an environment variable name')), Argument)
  .check(z.refine((env) => Object.keys(env).length <= 256, 'at most 256 variables'));

const process = {
  user: z.optional(z.string().check(z.regex(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\$?$/, 'not a user name or uid'))),
  cwd: z.optional(
    z.string().check(
      z.maxLength(4096),
      z.refine((path) => path.startsWith('/') && !path.includes('\0'), 'must be an absolute path'),
    ),
  ),
  env: z.optional(Env),
  stdin: z.optional(z.string().check(z.maxLength(MAX_STDIN_CHARS))),
  stdin_encoding: z.optional(z.enum(['utf8', 'base64'])),
  umask: z.optional(z.string().check(z.regex(/^0?[0-7]{3}$/, 'three octal digits'))),
  ...TimeLimits,
};

type ProcessPayload = z.infer<ReturnType<typeof z.strictObject<typeof process>>>;
const planOf = (payload: ProcessPayload, argv: string[]): ProcessPlan => ({
  argv,
  env: payload.env ?? {},
  user: payload.user ?? null,
  cwd: payload.cwd ?? null,
  umask: payload.umask ?? null,
  stdin: payload.stdin === undefined ? null : Buffer.from(payload.stdin, payload.stdin_encoding ?? 'utf8'),
  timeoutSec: payload.timeout_sec,
  graceSec: payload.grace_sec,
});

const BASE64 = /^[A-Za-z0-9+/]*={0,2}$/;
/** Buffer.from skips what is not base64: the command would read something else than was meant. */
const readableStdin = ({ stdin = '', stdin_encoding }: Pick<ProcessPayload, 'stdin' | 'stdin_encoding'>): boolean =>
  stdin_encoding !== 'base64' || (stdin.length % 4 === 0 && BASE64.test(stdin));
const noBase64 = { error: 'is not base64 (RFC 4648, with padding)', path: ['stdin'] };

const RunCommand = z
  .strictObject({ cmd: z.optional(Argument.check(z.minLength(1))), argv: z.optional(Argv), ...process })
  .check(
    z.refine((payload) => (payload.cmd === undefined) !== (payload.argv === undefined), 'give either cmd or argv'),
    z.refine(readableStdin, noBase64),
  );

const Package = z.string().check(z.regex(/^[A-Za-z0-9][A-Za-z0-9+._:~=*-]{0,255}$/, 'not a package name'));
const UpdatePackage = z
  .strictObject({
    action: z.enum(['install', 'remove', 'upgrade']),
    packages: z._default(z.array(Package).check(z.maxLength(256)), []),
    manager: z.optional(z.enum(['apt', 'dnf'])),
    ...TimeLimits,
  })
  .check(
    z.refine((payload) => payload.action === 'upgrade' || payload.packages.length > 0, 'name at least one package'),
  );

const packageArgv = ({ action, packages, manager }: z.infer<typeof UpdatePackage>, tools: NodeTools): string[] => {
  if ((manager ?? tools.packageManager ?? 'apt') === 'dnf') return ['dnf', '-y', action, ...packages];
  const keepConfiguration = ['-o', 'Dpkg::Options::=--force-confdef', '-o', 'Dpkg::Options::=--force-confold'];
  const verb = action === 'upgrade' && packages.length > 0 ? ['install', '--only-upgrade'] : [action];
  return ['apt-get', '-y', ...keepConfiguration, ...verb, ...packages];
};

const TYPES: Readonly<Record<string, CommandType>> = {
  RunCommand: commandType(RunCommand, (payload) =>
    planOf(payload, payload.argv ?? ['/bin/sh', '-c', payload.cmd ?? '']),
  ),
  exec: commandType(z.strictObject({ argv: Argv, ...process }).check(z.refine(readableStdin, noBase64)), (payload) =>
    planOf(payload, payload.argv),
  ),
  UpdatePackage: commandType(UpdatePackage, (payload, tools) => ({
    argv: packageArgv(payload, tools),
    env: { DEBIAN_FRONTEND: 'noninteractive' },
    user: null,
    cwd: null,
    umask: null,
    stdin: null,
    timeoutSec: payload.timeout_sec,
    graceSec: payload.grace_sec,
  })),
  ...dockerTypes,
  ...composeTypes,
  ...artifactTypes,
  ...backupTypes,
};

export const COMMAND_TYPES: readonly string[] = Object.keys(TYPES);

const typeNamed = (name: string): CommandType => {
  const type = Object.hasOwn(TYPES, name) ? TYPES[name] : undefined;
  if (type) return type;
  if (name === 'UpdateAgent')
    throw new AegisError(
      'commands.unsupported_type',
      "This release cannot update the daemon through a command. Upgrade the package that installed it, then restart the daemon's unit.",
    );
  throw new AegisError('commands.unsupported_type', `No command type '${name}'. Known: ${COMMAND_TYPES.join(', ')}.`);
};

/** The payload with its defaults filled in.
 *  @throws AegisError commands.unsupported_type, or commands.invalid_payload naming the field */
export const validatePayload = (type: string, payload: unknown): unknown => {
  const checked = validate(typeNamed(type).payload, payload ?? {}, 'payload');
  if (checked.ok) return checked.value;
  const { field, reason, issues } = checked.refusal;
  throw new AegisError('commands.invalid_payload', `${type}: ${field}: ${reason}.`, { details: { field, issues } });
};

/** The process that a command becomes on this node. Validates again: on a node the directive's body is outside input.
 *  @throws AegisError as validatePayload */
export const toProcess = (type: string, payload: unknown, tools: NodeTools): ProcessPlan =>
  typeNamed(type).plan(validatePayload(type, payload), tools);
