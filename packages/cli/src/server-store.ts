import { AegisError } from '@aegis/protocol/errors';
import type { LocalUser, TokenKeyFiles } from '@aegis/server/offline';
import * as Flags from '@oclif/core/flags';
import { becomeOwnerOf } from './data-owner.ts';
import { settingsOf } from './settings-flags.ts';

/** Where a server's data is, for the commands that work on it without the server. Afterwards this process is the data's owner. */

export const storeFlags = {
  'data-dir': Flags.string({
    helpValue: 'DIR',
    summary: "The server's data directory (default: $AEGIS_DATA_DIR/server, else /var/lib/aegis/server)",
  }),
  config: Flags.string({
    helpValue: 'FILE',
    summary: "The server's configuration file (default: /etc/aegis/server.toml)",
  }),
};

export type Store = {
  dataDir: string;
  databaseUrl?: string;
  jwtSecret?: string;
  tokenKey: TokenKeyFiles;
  by: LocalUser;
};

export const storeOf = async (
  flags: { 'data-dir'?: string | undefined; config?: string | undefined },
  env: Readonly<Record<string, string | undefined>>,
): Promise<Store> => {
  const { loadServerConfig } = await import('@aegis/server/config');
  const { config } = loadServerConfig({
    flags: settingsOf({ 'data-dir': flags['data-dir'] }),
    env,
    configFile: flags.config,
  });
  if (config.data_dir === null) throw new AegisError('cli.usage', 'Name the data directory with --data-dir.');
  const { localUser } = await import('@aegis/server/offline');
  const by = localUser(env);
  becomeOwnerOf(config.data_dir);
  return {
    dataDir: config.data_dir,
    by,
    tokenKey: { token_key: config.token_key, token_public_key: config.token_public_key },
    ...(config.database_url === null ? {} : { databaseUrl: config.database_url }),
    ...(config.jwt_signing_secret === null ? {} : { jwtSecret: config.jwt_signing_secret }),
  };
};
