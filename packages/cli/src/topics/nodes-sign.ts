import { AegisError } from '@aegis/protocol/errors';
import type { NodeWish } from '@aegis/protocol/nodes/endpoints';
import * as Flags from '@oclif/core/flags';
import { everyPage } from '../api/pages.ts';
import { routes } from '../api/routes.ts';
import { ServerCommand, serverFlags } from '../base-command.ts';
import { keyFlags, operatorSigner } from '../signing/operator-key.ts';
import { signWish } from '../signing/wishes.ts';
import { confirmed } from '../ui/confirm.ts';
import { plainText } from '../ui/plain-text.ts';
import { facts } from '../ui/table.ts';

export class NodesSign extends ServerCommand {
  static override description =
    `Signs what is wished of nodes (assignments of artifacts, backup configurations, and that something is to be gone) with your own key, for nodes that obey operators alone. What is signed is shown and asked about first: the server wrote it, and your signature makes it count. NODE is a name, a uid or a selector; each node judges by itself whether it is meant.

For what changed, for nodes that joined later, for what others have signed where several persons are needed, and anew before seven days are over where a node may be away for longer.`;
  static override usage = ['nodes sign NODE... [FLAGS]'];
  static override examples = [
    { description: 'What backs up a node', command: 'aegis nodes sign db-1 --kind backups.config --key ~/alice.key' },
    { description: 'Everything on a site, in a script', command: "aegis nodes sign 'site=fra' --yes" },
  ];
  static override strict = false;
  static override flags = {
    kind: Flags.option({
      options: ['artifacts.assign', 'backups.config'] as const,
      summary: 'Only wishes of this kind',
    })(),
    object: Flags.string({
      helpValue: 'NAME',
      summary: "Only this artifact, or this backup configuration's name or id",
    }),
    yes: Flags.boolean({ char: 'y', summary: 'Do not ask' }),
    ...keyFlags,
    ...serverFlags,
  };

  async run(): Promise<undefined> {
    const { flags, argv } = await this.parse(NodesSign);
    const targets = argv.map(String);
    if (targets.length === 0) throw new AegisError('cli.usage', 'Name at least one node: aegis nodes sign NODE…');
    await this.withApi(flags, async (api) => {
      const signer = await operatorSigner(api, flags, this.around);
      if (signer === null)
        throw new AegisError('cli.usage', 'There is no key to sign with: give --key FILE, or set AEGIS_KEY.');
      const { meansNode, selectorOfTargets } = await import('@aegis/protocol/access/operators');
      const selector = selectorOfTargets(targets);
      const meant: { uid: string; name: string; wishes: NodeWish[] }[] = [];
      const pages = everyPage((cursor) => api.call(routes.listNodes, { query: { limit: 1000, cursor } }));
      for await (const { agents } of pages)
        for (const agent of agents) {
          const self = { ...agent, container_engine: agent.container_engine ?? null };
          if (agent.keyless || meansNode(selector, self) !== true) continue;
          const { wishes } = await api.call(routes.showWishes, { params: { id: agent.uid } });
          const some = wishes.filter((wish) => isWanted(wish, flags));
          if (some.length > 0) meant.push({ uid: agent.uid, name: agent.name, wishes: some });
        }
      if (meant.length === 0)
        throw new AegisError('cli.usage', 'Nothing is wished of these nodes that could be signed.');
      const { output } = this.around;
      for (const { name, wishes } of meant) for (const wish of wishes) await output.err(`${wishText(name, wish)}\n`);
      const count = meant.reduce((sum, { wishes }) => sum + wishes.length, 0);
      await confirmed(
        output,
        flags.yes,
        `Sign ${count === 1 ? 'this' : `these ${count}`}, for '${plainText(selector)}'?`,
      );
      const signed: { node: string; kind: string; object_id: string; generation: number }[] = [];
      for (const { uid, name, wishes } of meant)
        for (const wish of wishes) {
          const envelope = await signWish(signer, wish, selector, this.around.now());
          if (envelope) await api.call(routes.signWishes, { params: { id: uid }, body: { directives: [envelope] } });
          const { kind, object_id, generation } = wish;
          signed.push({ node: name, kind, object_id, generation });
        }
      if (flags.json) return await this.printJson({ signed });
      await this.print(`${signed.length} signed\n`);
    });
  }
}

const isWanted = (
  wish: NodeWish,
  { kind, object }: { kind?: string | undefined; object?: string | undefined },
): boolean =>
  (kind === undefined || wish.kind === kind) &&
  (object === undefined || wish.object_id === object || nameOf(wish.body) === object);

const nameOf = (body: unknown): unknown =>
  typeof body === 'object' && body !== null && 'name' in body ? body.name : undefined;

const wishText = (node: string, { kind, object_id, generation, body, operator_directive }: NodeWish): string =>
  facts([
    ['node', node],
    ['kind', kind],
    ['object', `${object_id}, generation ${generation}`],
    ['body', JSON.stringify(body)],
    ['signed by', operator_directive?.signatures.map(({ keyid }) => keyid).join(', ') ?? null],
  ]);
