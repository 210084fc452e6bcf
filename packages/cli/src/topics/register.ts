import { readToken } from '../api/settings.ts';
import { AegisCommand } from '../base-command.ts';
import { daemonSettings, enrolFlags } from '../daemon-flags.ts';
import { settingsOf } from '../settings-flags.ts';
import { facts } from '../ui/table.ts';

export class Register extends AegisCommand {
  static override description =
    `Makes this machine's keys (they never leave it), checks that the server belongs to the fleet that the join token names, and enrols. Run again with the same server it changes nothing and prints the same.

The join token comes from AEGIS_JOIN_TOKEN, --join-token-file or --join-token; on the command line other users of this machine can read it while this runs.`;
  static override examples = [
    {
      description: 'Join a fleet',
      command: 'aegis register --server https://aegis.example.net --join-token-file token.txt --name web-1',
    },
    {
      description: 'With site and labels',
      command:
        'AEGIS_JOIN_TOKEN=aegis1... aegis register --server https://aegis.example.net --site fra --label env=prod',
    },
  ];
  static override flags = enrolFlags;

  async run(): Promise<undefined> {
    const { flags } = await this.parse(Register);
    const { loadDaemonConfig } = await import('@aegis/daemon/config');
    const { enrolNode } = await import('@aegis/daemon/enrol');
    const given = settingsOf(daemonSettings(flags, readToken) as Parameters<typeof settingsOf>[0]);
    const { config } = loadDaemonConfig({ flags: given, env: this.around.env, configFile: flags.config });
    const node = await enrolNode({ config });
    if (flags.json) return await this.printJson(node);
    await this.print(
      facts([
        ['name', node.name],
        ['uid', node.uid],
        ['fleet', node.fleet],
        ['server', node.server],
      ]),
    );
    await this.note("registered. Start its daemon: 'aegis daemon start', or the systemd unit aegis-daemon.");
  }
}
