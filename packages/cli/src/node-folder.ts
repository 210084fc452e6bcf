import { settingsOf } from './settings-flags.ts';

/** Where this machine's daemon has its data and its pins, from the daemon's own configuration. */

export interface NodeFolder {
  dataDir: string;
  /** Where bpffs is mounted. */
  bpffs: string;
}

export const nodeFolder = async (
  flags: { 'data-dir'?: string | undefined; config?: string | undefined },
  env: Readonly<Record<string, string | undefined>>,
): Promise<NodeFolder> => {
  const { loadDaemonConfig } = await import('@aegis/daemon/config');
  const { config } = loadDaemonConfig({
    flags: settingsOf({ 'data-dir': flags['data-dir'] }),
    env,
    configFile: flags.config,
  });
  return { dataDir: config.data_dir, bpffs: config.bpffs };
};
