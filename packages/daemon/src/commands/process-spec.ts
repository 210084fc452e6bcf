import { readFileSync } from 'node:fs';
import { userInfo } from 'node:os';
import type { ExecutionSpec } from '@aegis/native/execution-spec';
import { RunBody } from '@aegis/protocol/commands/carrier';
import type { NodeTools } from '@aegis/protocol/commands/process-plan';
import { toProcess } from '@aegis/protocol/commands/types';
import { AegisError } from '@aegis/protocol/errors';
import * as z from 'zod/mini';

/** From a command's signed body to what its supervisor is given: argument vector, limits and a clean environment. */

export interface SpecSettings {
  nodeName: string;
  bootId: string;
  tools: NodeTools;
  /** For a payload that names none. */
  graceMs: number;
  drainMs: number;
  spoolBytes: number;
  segmentBytes: number;
  cgroup: string | null;
  accountOf(user: string | null): Account;
}

export interface Account {
  name: string;
  home: string;
  shell: string;
}

const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
const LANG = 'C.UTF-8';

/** @throws AegisError commands.unsupported_type, commands.invalid_payload */
export const processSpec = (
  execution: { id: string; commandId: string; attempt: number },
  body: RunBody,
  settings: SpecSettings,
): { spec: ExecutionSpec; stdin: Buffer | undefined } => {
  const plan = toProcess(body.command_type, body.payload, settings.tools);
  const account = settings.accountOf(plan.user);
  const env = {
    PATH,
    HOME: account.home,
    USER: account.name,
    LOGNAME: account.name,
    SHELL: account.shell,
    LANG,
    TERM: 'dumb',
    AEGIS_COMMAND_ID: execution.commandId,
    AEGIS_EXECUTION_ID: execution.id,
    AEGIS_NODE: settings.nodeName,
    AEGIS_ATTEMPT: String(execution.attempt),
    ...plan.env,
  };
  return {
    spec: {
      argv: plan.argv,
      env,
      ...(plan.user === null ? {} : { user: plan.user }),
      ...(plan.cwd === null ? {} : { cwd: plan.cwd }),
      ...(plan.umask === null ? {} : { umask: Number.parseInt(plan.umask, 8) }),
      timeoutMs: Math.round(plan.timeoutSec * 1000),
      graceMs: namesGrace(body.payload) ? Math.round(plan.graceSec * 1000) : settings.graceMs,
      drainMs: settings.drainMs,
      spoolBytes: settings.spoolBytes,
      segmentBytes: settings.segmentBytes,
      bootId: settings.bootId,
      ...(settings.cgroup === null ? {} : { cgroup: settings.cgroup }),
    },
    stdin: plan.stdin ?? undefined,
  };
};

/** What a policy may look at in a directive's body: the type and, where it can be run at all, for which user and how long. */
export const commandFacts = (
  body: unknown,
  { tools, accountOf }: Pick<SpecSettings, 'tools' | 'accountOf'>,
): { type: string | null; facts: { type: string; user: string; timeoutSec: number } | null } => {
  const run = z.safeParse(RunBody, body);
  if (!run.success) return { type: null, facts: null };
  const { command_type: type, payload } = run.data;
  try {
    const { user, timeoutSec } = toProcess(type, payload, tools);
    return { type, facts: { type, user: accountOf(user).name, timeoutSec } };
  } catch (error) {
    if (error instanceof AegisError) return { type, facts: null }; // refused for that by whoever is to run it
    throw error;
  }
};

const namesGrace = (payload: unknown): boolean =>
  typeof payload === 'object' && payload !== null && 'grace_sec' in payload;

/** passwd(5) by name or uid; an account that is not in the file (LDAP and the like) gets neutral values, and aegis-exec, which
 *  asks the system's own account database, decides whether it exists. @param daemonUid of another daemon than this process: for whom a
 *  command is that names nobody */
export const accountLookup = (passwdFile = '/etc/passwd', daemonUid?: number): ((user: string | null) => Account) => {
  const { uid: ownUid, username, homedir, shell: ownShell } = userInfo();
  const own: Account = { name: username, home: homedir, shell: ownShell ?? '/bin/sh' };
  const unnamed = daemonUid === undefined || daemonUid === ownUid ? null : String(daemonUid);
  return (named) => {
    const user = named ?? unnamed;
    if (user === null) return own;
    for (const line of readFileSync(passwdFile, 'utf8').split('\n')) {
      const [name, , uid, , , home, shell] = line.split(':');
      if (name && (name === user || uid === user)) return { name, home: home || '/', shell: shell || '/bin/sh' };
    }
    return { name: user, home: '/', shell: '/bin/sh' };
  };
};
