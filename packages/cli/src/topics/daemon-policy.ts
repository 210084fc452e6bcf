import type { Policy } from '@aegis/daemon/policy-check';
import { AegisError } from '@aegis/protocol/errors';
import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import { AegisCommand } from '../base-command.ts';
import { localFlags } from '../daemon-flags.ts';
import { settingsOf } from '../settings-flags.ts';
import { readSigned } from '../signing/directives.ts';
import { plainText } from '../ui/plain-text.ts';
import { facts, table } from '../ui/table.ts';

const policyFlags = {
  policy: Flags.string({
    helpValue: 'FILE',
    summary: 'Use this policy instead (default: policy.toml beside the configuration)',
  }),
  ...localFlags,
};

const configOf = async (
  flags: { policy?: string | undefined; 'data-dir'?: string | undefined; config?: string | undefined },
  env: Readonly<Record<string, string | undefined>>,
) => {
  const { loadDaemonConfig } = await import('@aegis/daemon/config');
  const given = settingsOf({ 'data-dir': flags['data-dir'], 'policy-file': flags.policy });
  return loadDaemonConfig({ flags: given, env, configFile: flags.config }).config;
};

export class DaemonPolicyShow extends AegisCommand {
  static override description =
    `Shows this node's own policy (policy.toml): whose word it takes and for what, and what of itself it judges targets by. Read from the files, as the daemon would at its next start; 'aegis daemon status' shows what a running one has in force.`;
  static override examples = [
    { description: 'As text', command: 'aegis daemon policy show' },
    {
      description: 'Try another before it is put in place',
      command: 'aegis daemon policy show --policy ./policy.toml',
    },
  ];
  static override flags = policyFlags;

  async run(): Promise<undefined> {
    const { flags } = await this.parse(DaemonPolicyShow);
    const { showPolicy, obeyFor } = await import('@aegis/daemon/policy-check');
    const shown = showPolicy(await configOf(flags, this.around.env));
    if (flags.json) return await this.printJson(shown);
    const { node, file, policy } = shown;
    const labels = Object.entries(node?.labels ?? {}).map(([key, value]) => `${key}=${value}`);
    await this.print(
      facts([
        ['policy', file ?? 'none: the server is obeyed'],
        ['node', node?.name ?? 'not enrolled'],
        ['site', node?.site ?? null],
        ['labels', labels.length > 0 ? labels.join(', ') : null],
      ]),
    );
    await this.print(
      table(
        ['FOR', 'OBEYS', 'USERS', 'LONGEST'],
        rowsOf(policy, (part) => obeyFor(policy, part, null).obey),
        this.width,
      ),
    );
  }
}

interface Rule {
  obey?: Policy['obey'] | undefined;
  users?: readonly string[] | undefined;
  max_timeout_sec?: number | undefined;
}

const PARTS = ['cancel', 'artifacts', 'backups', 'messages'] as const;

const rowsOf = (policy: Policy, obeyOf: (part: 'commands' | (typeof PARTS)[number]) => Policy['obey']): string[][] => {
  const row = (what: string, one: Rule, obey: Policy['obey']): string[] => [
    what,
    said(one.obey ?? obey),
    one.users?.join(', ') ?? 'any',
    one.max_timeout_sec === undefined ? 'any' : `${one.max_timeout_sec} s`,
  ];
  const { commands } = policy;
  const types = Object.entries(commands?.type ?? {});
  return [
    row(commands?.types ? `commands: ${commands.types.join(', ')}` : 'commands', commands ?? {}, obeyOf('commands')),
    ...types.map(([type, one]) => row(`  ${type}`, { ...commands, ...one }, obeyOf('commands'))),
    ...PARTS.map((part) => row(part, policy[part] ?? {}, obeyOf(part))),
  ];
};

const said = (obey: Policy['obey']): string => (typeof obey === 'string' ? obey : `${obey.threshold} persons`);

export class DaemonPolicyCheck extends AegisCommand {
  static override description =
    `Says whether this node would obey a directive, and why: every rule in the order in which the daemon looks at it, up to the one that decides. FILE is what 'aegis submit --sign-only' prints. Works without the daemon and without a server; whether a directive was obeyed before is not looked at.

Exit codes: 0 it would be obeyed, 1 it would be refused, 2 that cannot be told.`;
  static override examples = [
    { description: 'Before others are asked to sign', command: 'aegis daemon policy check reboot.json' },
    {
      description: 'Under a policy that is not in place yet',
      command: 'aegis daemon policy check reboot.json --policy ./policy.toml --json',
    },
  ];
  static override args = {
    file: Args.string({ required: true, ignoreStdin: true, description: 'A signed directive' }),
  };
  static override flags = {
    attempt: Flags.integer({ min: 1, default: 1, helpValue: 'N', summary: 'Check this attempt of it (default: 1)' }),
    ...policyFlags,
  };

  async run(): Promise<number> {
    const { flags, args } = await this.parse(DaemonPolicyCheck);
    const checked = await this.checked(args.file, flags).catch((error: unknown) => {
      // Whatever keeps it from being told is 2: 1 is an answer.
      throw error instanceof AegisError ? new AegisError('cli.usage', error.message, { cause: error }) : error;
    });
    if (flags.json) await this.printJson(checked);
    else {
      for (const { rule, good, says } of checked.steps)
        await this.print(`${good ? 'ok' : 'NO'}  ${rule.padEnd(10)}${plainText(says)}\n`);
      await this.print(checked.obeyed ? 'It would be obeyed.\n' : 'It would be refused.\n');
      const { AEGIS_SITE: site, AEGIS_LABELS: labels } = this.around.env;
      if (site === undefined || labels === undefined)
        await this.note("site and labels as in this shell and configuration: the daemon's service may have others.");
    }
    return checked.obeyed ? 0 : 1;
  }

  private async checked(file: string, flags: Parameters<typeof configOf>[0] & { attempt: number }) {
    const { envelope } = await readSigned(file);
    const { checkDirective } = await import('@aegis/daemon/policy-check');
    const config = await configOf(flags, this.around.env);
    return checkDirective(config, envelope, { attempt: flags.attempt, now: this.around.now() });
  }
}
