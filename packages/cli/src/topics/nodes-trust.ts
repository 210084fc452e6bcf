import { AegisError } from '@aegis/protocol/errors';
import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import { routes } from '../api/routes.ts';
import type { ServerFlags } from '../api/settings.ts';
import {
  type KnownNode,
  knownNodesPath,
  offeredNode,
  readKnownNodes,
  refuseOtherNode,
  SERVER_UID,
  writeKnownNodes,
} from '../backups/known-nodes.ts';
import { ServerCommand, serverFlags } from '../base-command.ts';
import { confirmed } from '../ui/confirm.ts';
import { plainText } from '../ui/plain-text.ts';
import { facts, table } from '../ui/table.ts';

export class NodesTrust extends ServerCommand {
  static override description =
    `Pins a node's keys for this user, in ~/.config/aegis/known_nodes: 'aegis backups restore', 'verify', 'cat' and 'ls' believe only what a node that stands there has signed, whatever the server says. Compare the key id with what 'aegis daemon status' shows on the machine itself. Without NODE it lists who is trusted.

A key that is pinned is never replaced by itself: a machine that registered anew has a new uid and a new key, and the old one goes on vouching for its old backups.

With --control-server it is the server itself, which signs backups of its own files: its keys are vouched for by the fleet's root, whose fingerprint 'aegis server init' showed.`;
  static override usage = ['nodes trust [NODE] [FLAGS]', 'nodes trust --control-server [FLAGS]'];
  static override examples = [
    { description: 'Shows the key, and asks', command: 'aegis nodes trust web-1' },
    {
      description: 'In a script that knows the key',
      command: 'aegis nodes trust web-1 --key-id "$(ssh web-1 aegis daemon status --json | jq -r .key_id)"',
    },
    { description: 'Trust on first use', command: 'aegis nodes trust web-1 --accept-new' },
  ];
  static override args = { node: Args.string({ ignoreStdin: true, description: 'Name or uid of the node' }) };
  static override flags = {
    'accept-new': Flags.boolean({ summary: 'Do not ask about a node whose name is not known yet' }),
    'key-id': Flags.string({
      helpValue: 'HEX',
      summary: "Its key id (the root's fingerprint, of the server) must be this; then nobody is asked",
    }),
    'control-server': Flags.boolean({ summary: 'The server, for backups of its own files' }),
    remove: Flags.boolean({ summary: 'Trust it no longer', exclusive: ['accept-new', 'key-id'] }),
    ...serverFlags,
  };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(NodesTrust);
    const path = knownNodesPath(this.around.env);
    const node = flags['control-server'] ? (args.node ?? 'server') : args.node;
    if (flags['control-server'] && !flags.remove) return await this.trustServer(path, flags);
    if (node === undefined) return await this.list(readKnownNodes(path), flags.json);
    if (flags.remove) return await this.remove(path, node, flags.json);
    const offered = await this.withApi(flags, async (api) =>
      offeredNode(await api.call(routes.showNode, { params: { id: node } })),
    );
    refuseOtherNode(node, offered);
    const known = readKnownNodes(path);
    const same = known.find(({ uid }) => uid === offered.uid);
    if (same && same.keyId !== offered.keyId)
      throw new AegisError(
        'backups.untrusted_node',
        `${plainText(offered.name)} is known with another key (${same.keyId}), and the server now says ${offered.keyId}: it is not trusted. A node never changes its key; find out who answers there.`,
      );
    await this.decide(offered, same, known, flags);
    const others = known.filter(({ uid }) => uid !== offered.uid);
    if (!same || same.name !== offered.name || same.sealingKey !== offered.sealingKey)
      writeKnownNodes(path, [...others, offered]);
    if (flags.json) return await this.printJson({ ...shown(offered), added: !same, path });
    await this.print(`${plainText(offered.name)} is ${same ? 'trusted already' : 'trusted'}: ${offered.keyId}\n`);
  }

  private async trustServer(
    path: string,
    flags: ServerFlags & { json: boolean; 'accept-new'?: boolean; 'key-id'?: string | undefined },
  ): Promise<undefined> {
    const { serverKeys } = await import('../backups/server-keys.ts');
    const wanted = flags['key-id']?.toLowerCase();
    const { rootFingerprint, keys } = await this.withApi(flags, (api) => serverKeys(api, wanted, this.around.now()));
    const known = readKnownNodes(path);
    const fresh = keys.filter((key) => !known.some(({ uid, keyId }) => uid === key.uid && keyId === key.keyId));
    const pinned = known.some(({ uid }) => uid === SERVER_UID);
    if (fresh.length > 0 && wanted === undefined) {
      if (pinned && flags['accept-new'])
        throw new AegisError(
          'backups.untrusted_node',
          `A server is known with another key: this one is not simply new. Compare the root's fingerprint, and give --key-id ${rootFingerprint}.`,
        );
      if (!flags['accept-new'])
        await this.ask(
          [['root fingerprint', rootFingerprint]],
          "Is this the fingerprint that 'aegis server init' showed?",
        );
    }
    if (fresh.length > 0) writeKnownNodes(path, [...known, ...fresh]);
    if (flags.json) return await this.printJson({ nodes: keys.map(shown), added: fresh.length > 0, path });
    const how = fresh.length > 0 ? 'trusted' : 'trusted already';
    await this.print(keys.map(({ keyId }) => `the server is ${how}: ${keyId}\n`).join(''));
  }

  private async ask(about: Parameters<typeof facts>[0], question: string): Promise<void> {
    if (process.stdin.isTTY !== true)
      throw new AegisError('cli.usage', 'Without a terminal nobody can be asked: give --key-id, or --accept-new.');
    const { output } = this.around;
    await output.err(facts(about));
    await confirmed(output, false, question);
  }

  private async decide(
    offered: KnownNode,
    same: KnownNode | undefined,
    known: readonly KnownNode[],
    flags: { 'accept-new'?: boolean; 'key-id'?: string | undefined },
  ): Promise<void> {
    const wanted = flags['key-id']?.toLowerCase();
    if (wanted !== undefined && wanted !== offered.keyId)
      throw new AegisError(
        'backups.untrusted_node',
        `${plainText(offered.name)} has the key ${offered.keyId}, not the one that was given: it is not trusted. Find out who answers there.`,
      );
    const sealingChanged = same !== undefined && same.sealingKey !== null && same.sealingKey !== offered.sealingKey;
    if (sealingChanged)
      throw new AegisError(
        'backups.untrusted_node',
        `${plainText(offered.name)} is known with another sealing key: what is sealed for it would go to somebody else. Find out who answers there.`,
      );
    if (same || wanted !== undefined) return;
    const namesake = known.find(({ name }) => name === offered.name);
    if (namesake && flags['accept-new'])
      throw new AegisError(
        'backups.untrusted_node',
        `Another node called ${plainText(offered.name)} is known (${namesake.keyId}): this one is not simply new. Compare its key, and give --key-id ${offered.keyId}.`,
      );
    if (flags['accept-new']) return;
    await this.ask(
      [
        ['node', `${offered.name} (${offered.uid})`],
        ['key id', offered.keyId],
        ['known', namesake && `another ${offered.name}, with the key ${namesake.keyId}`],
      ],
      "Is this the key that 'aegis daemon status' shows there?",
    );
  }

  private async list(known: readonly KnownNode[], json: boolean): Promise<undefined> {
    if (json) return await this.printJson({ nodes: known.map(shown) });
    await this.print(
      table(
        ['NODE', 'UID', 'KEY ID'],
        known.map(({ name, uid, keyId }) => [name, uid, keyId]),
        this.width,
      ),
    );
    if (known.length === 0) await this.note("nobody is trusted yet. 'aegis nodes trust NODE' adds one.");
  }

  private async remove(path: string, node: string, json: boolean): Promise<undefined> {
    const known = readKnownNodes(path);
    const gone = known.filter(({ uid, name }) => uid === node || name === node);
    if (gone.length === 0)
      throw new AegisError('cli.usage', `${plainText(node)} is not trusted anyway. See 'aegis nodes trust'.`);
    writeKnownNodes(
      path,
      known.filter((one) => !gone.includes(one)),
    );
    if (json) return await this.printJson({ removed: gone.map(shown), path });
    await this.print(gone.map(({ name, keyId }) => `${plainText(name)} is no longer trusted: ${keyId}\n`).join(''));
  }
}

const shown = ({ uid, name, keyId, publicKey, sealingKey }: KnownNode) => ({
  uid,
  name,
  key_id: keyId,
  public_key: publicKey,
  sealing_key: sealingKey,
});
