import { AegisError } from '@aegis/protocol/errors';
import { Command } from '@oclif/core/command';
import * as Flags from '@oclif/core/flags';
import { type Api, serverApi } from './api/client.ts';
import { type ServerFlags, serverSettings } from './api/settings.ts';
import type { AegisConfig } from './oclif.ts';
import type { Surroundings } from './surroundings.ts';

/** What every command has: `--json`, its surroundings, and ways to print. `run` answers the exit code (nothing: 0). */
export abstract class AegisCommand extends Command {
  static override baseFlags = {
    json: Flags.boolean({ summary: 'Print JSON (docs/cli-json.md)', helpGroup: 'GLOBAL' }),
  };

  abstract override run(): Promise<number | undefined>;

  /** oclif's own would load the configuration a second time, and without the surroundings. */
  static async start(
    this: new (
      argv: string[],
      config: AegisConfig,
    ) => AegisCommand,
    argv: string[],
    config: AegisConfig,
  ): Promise<number | undefined> {
    return await new this(argv, config)._run();
  }

  protected get around(): Surroundings {
    return (this.config as AegisConfig).surroundings;
  }

  protected async print(text: string): Promise<undefined> {
    await this.around.output.out(text);
  }

  protected async printJson(value: unknown): Promise<undefined> {
    await this.around.output.out(`${JSON.stringify(value)}\n`);
  }

  /** A word for people on standard error. */
  protected async note(text: string): Promise<void> {
    await this.around.output.err(`aegis: ${text}\n`);
  }

  /** Columns of the terminal that standard output is, for tables; a pipe has none, and neither has a terminal that nobody has told its size. */
  protected get width(): number | undefined {
    return this.around.output.outIsTerminal ? process.stdout.columns || undefined : undefined;
  }
}

const SERVER = 'SERVER';
/** Flags of every command that talks to a server. */
export const serverFlags = {
  server: Flags.string({ summary: 'URL of the server', helpValue: 'URL', helpGroup: SERVER }),
  context: Flags.string({ summary: "Use this context's server and token", helpValue: 'NAME', helpGroup: SERVER }),
  'token-file': Flags.string({
    summary: "Read the token from a file's first line (-: standard input)",
    helpValue: 'FILE',
    helpGroup: SERVER,
  }),
  'tls-ca': Flags.string({
    summary: "Trust this authority's certificate too (PEM)",
    helpValue: 'FILE',
    helpGroup: SERVER,
  }),
  token: Flags.string({ hidden: true }),
};

/** A command line is readable by every user of the machine, and stays in shell histories. */
export const refuseTokenOnArgv = (flags: { token?: string | undefined }): void => {
  if (flags.token !== undefined)
    throw new AegisError(
      'cli.usage',
      "A token on the command line can be read by everyone on this machine. Put it into AEGIS_TOKEN, a file (--token-file) or a context ('aegis context set').",
    );
};

export abstract class ServerCommand extends AegisCommand {
  /** Calls `work` with the server's API and closes its connections afterwards. */
  protected async withApi<T>(
    flags: ServerFlags & { token?: string | undefined },
    work: (api: Api) => Promise<T>,
  ): Promise<T> {
    refuseTokenOnArgv(flags);
    const api = await serverApi(await serverSettings(flags, this.around.env));
    try {
      return await work(api);
    } finally {
      api.close();
    }
  }
}
