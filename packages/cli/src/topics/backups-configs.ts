import type { BackupSpec } from '@aegis/protocol/backups/config';
import type { BackupConfig, ConfigAnswer, ConfigNode } from '@aegis/protocol/backups/endpoints';
import { AegisError } from '@aegis/protocol/errors';
import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { Api } from '../api/client.ts';
import { everyPage } from '../api/pages.ts';
import { routes } from '../api/routes.ts';
import { configFacts, configRows, destinationText, diffText, nodeRows } from '../backups/config-text.ts';
import { credentialsOf } from '../backups/credentials.ts';
import {
  flagOf,
  type SpecFlags,
  type SpecTree,
  saysAnything,
  specFlags,
  specOf,
  unset,
} from '../backups/spec-flags.ts';
import { ServerCommand, serverFlags } from '../base-command.ts';
import { keyFlags, operatorSigner, signingNote } from '../signing/operator-key.ts';
import { confirmed } from '../ui/confirm.ts';
import { plainText } from '../ui/plain-text.ts';

export const configArg = Args.string({
  required: true,
  ignoreStdin: true,
  description: 'Name or id of a configuration',
});

const SECRETS = 'CREDENTIALS';
export const credentialFlags = {
  'credentials-file': Flags.string({
    helpValue: 'FILE',
    summary: "The bucket's key, as in AWS's credentials file or as JSON (-: standard input)",
    helpGroup: SECRETS,
  }),
  'credentials-profile': Flags.string({
    helpValue: 'NAME',
    summary: 'Section of that file (default: default)',
    helpGroup: SECRETS,
    dependsOn: ['credentials-file'],
  }),
  'credentials-from-env': Flags.boolean({
    summary: 'Take it from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY here',
    helpGroup: SECRETS,
  }),
};
export const changeFlags = {
  probe: Flags.boolean({
    allowNo: true,
    default: true,
    summary: 'Try the destination before anything is stored (default)',
  }),
  'dry-run': Flags.boolean({ summary: 'Only show what would change' }),
};

/** The server validates it and fills in what is not said. */
const asSpec = (tree: SpecTree): BackupSpec => tree as BackupSpec;

/** What the server calls malformed, in the words of the flags that said it. Not before it was asked: a newer one may know more than we do. */
const orFlagNamed = async <T>(tree: SpecTree, work: () => Promise<T>): Promise<T> => {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof AegisError) || error.code !== 'http.malformed') throw error;
    const { faultOf } = await import('../backups/spec-file.ts');
    const fault = faultOf(tree);
    if (fault === null) throw error;
    const said = fault.field === 'name' ? 'NAME' : (flagOf(fault.field) ?? fault.field);
    throw new AegisError('backups.bad_config', `${said}: ${plainText(fault.reason)}. Nothing was changed.`, {
      cause: error,
    });
  }
};

export const answerText = ({ config, changed, ...answer }: ConfigAnswer, dryRun: boolean, created = false): string => {
  const name = plainText(config.name);
  if (!changed) return `${name}: unchanged\n`;
  const would = dryRun ? 'would be ' : '';
  const nodes = config.assigned === 1 ? '1 node' : `${config.assigned} nodes`;
  return `${name}: ${would}${created ? 'created' : 'changed'}, on ${nodes}\n${diffText(answer)}`;
};

export class BackupsConfigsCreate extends ServerCommand {
  static override description =
    `Makes a configuration from flags. The destination is tried before anything is stored, and what it lacks is said. Its nodes take it over within seconds; one that is offline does so when it comes back. What flags do not cover (bandwidth by time of day, hooks of a user, one's own certificate authority) goes into a file: 'aegis backups configs apply'.

Credentials of a bucket stay on the server, encrypted, and are never shown again. Without any the server uses its own (environment, profile, instance role).`;
  static override usage = ['backups configs create NAME --source PATH --to URL [FLAGS]'];
  static override examples = [
    {
      description: 'A folder of two nodes, each night, a week back',
      command:
        'aegis backups configs create etc --source /etc --to file:///var/backups --node web-1 --node web-2 --schedule @daily --keep-daily 7',
    },
    {
      description: 'To S3, encrypted, its key from a file',
      command:
        "aegis backups configs create db --source /var/lib/pg --to s3://backups/db --endpoint https://s3.example.com --path-style --credentials-file key.ini --recipient age1... --node 'label.role=db' --before 'pg-freeze'",
    },
  ];
  static override args = {
    name: Args.string({ required: true, ignoreStdin: true, description: "The new configuration's name" }),
  };
  static override flags = { ...specFlags, ...credentialFlags, ...changeFlags, ...keyFlags, ...serverFlags };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(BackupsConfigsCreate);
    if (!flags.source || flags.to === undefined)
      throw new AegisError('cli.usage', 'Say what is backed up and where to: --source PATH --to URL.');
    const tree = { name: args.name, ...specOf(flags) };
    const spec = asSpec(tree);
    const credentials = credentialsOf(flags, this.around.env);
    const dry_run = flags['dry-run'];
    await this.withApi(flags, async (api) => {
      const signer = dry_run ? null : await operatorSigner(api, flags, this.around);
      const { refuseUnsignable, signConfig } = await import('../signing/config-wishes.ts');
      const said = signer && (await import('../backups/spec-file.ts')).wholeSpec(tree);
      if (said) await refuseUnsignable(signer, said);
      const body = { spec, probe: flags.probe, dry_run, ...(credentials ? { credentials } : {}) };
      const answer = await orFlagNamed(tree, () => api.call(routes.createConfig, { body }));
      if (said) await signConfig(api, signer, answer, { spec: said, created: true }, this.around.now());
      if (flags.json) return await this.printJson(answer);
      if (dry_run) return await this.print(answerText(answer, true, true));
      await this.print(configFacts(answer.config, this.around.now()));
      if (answer.config.execution_mode === 'agent' && answer.config.assigned === 0)
        await this.note(
          flags.node
            ? `no node matches ${plainText(flags.node.map((one) => `'${one}'`).join(', '))} yet: see 'aegis nodes list'.`
            : `no node makes it yet: aegis backups configs assign ${plainText(answer.config.name)} NODE`,
        );
      const run = flags.mode === 'server' ? '' : ` --node ${plainText(answer.nodes.added[0] ?? 'NODE')}`;
      await this.note(`created. Try it: aegis backups run ${plainText(answer.config.name)}${run} --follow`);
    });
  }
}

export class BackupsConfigsEdit extends ServerCommand {
  static override description =
    `Changes a configuration: with flags just what they say (a list that is given takes the place of the one that was there; --unset takes a field away), without flags as TOML in $VISUAL or $EDITOR. When somebody else has changed it meanwhile, nothing is done.`;
  static override usage = ['backups configs edit NAME [FLAGS]'];
  static override examples = [
    { description: 'In the editor', command: 'aegis backups configs edit etc' },
    {
      description: 'Another time, and no jitter any more',
      command: "aegis backups configs edit etc --schedule '0 4 * * *' --unset schedule.jitter_sec",
    },
    {
      description: "A new key for the destination's bucket",
      command: 'aegis backups configs edit db --credentials-file key.ini',
    },
  ];
  static override args = { name: configArg };
  static override flags = {
    ...specFlags,
    unset: Flags.string({
      multiple: true,
      multipleNonGreedy: true,
      helpValue: 'FIELD',
      summary: "Take a field away, by its dotted name as 'diff' shows it; repeatable",
    }),
    ...credentialFlags,
    'no-credentials': Flags.boolean({
      summary: "Forget the bucket's key; the server's own counts",
      helpGroup: SECRETS,
      exclusive: ['credentials-file', 'credentials-from-env'],
    }),
    ...changeFlags,
    ...serverFlags,
  };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(BackupsConfigsEdit);
    const credentials = flags['no-credentials'] ? null : credentialsOf(flags, this.around.env);
    const byFlags = saysAnything(flags) || (flags.unset ?? []).length > 0 || credentials !== undefined;
    await this.withApi(flags, async (api) => {
      const before = await api.call(routes.showConfig, { params: { id: args.name } });
      const store = (spec: SpecTree): Promise<ConfigAnswer> =>
        api.call(routes.putConfig, {
          params: { id: before.config_id },
          body: {
            spec: asSpec(spec),
            if_revision: before.revision,
            probe: flags.probe,
            dry_run: flags['dry-run'],
            ...(credentials === undefined ? {} : { credentials }),
          },
        });
      const byFlag = async (tree: SpecTree) => await orFlagNamed(tree, () => store(tree));
      const answer = byFlags ? await byFlag(await this.changed(before, flags)) : await this.inEditor(before, store);
      if (answer === null) return await this.note('nothing was changed.').then(() => undefined);
      await (flags.json ? this.printJson(answer) : this.print(answerText(answer, flags['dry-run'])));
      const note =
        answer.changed && !flags['dry-run'] ? await signingNote(flags, this.around, answer.config.name) : null;
      if (note) await this.note(note);
    });
  }

  private async changed(before: BackupConfig, flags: SpecFlags & { unset?: string[] | undefined }): Promise<SpecTree> {
    const { writtenPart } = await import('../backups/spec-file.ts');
    const spec = specOf(flags, writtenPart(before));
    for (const field of flags.unset ?? []) unset(spec, field);
    return spec;
  }

  private async inEditor(
    before: BackupConfig,
    store: (spec: SpecTree) => Promise<ConfigAnswer>,
  ): Promise<ConfigAnswer | null> {
    const { editSpec } = await import('../backups/edit-spec.ts');
    return await editSpec(before, this.around.env, store);
  }
}

export class BackupsConfigsList extends ServerCommand {
  static override description = 'Lists configurations by name, with the newest run of each.';
  static override examples = [
    { description: 'All of them', command: 'aegis backups configs list' },
    { description: "One node's", command: 'aegis backups configs list --node web-1' },
  ];
  static override flags = {
    node: Flags.string({ helpValue: 'NODE', summary: 'Only those of this node' }),
    ...serverFlags,
  };

  async run(): Promise<undefined> {
    const { flags } = await this.parse(BackupsConfigsList);
    await this.withApi(flags, async (api) => {
      const configs: BackupConfig[] = [];
      const pages = everyPage((cursor) =>
        api.call(routes.listConfigs, { query: { node: flags.node, limit: 1000, cursor } }),
      );
      for await (const { items } of pages) configs.push(...items);
      if (flags.json) return await this.printJson({ configs });
      await this.print(configRows(configs, this.around.now(), this.width));
      if (configs.length === 0) await this.note("no configuration matches. 'aegis backups configs create' makes one.");
    });
  }
}

export class BackupsConfigsShow extends ServerCommand {
  static override description =
    "Shows one configuration and how each of its nodes stands: whether it has taken it over, its newest run, when it runs next. With --toml it prints a file that 'apply' takes back unchanged; what is its default anyway is left out.";
  static override examples = [
    { description: 'What it does, and where', command: 'aegis backups configs show etc' },
    { description: 'As a file', command: 'aegis backups configs show etc --toml >etc.toml' },
  ];
  static override args = { name: configArg };
  static override flags = {
    toml: Flags.boolean({ summary: "Print it as 'apply' takes it", exclusive: ['json'] }),
    ...serverFlags,
  };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(BackupsConfigsShow);
    await this.withApi(flags, async (api) => {
      const config = await api.call(routes.showConfig, { params: { id: args.name } });
      if (flags.toml) return await this.print((await import('../backups/spec-file.ts')).toToml(config));
      const nodes = await nodesOf(api, config.config_id);
      if (flags.json) return await this.printJson({ ...config, node_states: nodes });
      const now = this.around.now();
      await this.print(configFacts(config, now) + (nodes.length > 0 ? `\n${nodeRows(nodes, now, this.width)}` : ''));
    });
  }
}

export const nodesOf = async (api: Api, id: string): Promise<ConfigNode[]> => {
  const nodes: ConfigNode[] = [];
  const pages = everyPage((cursor) => api.call(routes.configNodes, { params: { id }, query: { limit: 1000, cursor } }));
  for await (const { items } of pages) nodes.push(...items);
  return nodes;
};

export class BackupsConfigsDelete extends ServerCommand {
  static override description =
    'Takes a configuration off its nodes and removes it. Archives, and what is known of its runs, stay: they can still be restored, and are no longer thinned out.';
  static override examples = [
    { description: 'Asks first, on a terminal', command: 'aegis backups configs delete etc' },
    { description: 'In a script', command: 'aegis backups configs delete etc --yes' },
  ];
  static override args = { name: configArg };
  static override flags = { yes: Flags.boolean({ char: 'y', summary: 'Do not ask' }), ...serverFlags };

  async run(): Promise<undefined> {
    const { flags, args } = await this.parse(BackupsConfigsDelete);
    await confirmed(this.around.output, flags.yes, `Delete the configuration ${plainText(args.name)}?`);
    await this.withApi(flags, async (api) => {
      const config = await api.call(routes.deleteConfig, { params: { id: args.name } });
      if (flags.json) return await this.printJson(config);
      const where = plainText(destinationText(config.destination));
      await this.print(`${plainText(config.name)} is deleted; its archives stay in ${where}\n`);
      const note = await signingNote(flags, this.around, config.config_id);
      if (note) await this.note(note);
    });
  }
}
