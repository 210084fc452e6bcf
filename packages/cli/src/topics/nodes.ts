import { AegisError } from '@aegis/protocol/errors';
import type { Node } from '@aegis/protocol/nodes/node';
import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { Api } from '../api/client.ts';
import { everyPage } from '../api/pages.ts';
import { routes } from '../api/routes.ts';
import { kernelText } from '../artifacts/kernel-text.ts';
import { ServerCommand, serverFlags } from '../base-command.ts';
import { confirmed } from '../ui/confirm.ts';
import { plainText } from '../ui/plain-text.ts';
import { facts, table } from '../ui/table.ts';
import { ago } from '../ui/time.ts';

const nodeArg = Args.string({ required: true, ignoreStdin: true, description: 'Name or uid of the node' });
const labelsText = (labels: Readonly<Record<string, string>>): string =>
  Object.entries(labels)
    .map(([key, value]) => `${key}=${value}`)
    .sort()
    .join(',');

const nodeFacts = (node: Node, now: number): string =>
  facts([
    ['name', node.name],
    ['uid', node.uid],
    ['status', node.status],
    ['state', node.state],
    ['site', node.site],
    ['labels', labelsText(node.labels) || null],
    ['capabilities', node.capabilities.join(', ') || null],
    ['os', node.os],
    ['kernel', node.kernel],
    ['container engine', node.container_engine],
    ['version', node.version],
    ['key', node.keyless ? 'none (keyless poller)' : node.key_id],
    ['last seen', node.last_seen && `${node.last_seen} (${ago(node.last_seen, now)})`],
    ['created', node.created_at],
    ...Object.entries(node.attrs).map(([key, value]) => [`attr ${key}`, String(value)] as const),
  ]);

export class NodesList extends ServerCommand {
  static override description = 'Lists the nodes of the fleet by name, with what the server last heard of them.';
  static override examples = [
    { description: 'All nodes', command: 'aegis nodes list' },
    {
      description: 'Production nodes in Frankfurt that are online',
      command: 'aegis nodes list --site fra --label env=prod --status online',
    },
    { description: 'Their names alone', command: "aegis nodes list --json | jq -r '.nodes[].name'" },
  ];
  static override flags = {
    site: Flags.string({ helpValue: 'SITE', summary: 'Only nodes of this site' }),
    status: Flags.option({
      options: ['online', 'degraded', 'offline', 'error', 'maintenance'] as const,
      summary: 'Only nodes with this status',
    })(),
    label: Flags.string({ helpValue: 'KEY[=VALUE]', summary: 'Only nodes with this label' }),
    capability: Flags.string({ helpValue: 'NAME', summary: 'Only nodes that can do this' }),
    os: Flags.string({ helpValue: 'OS', summary: 'Only nodes with this system' }),
    engine: Flags.string({ helpValue: 'ENGINE', summary: 'Only nodes with this container engine' }),
    limit: Flags.integer({ min: 1, helpValue: 'N', summary: 'At most this many (default: all)' }),
    ...serverFlags,
  };

  async run(): Promise<undefined> {
    const { flags } = await this.parse(NodesList);
    const { site, status, label, capability, os, engine, limit } = flags;
    const wanted = limit ?? Number.POSITIVE_INFINITY;
    const query = { site, status, label, capability, os, container_engine: engine, limit: Math.min(1000, wanted) };
    await this.withApi(flags, async (api) => {
      const nodes: Node[] = [];
      let total = 0;
      for await (const page of everyPage((cursor) => api.call(routes.listNodes, { query: { ...query, cursor } }))) {
        nodes.push(...page.agents);
        total = page.total;
        if (nodes.length >= wanted) break;
      }
      nodes.splice(wanted);
      if (flags.json) return await this.printJson({ nodes, total });
      const now = this.around.now();
      const rows = nodes.map((node) => [
        node.name,
        node.status,
        node.site ?? '',
        node.os ?? '',
        node.version ?? '',
        ago(node.last_seen, now),
        labelsText(node.labels),
      ]);
      await this.print(table(['NAME', 'STATUS', 'SITE', 'OS', 'VERSION', 'LAST SEEN', 'LABELS'], rows, this.width));
      if (total > nodes.length) await this.note(`${nodes.length} of ${total} nodes; a larger --limit shows more.`);
      if (total === 0)
        await this.note("no node matches. 'aegis server join-token' makes a token with which machines join.");
    });
  }
}

export class NodesShow extends ServerCommand {
  static override description =
    'Shows everything that the server knows of a node, and which kinds of eBPF programs work on its kernel, or why they do not.';
  static override examples = [
    { description: 'By name', command: 'aegis nodes show web-1' },
    { description: 'Its kernel alone', command: 'aegis nodes show web-1 --json | jq -r .kernel' },
    {
      description: 'Whether XDP works there',
      command: 'aegis nodes show web-1 --json | jq .kernel_report.kinds.xdp.works',
    },
  ];
  static override args = { node: nodeArg };
  static override flags = { ...serverFlags };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(NodesShow);
    await this.withApi(flags, async (api) => {
      const node = await api.call(routes.showNode, { params: { id: args.node } });
      const { kernel, reported_at } = await kernelReportOf(api, node.uid);
      if (flags.json) return await this.printJson({ ...node, kernel_report: kernel, kernel_reported_at: reported_at });
      const report = node.keyless ? '' : kernelText(kernel, reported_at, this.width);
      await this.print(nodeFacts(node, this.around.now()) + report);
    });
  }
}

/** A server of an older release has none. */
const kernelReportOf = async (api: Api, id: string) => {
  try {
    return await api.call(routes.kernelReport, { params: { id } });
  } catch (error) {
    if (error instanceof AegisError && error.code === 'http.not_found') return { kernel: null, reported_at: null };
    throw error;
  }
};

export class NodesLabel extends ServerCommand {
  static override description =
    "Sets labels (KEY=VALUE) and removes them (KEY-); the node's other labels stay. Without changes it prints the labels.";
  static override examples = [
    { description: 'Set two labels', command: 'aegis nodes label web-1 env=prod tier=front' },
    { description: 'Remove one', command: 'aegis nodes label web-1 tier-' },
  ];
  static override usage = ['nodes label NODE [KEY=VALUE | KEY-]...'];
  static override strict = false;
  static override args = { node: nodeArg };
  static override flags = { ...serverFlags };

  async run(): Promise<undefined> {
    const { flags, args, argv } = await this.parse(NodesLabel);
    const changes = argv.slice(1).map((change) => labelChange(String(change)));
    await this.withApi(flags, async (api) => {
      const before = await api.call(routes.showNode, { params: { id: args.node } });
      const labels = { ...before.labels };
      for (const { key, value } of changes) {
        if (value === null) delete labels[key];
        else labels[key] = value;
      }
      const after = changes.length > 0 ? await patch(api, before.uid, { labels }) : before;
      if (flags.json) return await this.printJson(after);
      await this.print(
        `${Object.entries(after.labels)
          .map(([key, value]) => `${key}=${value}\n`)
          .sort()
          .join('')}`,
      );
    });
  }
}

const labelChange = (text: string): { key: string; value: string | null } => {
  const at = text.indexOf('=');
  if (at > 0) return { key: text.slice(0, at), value: text.slice(at + 1) };
  if (at === -1 && text.length > 1 && text.endsWith('-')) return { key: text.slice(0, -1), value: null };
  throw new AegisError(
    'cli.usage',
    `'${plainText(text)}' is no change of a label; write KEY=VALUE to set one, KEY- to remove it.`,
  );
};

const patch = (api: Api, id: string, body: { labels?: Record<string, string>; maintenance?: boolean }): Promise<Node> =>
  api.call(routes.patchNode, { params: { id }, body });

export class NodesMaintenance extends ServerCommand {
  static override description =
    'A node in maintenance shows as such and is left out by selectors over its status; what is addressed to it by name still reaches it.';
  static override examples = [
    { description: 'Take it out of service', command: 'aegis nodes maintenance web-1 on' },
    { description: 'And back', command: 'aegis nodes maintenance web-1 off' },
  ];
  static override args = {
    node: nodeArg,
    switch: Args.string({ required: true, ignoreStdin: true, options: ['on', 'off'], description: 'on or off' }),
  };
  static override flags = { ...serverFlags };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(NodesMaintenance);
    await this.withApi(flags, async (api) => {
      const node = await patch(api, args.node, { maintenance: args.switch === 'on' });
      await (flags.json ? this.printJson(node) : this.print(`${plainText(node.name)} is ${node.status}\n`));
    });
  }
}

export class NodesRetire extends ServerCommand {
  static override description =
    'Its key and token stop working at once, what is queued for it is cancelled, its history stays. There is no way back: the machine has to register anew.';
  static override examples = [
    { description: 'Asks first, on a terminal', command: 'aegis nodes retire web-1' },
    { description: 'In a script', command: 'aegis nodes retire web-1 --yes' },
  ];
  static override args = { node: nodeArg };
  static override flags = { yes: Flags.boolean({ char: 'y', summary: 'Do not ask' }), ...serverFlags };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(NodesRetire);
    await confirmed(this.around.output, flags.yes, `Retire ${plainText(args.node)} for good?`);
    await this.withApi(flags, async (api) => {
      const node = await api.call(routes.retireNode, { params: { id: args.node } });
      await (flags.json ? this.printJson(node) : this.print(`${plainText(node.name)} is retired\n`));
    });
  }
}
