import { ROLES } from '@aegis/protocol/access/roles';
import { AegisError } from '@aegis/protocol/errors';
import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import { checkedFingerprint } from '../api/settings.ts';
import { AegisCommand } from '../base-command.ts';
import { labelOf } from '../daemon-flags.ts';
import { storeFlags, storeOf } from '../server-store.ts';
import { table } from '../ui/table.ts';
import { secondsOf } from '../ui/time.ts';

/** Tokens are made on the data directory, by root or the user that owns it; no server need run. */

const ttlOf = (text: string): number => {
  const seconds = secondsOf(text);
  if (seconds === null || seconds <= 0)
    throw new AegisError('cli.usage', `--ttl ${text}: not a time; write 90, 15m, 1h or 30d.`);
  return Math.round(seconds);
};

export class ServerToken extends AegisCommand {
  static override description =
    `Prints a new operator token alone on stdout; it is a JWT, shown this once and stored only as a hash. Works on the data directory, whether the server runs or not.

Roles: viewer (read), operator (also submit and change), admin (also retire nodes and manage access). With --scope only the nodes exist for it that a selector of site and label.KEY means, and nothing that concerns the whole fleet is allowed.`;
  static override examples = [
    {
      description: 'Into a context',
      command:
        'aegis server token --role operator --name alice | aegis context set home --server http://127.0.0.1:8080 --token-file -',
    },
    {
      description: 'For a dashboard, for 30 days',
      command: 'aegis server token --role viewer --name grafana --ttl 30d',
    },
    {
      description: 'For one team and its site',
      command: "aegis server token --role operator --name team-a --scope 'site=fra and label.team=a'",
    },
  ];
  static override flags = {
    role: Flags.option({ options: ROLES, default: 'admin' as const, summary: 'What it allows' })(),
    name: Flags.string({
      default: 'operator',
      helpValue: 'NAME',
      summary: 'Whose it is; shown in lists and with commands',
    }),
    ttl: Flags.string({ helpValue: 'TIME', default: '365d', summary: 'How long it is valid' }),
    scope: Flags.string({
      helpValue: 'SELECTOR',
      summary: 'Only for the nodes of this site or with this label (default: the whole fleet)',
    }),
    ...storeFlags,
  };

  async run(): Promise<undefined> {
    const { flags } = await this.parse(ServerToken);
    const store = await storeOf(flags, this.around.env);
    const { issueToken } = await import('@aegis/server/offline');
    const scope = flags.scope === undefined ? {} : { scope: flags.scope };
    const token = await issueToken({
      ...store,
      role: flags.role,
      name: flags.name,
      ttlSec: ttlOf(flags.ttl),
      ...scope,
    });
    await (flags.json
      ? this.printJson({ token, role: flags.role, name: flags.name, scope: flags.scope ?? null })
      : this.print(`${token}\n`));
  }
}

export class ServerTokenList extends AegisCommand {
  static override description = 'Lists operator tokens by their ids; the tokens themselves are not stored.';
  static override examples = [
    { description: 'As a table', command: 'aegis server token list' },
    {
      description: 'Of a server elsewhere on this machine',
      command: 'aegis server token list --data-dir /srv/aegis --json',
    },
  ];
  static override flags = storeFlags;

  async run(): Promise<undefined> {
    const { flags } = await this.parse(ServerTokenList);
    const store = await storeOf(flags, this.around.env);
    const { listTokens } = await import('@aegis/server/offline');
    const tokens = await listTokens(store);
    if (flags.json) return await this.printJson({ tokens });
    const rows = tokens.map(({ id, role, scope, name, created_at, expires_at, revoked_at }) => [
      id,
      role,
      scope ?? 'all',
      name,
      created_at,
      revoked_at ? 'revoked' : (expires_at ?? 'never'),
    ]);
    await this.print(table(['ID', 'ROLE', 'SCOPE', 'NAME', 'CREATED', 'EXPIRES'], rows, this.width));
  }
}

export class ServerTokenRevoke extends AegisCommand {
  static override description =
    'Ends the life of an operator token; requests with it are refused from then on, also by a running server.';
  static override examples = [
    { description: 'By its id', command: 'aegis server token revoke 01981c2e' },
    { description: 'Find the id first', command: 'aegis server token list' },
  ];
  static override args = {
    id: Args.string({
      required: true,
      ignoreStdin: true,
      description: 'Id of the token, never the token itself',
    }),
  };
  static override flags = storeFlags;

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(ServerTokenRevoke);
    if (/^(aegis_[^_]+_|eyJ)/.test(args.id))
      throw new AegisError(
        'cli.usage',
        "That is the token itself; name its id, as 'aegis server token list' shows it.",
      );
    const store = await storeOf(flags, this.around.env);
    const { revokeToken } = await import('@aegis/server/offline');
    await revokeToken({ ...store, id: args.id });
    await (flags.json ? this.printJson({ revoked: args.id }) : this.print(`${args.id} is revoked\n`));
  }
}

export class ServerJoinToken extends AegisCommand {
  static override description =
    "Prints a join token alone on stdout. It holds the fingerprint of the fleet's root key, so that a machine that joins knows whom it joins. Works on the data directory, whether the server runs or not.";
  static override examples = [
    { description: 'For one machine, within the hour', command: 'aegis server join-token' },
    {
      description: 'For a rack in Frankfurt',
      command: 'aegis server join-token --uses 20 --ttl 1d --site fra --label rack=12',
    },
  ];
  static override flags = {
    ttl: Flags.string({ default: '1h', helpValue: 'TIME', summary: 'How long it is valid' }),
    uses: Flags.integer({ default: 1, min: 1, helpValue: 'N', summary: 'How many machines may join with it' }),
    site: Flags.string({ helpValue: 'SITE', summary: 'Site of the machines that join with it' }),
    label: Flags.string({
      multiple: true,
      multipleNonGreedy: true,
      helpValue: 'KEY=VALUE',
      summary: 'Label of the machines that join with it; repeatable',
    }),
    'tls-fingerprint': Flags.string({
      helpValue: 'HEX',
      summary: "SHA-256 of the server's certificate, to pin it (default: with --tls-self-signed that of its own)",
    }),
    ...storeFlags,
  };

  async run(): Promise<undefined> {
    const { flags } = await this.parse(ServerJoinToken);
    const store = await storeOf(flags, this.around.env);
    const { issueJoinToken } = await import('@aegis/server/offline');
    const token = await issueJoinToken({
      ...store,
      ttlSec: ttlOf(flags.ttl),
      uses: flags.uses,
      ...(flags.site === undefined ? {} : { site: flags.site }),
      ...(flags.label === undefined ? {} : { labels: Object.fromEntries(flags.label.map(labelOf)) }),
      ...(flags['tls-fingerprint'] === undefined
        ? {}
        : { tlsFingerprint: checkedFingerprint(flags['tls-fingerprint'], '--tls-fingerprint') }),
    });
    await (flags.json
      ? this.printJson({ join_token: token, uses: flags.uses, ttl_sec: ttlOf(flags.ttl) })
      : this.print(`${token}\n`));
  }
}
