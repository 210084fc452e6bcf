import type { DirectiveKind } from '@aegis/protocol/access/directive';
import { AegisError, type ErrorCode } from '@aegis/protocol/errors';
import { validate } from '@aegis/protocol/validation';
import * as z from 'zod/mini';

/** A node's own policy: whose word counts for what, and how far a command may go. It stands in the node's own file (policy-file.ts); nothing
 *  that a server says changes it. */

const MAX_PERSONS = 16;
/** `server`: the server's signature is enough. `operators`: one operator's own. A threshold: that many persons' own. */
export const Obey = z.union([
  z.enum(['server', 'operators']),
  z.strictObject({ threshold: z.int().check(z.minimum(1), z.maximum(MAX_PERSONS)) }),
]);
export type Obey = z.infer<typeof Obey>;

const TypePattern = z
  .string()
  .check(
    z.regex(/^[A-Za-z][A-Za-z0-9_.-]{0,63}\*?$/, "a command type, such as RunCommand, or several, such as 'docker.*'"),
  );
const limits = {
  obey: z.optional(Obey),
  /** Names of users. */
  users: z.optional(z.array(z.string().check(z.minLength(1), z.maxLength(64))).check(z.maxLength(256))),
  max_timeout_sec: z.optional(z.number().check(z.positive())),
};
const Kind = z.strictObject({ obey: z.optional(Obey) });

export const Policy = z.strictObject({
  /** Said in so many words: a file that is empty, or half written, is not one that says to obey the server. */
  obey: Obey,
  commands: z.optional(
    z.strictObject({
      ...limits,
      /** Absent: every type that this release knows. */
      types: z.optional(z.array(TypePattern).check(z.maxLength(256))),
      /** What holds for some types instead. */
      type: z.optional(z.record(TypePattern, z.strictObject(limits))),
    }),
  ),
  cancel: z.optional(Kind),
  artifacts: z.optional(Kind),
  backups: z.optional(Kind),
  /** Messages that a hook of this node takes. */
  messages: z.optional(Kind),
});
export type Policy = z.infer<typeof Policy>;

/** Of a node without a policy file. */
export const NO_POLICY: Policy = { obey: 'server' };

/** What a policy may look at in a command. */
export interface CommandFacts {
  type: string;
  user: string;
  /** 0: none. */
  timeoutSec: number;
}

export const PART_OF_KIND = {
  'command.run': 'commands',
  'command.cancel': 'cancel',
  'artifacts.assign': 'artifacts',
  'backups.config': 'backups',
} as const satisfies Record<DirectiveKind, keyof Policy>;

const matches = (pattern: string, type: string): boolean =>
  pattern.endsWith('*') ? type.startsWith(pattern.slice(0, -1)) : pattern === type;

/** The entry that names the type most closely. */
const entryFor = (policy: Policy, type: string | null) => {
  if (type === null) return undefined;
  const [best] = Object.entries(policy.commands?.type ?? {})
    .filter(([pattern]) => matches(pattern, type))
    .sort(([a], [b]) => b.replace('*', '').length - a.replace('*', '').length || a.length - b.length);
  return best && { name: best[0], ...best[1] };
};

/** Whose word counts, and which line of the policy says so. @param type of a command; null where it cannot be read */
export const obeyFor = (
  policy: Policy,
  part: (typeof PART_OF_KIND)[DirectiveKind] | 'messages',
  type: string | null,
) => {
  const entry = part === 'commands' ? entryFor(policy, type) : undefined;
  if (entry?.obey !== undefined) return { obey: entry.obey, by: `[commands.type."${entry.name}"] obey` };
  const own = policy[part]?.obey;
  return own === undefined
    ? { obey: part === 'cancel' ? toCancel(policy.obey) : policy.obey, by: 'obey' }
    : { obey: own, by: `[${part}] obey` };
};

/** Where nothing is said of cancels: one person stops what it took several to start. */
const toCancel = (general: Obey): Obey => (typeof general === 'object' ? 'operators' : general);

/** Persons whose own signatures it takes; 0 where the server's is enough. */
export const personsNeeded = (obey: Obey): number => {
  if (obey === 'server') return 0;
  return obey === 'operators' ? 1 : obey.threshold;
};

/** Nobody but the server can vouch for a message: what operators sign are directives.
 *  @throws AegisError access.policy where the server's word is not enough for one */
export const requireMessages = (policy: Policy): void => {
  const { obey, by } = obeyFor(policy, 'messages', null);
  if (obey !== 'server')
    throw new AegisError(
      'access.policy',
      `This node takes no message on the server's word alone (policy.toml: ${by}). Its administrator can allow that with [messages] obey = "server".`,
    );
};

export const obeyText = (obey: Obey): string => {
  if (obey === 'server') return "the server's signature is enough";
  return obey === 'operators' || obey.threshold === 1
    ? "takes an operator's own signature"
    : `takes the own signatures of ${obey.threshold} persons`;
};

/** A rule of the policy, and what it says of this command. */
export interface Ruling {
  rule: 'type' | 'user' | 'timeout';
  code: ErrorCode | null;
  says: string;
}

/** What the policy says of a command beside whose word it is, in order; the last may be a refusal. */
export const limitsOn = (policy: Policy, { type, user, timeoutSec }: CommandFacts): Ruling[] => {
  const entry = entryFor(policy, type);
  const where = entry ? `[commands.type."${entry.name}"]` : '[commands]';
  const types = policy.commands?.types;
  const users = entry?.users ?? policy.commands?.users;
  const longest = entry?.max_timeout_sec ?? policy.commands?.max_timeout_sec;
  const rulings: Ruling[] = [];
  const add = (rule: Ruling['rule'], good: boolean, says: string): boolean => {
    rulings.push({ rule, code: good ? null : 'access.policy', says });
    return good;
  };
  if (
    types &&
    !add(
      'type',
      types.some((one) => matches(one, type)),
      `[commands] types: ${said(types)}; this is ${type}`,
    )
  )
    return rulings;
  const usersAt = entry?.users ? where : '[commands]';
  if (users && !add('user', users.includes(user), `${usersAt} users: ${said(users)}; this is for ${user}`))
    return rulings;
  if (longest !== undefined) {
    const at = entry?.max_timeout_sec === undefined ? '[commands]' : where;
    const asked = timeoutSec === 0 ? 'no limit' : `${timeoutSec} s`;
    add(
      'timeout',
      timeoutSec > 0 && timeoutSec <= longest,
      `${at} max_timeout_sec: ${longest}; this asks for ${asked}`,
    );
  }
  return rulings;
};

const SHOWN = 8;
const said = (list: readonly string[]): string =>
  list.length === 0 ? 'none' : `${list.slice(0, SHOWN).join(', ')}${list.length > SHOWN ? ', …' : ''}`;

/** What one who was refused can do. */
export const REMEDY = {
  type: "Have the node's administrator allow the type there, or send another one",
  user: "Name another with --user, or have the node's administrator allow this one there",
  timeout: 'Give a shorter --timeout',
} as const satisfies Record<Ruling['rule'], string>;

/** @param where it came from, for the refusal. @throws AegisError config.invalid */
export const readPolicy = (value: unknown, where: string): Policy => {
  const checked = validate(Policy, value, 'policy');
  if (checked.ok) return checked.value;
  const { field, reason } = checked.refusal;
  throw new AegisError(
    'config.invalid',
    `The policy ${where} is not valid: ${field}: ${reason}. See docs/signing.md; 'aegis daemon policy show' says what is in force.`,
  );
};
