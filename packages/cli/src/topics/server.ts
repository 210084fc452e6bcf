import { AegisError } from '@aegis/protocol/errors';
import * as Flags from '@oclif/core/flags';
import { routes } from '../api/routes.ts';
import { AegisCommand, ServerCommand, serverFlags } from '../base-command.ts';
import { becomeOwnerOf } from '../data-owner.ts';
import { rootKeyFile } from '../root-key-file.ts';
import { configText, settingsOf } from '../settings-flags.ts';
import { startBundle } from '../start-bundle.ts';
import { plainText } from '../ui/plain-text.ts';
import { facts } from '../ui/table.ts';
import { byteCount, duration } from '../ui/time.ts';

const dataDir = Flags.string({
  helpValue: 'DIR',
  summary: "The server's data directory (default: $AEGIS_DATA_DIR/server, else /var/lib/aegis/server)",
});
const databaseUrl = Flags.string({
  helpValue: 'URL',
  summary: 'PostgreSQL instead of SQLite; with a password use DATABASE_URL instead',
});

/** Everything that `start` and `config` take. */
const configFlags = {
  config: Flags.string({ helpValue: 'FILE', summary: 'Configuration file (default: /etc/aegis/server.toml)' }),
  'data-dir': dataDir,
  dev: Flags.boolean({
    summary: 'One-minute mode: loopback only, temporary data, requests without credentials count as admin',
  }),
  listen: Flags.string({
    multiple: true,
    multipleNonGreedy: true,
    helpValue: 'ADDR=DOOR[,DOOR]',
    summary: 'Where to listen and what to serve there; repeatable (default: 127.0.0.1:8080=all)',
  }),
  'database-url': databaseUrl,
  'tls-cert': Flags.string({
    helpValue: 'FILE',
    summary: 'Certificate chain (PEM); serves https. Read again when it changes',
  }),
  'tls-key': Flags.string({ helpValue: 'FILE', summary: 'Its private key (PEM)' }),
  'tls-self-signed': Flags.boolean({
    summary: 'Serve https with a certificate of its own, whose fingerprint join tokens carry',
  }),
  'tls-client-ca': Flags.string({
    helpValue: 'FILE',
    summary: 'Ask every client for a certificate of these authorities (PEM)',
  }),
  'behind-proxy': Flags.string({
    multiple: true,
    multipleNonGreedy: true,
    helpValue: 'ADDR',
    summary: "Address or network of a proxy whose word on callers' addresses is believed; repeatable",
  }),
  'insecure-listen': Flags.boolean({ summary: 'Listen beyond this machine without TLS' }),
  'log-level': Flags.option({
    options: ['trace', 'debug', 'info', 'warn', 'error', 'silent'] as const,
    summary: 'How much to log (default: info)',
  })(),
  'log-format': Flags.option({ options: ['json', 'pretty'] as const, summary: 'How to log (default: json)' })(),
  'stop-timeout-sec': Flags.integer({ min: 0, helpValue: 'SEC', summary: 'How long a stop may take (default: 10)' }),
  set: Flags.string({
    multiple: true,
    multipleNonGreedy: true,
    helpValue: 'KEY=VALUE',
    summary: "Any other setting, as 'aegis server config' names it; repeatable",
  }),
};

const refusePassword = (url: string | undefined): void => {
  if (url && URL.canParse(url) && new URL(url).password !== '')
    throw new AegisError(
      'cli.usage',
      'A password on the command line can be read by everyone on this machine. Put the URL into DATABASE_URL or the configuration file.',
    );
};

export class ServerInit extends AegisCommand {
  static override description =
    'Makes the data directory with the fleet, its root key, the server key and the first trust bundle. Run again it changes nothing and prints the same. The root key decides whom every node obeys: with --root-key-out it is written to that file and never to the data directory; without, it is keys/root.pem, and may be moved to a safe place afterwards.';
  static override examples = [
    { description: 'In the default place', command: 'aegis server init' },
    {
      description: 'For a named fleet, elsewhere',
      command: 'aegis server init --data-dir /srv/aegis --fleet production',
    },
    {
      description: 'With the root key on a stick',
      command: 'aegis server init --root-key-out /media/usb/aegis-root.pem',
    },
  ];
  static override flags = {
    'data-dir': dataDir,
    fleet: Flags.string({ helpValue: 'NAME', summary: 'Name of the fleet (default: a new id)' }),
    'root-key-out': Flags.string({
      helpValue: 'FILE',
      summary: "Where the root's secret key goes instead of the data directory (mode 0600, a new file)",
    }),
    config: configFlags.config,
    'database-url': databaseUrl,
  };

  async run(): Promise<undefined> {
    const { flags } = await this.parse(ServerInit);
    refusePassword(flags['database-url']);
    const { loadServerConfig } = await import('@aegis/server/config');
    const { initialiseServer } = await import('@aegis/server/offline');
    const { config } = loadServerConfig({ flags: settingsOf(flags), env: this.around.env, configFile: flags.config });
    const dataDirectory = requireDataDir(config.data_dir);
    const rootKeyOut = flags['root-key-out'];
    // Before this process gives up what it may: the file belongs to whoever asked for it.
    using rootKey = rootKeyOut === undefined ? null : rootKeyFile(rootKeyOut, dataDirectory);
    becomeOwnerOf(dataDirectory);
    const made = await initialiseServer({
      dataDir: dataDirectory,
      keepRoot: rootKey?.keep,
      ...(flags.fleet === undefined ? {} : { fleet: flags.fleet }),
      ...(config.database_url === null ? {} : { databaseUrl: config.database_url }),
    });
    if (flags.json)
      return await this.printJson({
        data_dir: dataDirectory,
        fleet: made.fleet,
        root_fingerprint: made.rootFingerprint,
        created: made.created,
        ...(rootKeyOut === undefined ? {} : { root_key: rootKeyOut }),
      });
    await this.print(
      facts([
        ['fleet', made.fleet],
        ['root fingerprint', made.rootFingerprint],
        ['data directory', dataDirectory],
        ['root key', rootKeyOut],
        ['made', made.created ? 'now' : 'before'],
      ]),
    );
  }
}

export const requireDataDir = (dir: string | null): string => {
  if (dir !== null) return dir;
  throw new AegisError('cli.usage', 'A --dev server has temporary data: name its directory with --data-dir.');
};

export class ServerStart extends AegisCommand {
  static override description =
    `Runs in the foreground until SIGTERM or SIGINT, logs to stderr, and prints one line on stdout when it is ready (with --json: {"ready": true, "addresses": {DOOR: URL}}). The data directory is made by 'aegis server init'.

Settings come from flags, then the environment (AEGIS_..., and the usual DATABASE_URL, JWT_SIGNING_SECRET), then the configuration file, then defaults; 'aegis server config' shows which.

Doors: actions (enrolment, nodes), registry (artifacts), gateway (WebSocket), api (operators), agent-svc (commands, the nodes' side), backup, all.`;
  static override examples = [
    { description: 'To try it out', command: 'aegis server start --dev' },
    {
      description: 'Operators and nodes on different addresses',
      command:
        'aegis server start --tls-cert fullchain.pem --tls-key key.pem --listen 127.0.0.1:8443=api --listen 0.0.0.0:8083=actions,agent-svc',
    },
    {
      description: 'With a certificate of its own, which join tokens name',
      command: 'aegis server start --listen 0.0.0.0:8443 --tls-self-signed',
    },
    {
      description: 'Behind a TLS proxy on another machine',
      command: 'aegis server start --listen 10.0.0.5:8080 --behind-proxy 10.0.0.2',
    },
    { description: 'On PostgreSQL', command: 'DATABASE_URL=postgres://aegis:secret@db/aegis aegis server start' },
  ];
  static override flags = configFlags;

  async run(): Promise<undefined> {
    const { flags } = await this.parse(ServerStart);
    refusePassword(flags['database-url']);
    startBundle('server', { flags: settingsOf(flags), json: flags.json }, process.env);
  }
}

export class ServerConfigShow extends AegisCommand {
  static override description =
    'Prints every setting, its value and where it comes from (flag, environment, file, default); secrets are masked. Takes the flags of start, so that a start can be tried out.';
  static override examples = [
    { description: 'As the service would see it', command: 'aegis server config' },
    {
      description: 'What a flag would change',
      command: 'aegis server config --config ./server.toml --log-level debug',
    },
  ];
  static override flags = configFlags;

  async run(): Promise<undefined> {
    const { flags } = await this.parse(ServerConfigShow);
    refusePassword(flags['database-url']);
    const { loadServerConfig, shownConfig } = await import('@aegis/server/config');
    const settings = shownConfig(
      loadServerConfig({ flags: settingsOf(flags), env: this.around.env, configFile: flags.config }),
    );
    await (flags.json ? this.printJson({ settings }) : this.print(configText(settings, this.width)));
  }
}

export class ServerStatus extends ServerCommand {
  static override description =
    "Asks a running server for its health and, with a viewer's token, for its figures. Exit code 0 only when it is healthy.";
  static override examples = [
    { description: 'The server in use', command: 'aegis server status' },
    {
      description: 'Another one, for a script',
      command: 'aegis server status --server https://aegis.example.net --json',
    },
  ];
  static override flags = { ...serverFlags };

  async run(): Promise<number | undefined> {
    const { flags } = await this.parse(ServerStatus);
    return await this.withApi(flags, async (api) => {
      const health = await api.call(routes.health);
      const statistics = await api.call(routes.statistics).catch((error: unknown) => {
        // Health is public, figures are not: their absence is told, not a failure.
        if (error instanceof AegisError && error.code.startsWith('access.')) return null;
        throw error;
      });
      const healthy = health.status === 'healthy' ? undefined : 1;
      if (flags.json) {
        await this.printJson({ server: api.url.origin, ...health, statistics });
        return healthy;
      }
      const counts = (by: Readonly<Record<string, number>>) =>
        Object.entries(by)
          .map(([name, count]) => `${count} ${name}`)
          .join(', ') || 'none';
      await this.print(
        facts([
          ['server', api.url.origin],
          ['status', health.status],
          ['version', health.version],
          ...(statistics
            ? ([
                ['up', duration(statistics.uptime_sec * 1000)],
                ['nodes', `${statistics.nodes.total} (${counts(statistics.nodes.by_status)})`],
                ['commands', counts(statistics.commands.by_state)],
                ['executions', counts(statistics.executions.by_state)],
                [
                  'storage',
                  `${plainText(statistics.storage.kind)}, ${byteCount(statistics.storage.output_bytes)} of output`,
                ],
              ] as const)
            : ([['figures', "not shown: they need a viewer's token (AEGIS_TOKEN)"]] as const)),
        ]),
      );
      return healthy;
    });
  }
}
