import { resolve } from 'node:path';
import { AegisError } from '@aegis/protocol/errors';
import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import { checkedFingerprint, checkedUrl, readToken } from '../api/settings.ts';
import { AegisCommand, refuseTokenOnArgv } from '../base-command.ts';
import { type Contexts, checkedContextName, readContexts, writeContexts } from '../contexts.ts';
import { table } from '../ui/table.ts';

const nameArg = Args.string({ required: true, ignoreStdin: true, description: 'Name of the context' });

const known = (contexts: Contexts, name: string): void => {
  if (!Object.hasOwn(contexts.contexts, name))
    throw new AegisError('cli.usage', `There is no context '${name}'. See 'aegis context list'.`);
};

export class ContextList extends AegisCommand {
  static override description =
    'Lists the contexts in ~/.config/aegis/contexts.toml; the one in use is marked. Tokens are not shown.';
  static override examples = [
    { description: 'As a table', command: 'aegis context list' },
    {
      description: 'The server in use',
      command: "aegis context list --json | jq -r '.contexts[] | select(.current).server'",
    },
  ];

  async run(): Promise<undefined> {
    const { flags } = await this.parse(ContextList);
    const { current, contexts } = await readContexts(this.around.env);
    const list = Object.entries(contexts).map(([name, { server, token, tls_ca }]) => ({
      name,
      current: name === current,
      server,
      has_token: token !== undefined,
      tls_ca: tls_ca ?? null,
    }));
    if (flags.json) return await this.printJson({ contexts: list });
    const rows = list.map((one) => [one.current ? '*' : '', one.name, one.server, one.has_token ? 'yes' : 'no']);
    await this.print(table(['', 'NAME', 'SERVER', 'TOKEN'], rows, this.width));
    if (list.length === 0) await this.note("no contexts; 'aegis context set NAME --server URL' makes one.");
  }
}

export class ContextUse extends AegisCommand {
  static override description =
    'From now on commands go to this context, unless --server, --context or AEGIS_SERVER says otherwise.';
  static override examples = [
    { description: 'Switch', command: 'aegis context use production' },
    { description: 'For one command only', command: 'aegis nodes list --context staging' },
  ];
  static override args = { name: nameArg };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(ContextUse);
    const contexts = await readContexts(this.around.env);
    known(contexts, args.name);
    await writeContexts(this.around.env, { ...contexts, current: args.name });
    if (flags.json) return await this.printJson({ current: args.name });
    await this.print(`${args.name}\n`);
  }
}

export class ContextSet extends AegisCommand {
  static override description =
    'Adds a context or changes what is given of it. The token comes from a file, from standard input (--token-file -) or from AEGIS_TOKEN, never from the command line. The file is written with mode 0600.';
  static override examples = [
    {
      description: 'Add a server with its token',
      command: 'aegis context set production --server https://aegis.example.net --token-file token.txt',
    },
    {
      description: 'The token from a password manager',
      command: 'pass aegis/production | aegis context set production --token-file -',
    },
  ];
  static override args = { name: nameArg };
  static override flags = {
    server: Flags.string({ helpValue: 'URL', summary: 'URL of the server' }),
    'token-file': Flags.string({
      helpValue: 'FILE',
      summary: "Read the token from a file's first line (-: standard input)",
    }),
    'tls-ca': Flags.string({ helpValue: 'FILE', summary: "Trust this authority's certificate too (PEM)" }),
    'tls-fingerprint': Flags.string({
      helpValue: 'HEX',
      summary: "Accept this server's certificate by its SHA-256, or its key's (also AEGIS_TLS_FINGERPRINT)",
    }),
    key: Flags.string({ helpValue: 'FILE', summary: "The operator's secret key, to sign with; empty: none" }),
    use: Flags.boolean({ summary: 'Use it from now on' }),
    token: Flags.string({ hidden: true }),
  };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(ContextSet);
    refuseTokenOnArgv(flags);
    const name = checkedContextName(args.name);
    const contexts = await readContexts(this.around.env);
    const before = Object.hasOwn(contexts.contexts, name) ? contexts.contexts[name] : undefined;
    const server = flags.server === undefined ? before?.server : checkedUrl(flags.server).href.replace(/\/$/, '');
    if (server === undefined) throw new AegisError('cli.usage', `The context '${name}' is new: give its --server URL.`);
    const token = flags['token-file'] ? readToken(flags['token-file']) : (this.around.env.AEGIS_TOKEN ?? before?.token);
    const tls_ca = flags['tls-ca'] ?? before?.tls_ca;
    const pin = flags['tls-fingerprint'];
    const tls_fingerprint = pin === undefined ? before?.tls_fingerprint : checkedFingerprint(pin, '--tls-fingerprint');
    const key = flags.key === undefined ? before?.key : flags.key && resolve(flags.key);
    const context = {
      server,
      ...(token ? { token } : {}),
      ...(tls_ca ? { tls_ca } : {}),
      ...(tls_fingerprint ? { tls_fingerprint } : {}),
      ...(key ? { key } : {}),
    };
    const current = flags.use || contexts.current === null ? name : contexts.current;
    const path = await writeContexts(this.around.env, { current, contexts: { ...contexts.contexts, [name]: context } });
    if (flags.json)
      return await this.printJson({ name, current: current === name, server, has_token: token !== undefined, path });
    await this.print(`${name}: ${server}${current === name ? ' (in use)' : ''}\n`);
  }
}

export class ContextRemove extends AegisCommand {
  static override description =
    'Forgets a context and its token. The token itself stays valid: revoke it on the server.';
  static override examples = [
    { description: 'Forget it', command: 'aegis context remove staging' },
    { description: "And end the token's life, on the server", command: 'aegis server token revoke 01981c2e' },
  ];
  static override args = { name: nameArg };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(ContextRemove);
    const contexts = await readContexts(this.around.env);
    known(contexts, args.name);
    const { [args.name]: _gone, ...rest } = contexts.contexts;
    await writeContexts(this.around.env, {
      current: contexts.current === args.name ? null : contexts.current,
      contexts: rest,
    });
    if (flags.json) return await this.printJson({ removed: args.name });
    await this.print(`${args.name} is forgotten\n`);
  }
}
