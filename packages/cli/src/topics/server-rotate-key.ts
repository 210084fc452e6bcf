import { AegisError } from '@aegis/protocol/errors';
import * as Flags from '@oclif/core/flags';
import { settle } from '../access/trust-draft.ts';
import { ServerCommand, serverFlags } from '../base-command.ts';
import { confirmed } from '../ui/confirm.ts';
import { facts } from '../ui/table.ts';
import { secondsOf } from '../ui/time.ts';

export class ServerRotateKey extends ServerCommand {
  static override description =
    `Gives the running server (all its processes) a new key to sign with, and puts it into the trust bundle. The key before counts until the overlap is over, for what it signed and is still on its way; with --overlap 0 it is revoked at once, as after a theft. Nodes that are away learn of the new key when they come back; orders that wait for them are signed with it.

The new key is keys/server-….pem in the data directory: add it to the backup.`;
  static override examples = [
    { description: 'As a habit', command: 'aegis server rotate-key' },
    { description: 'After a theft', command: 'aegis server rotate-key --overlap 0 --yes' },
    {
      description: 'With the root key elsewhere',
      command: 'aegis server rotate-key --out rotate.json && aegis access trust sign rotate.json --key root.pem',
    },
  ];
  static override flags = {
    overlap: Flags.string({
      default: '1d',
      helpValue: 'TIME',
      summary: 'How long the key before still counts (0: no more)',
    }),
    out: Flags.string({ helpValue: 'FILE', summary: 'Where a draft goes that others have to sign' }),
    yes: Flags.boolean({ char: 'y', summary: 'Do not ask' }),
    ...serverFlags,
  };

  async run(): Promise<undefined> {
    const { flags } = await this.parse(ServerRotateKey);
    const seconds = flags.overlap === '0' ? 0 : secondsOf(flags.overlap);
    if (seconds === null || seconds < 0 || seconds > MAX_OVERLAP_SEC)
      throw new AegisError('cli.usage', `--overlap ${flags.overlap}: give 0, or a time of at most 90 days, as in 12h.`);
    await confirmed(this.around.output, flags.yes, 'Give the server a new key?');
    await this.withApi(flags, async (api) => {
      const change = { server_key: { overlap_sec: Math.round(seconds) } };
      const published = await settle(api, change, { out: flags.out });
      if (flags.json) return await this.printJson(published ?? { draft: flags.out });
      if (!published) return await this.print(`${flags.out} has to be signed ('aegis access trust sign')\n`);
      await this.print(
        facts([
          ['version', String(published.trust_version)],
          ['the key before', seconds === 0 ? 'is revoked' : `counts for ${flags.overlap} more`],
        ]),
      );
    });
  }
}

const MAX_OVERLAP_SEC = 90 * 86_400;
