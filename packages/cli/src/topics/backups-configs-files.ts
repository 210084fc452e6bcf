import type { BackupSpec, Credentials } from '@aegis/protocol/backups/config';
import type { ConfigAnswer } from '@aegis/protocol/backups/endpoints';
import { AegisError } from '@aegis/protocol/errors';
import * as Flags from '@oclif/core/flags';
import type { Api } from '../api/client.ts';
import { routes } from '../api/routes.ts';
import { credentialsOf } from '../backups/credentials.ts';
import { ServerCommand, serverFlags } from '../base-command.ts';
import { keyFlags, operatorSigner } from '../signing/operator-key.ts';
import { plainText } from '../ui/plain-text.ts';
import { answerText, changeFlags, credentialFlags } from './backups-configs.ts';

/** What of a file differs from the server, as `diff` says by its exit code. Not 1: that means failed. */
const DIFFERS = 3;

const FILES =
  "A file is TOML or JSON and holds one configuration, or several under 'configs' (deploy/examples/backup.toml has every field). Fields that are not there have their defaults; a field that nobody knows is refused.";

interface Planned {
  file: string;
  spec: BackupSpec;
  answer: ConfigAnswer;
  /** Of the configuration that was compared; null: there is none of this name yet. */
  revision: number | null;
}

/** What goes with each of them. */
interface Given {
  probe: boolean;
  credentials: Credentials | undefined;
}
const keyFor = ({ spec }: Planned, { credentials }: Given): Credentials | null =>
  credentials && spec.destination.kind === 's3' ? credentials : null;

/** Every configuration of every file, compared with the server; nothing is changed. */
const planOf = async (api: Api, files: readonly string[]): Promise<Planned[]> => {
  const { specsIn } = await import('../backups/spec-file.ts');
  const { readSpecFile } = await import('../backups/edit-spec.ts');
  const wanted = files.flatMap((file) => specsIn(readSpecFile(file), file).map((spec) => ({ file, spec })));
  const twice = wanted.find(({ spec }, index) => wanted.findIndex((one) => one.spec.name === spec.name) !== index);
  if (twice)
    throw new AegisError(
      'backups.bad_config',
      `'${twice.spec.name}' stands in more than one place; the other one is in ${plainText(twice.file)}. Decide for one.`,
    );
  const planned: Planned[] = [];
  for (const { file, spec } of wanted) {
    try {
      const revision = await revisionOf(api, spec.name);
      const answer = await api.call(routes.putConfig, {
        params: { id: spec.name },
        body: { spec, probe: false, dry_run: true },
      });
      planned.push({ file, spec, answer, revision });
    } catch (error) {
      if (!(error instanceof AegisError) || files.length === 1) throw error;
      throw new AegisError(error.code, `${file}: ${error.message}`, { details: error.details, cause: error });
    }
  }
  return planned;
};

const revisionOf = async (api: Api, name: string): Promise<number | null> => {
  try {
    return (await api.call(routes.showConfig, { params: { id: name } })).revision;
  } catch (error) {
    if (error instanceof AegisError && error.code === 'backups.unknown_config') return null;
    throw error;
  }
};

export class BackupsConfigsApply extends ServerCommand {
  static override description =
    `Makes configurations be as files say: creates what is not there, changes what differs, and shows each difference. What is equal is left alone. First all files are read and compared, and their destinations tried; when one is refused, nothing is changed. ${FILES}

Exit code: 0 when all is as the files say, 1 failed, 2 a bad file or wrong usage; with --dry-run 0 when nothing would change and 3 when something would.`;
  static override usage = ['backups configs apply FILE... [FLAGS]'];
  static override examples = [
    { description: 'What would change', command: 'aegis backups configs apply backups/*.toml --dry-run' },
    { description: 'Do it', command: 'aegis backups configs apply backups/*.toml' },
    {
      description: 'From a generator, with the key from the environment',
      command: 'make-config | aegis backups configs apply - --credentials-from-env',
    },
  ];
  static override strict = false;
  static override flags = { ...credentialFlags, ...changeFlags, ...keyFlags, ...serverFlags };

  async run(): Promise<number | undefined> {
    const { flags, argv } = await this.parse(BackupsConfigsApply);
    const files = filesOf(argv);
    const credentials = credentialsOf(flags, this.around.env);
    return await this.withApi(flags, async (api) => {
      const planned = await planOf(api, files);
      if (flags['dry-run']) return await this.show(planned, flags.json);
      const signer = await operatorSigner(api, flags, this.around);
      const { refuseUnsignable, signConfig } = await import('../signing/config-wishes.ts');
      for (const { spec } of planned) await refuseUnsignable(signer, spec);
      const given: Given = { probe: flags.probe, credentials };
      const wanted = planned.filter((plan) => plan.answer.changed || keyFor(plan, given) !== null);
      // One by itself is stored whole or not at all. Of several none may be stored when another's destination is refused.
      if (wanted.length > 1) for (const plan of wanted) await this.put(api, plan, given, true);
      const done: Planned[] = [];
      for (const plan of planned) {
        const answer = wanted.includes(plan) ? await this.put(api, plan, given, false) : plan.answer;
        const { spec, revision } = plan;
        await signConfig(api, signer, answer, { spec, created: revision === null }, this.around.now());
        done.push({ ...plan, answer });
        if (!flags.json) await this.print(planText(done.at(-1) ?? plan, false));
      }
      if (flags.json) await this.printJson({ configs: done.map(planJson) });
      return undefined;
    });
  }

  /** @param trial the destination is tried, and nothing stored */
  private async put(api: Api, plan: Planned, given: Given, trial: boolean): Promise<ConfigAnswer> {
    const { file, spec, revision } = plan;
    const key = keyFor(plan, given);
    const body = {
      spec,
      probe: given.probe,
      ...(trial ? { dry_run: true } : {}),
      ...(revision === null ? {} : { if_revision: revision }),
      ...(key === null ? {} : { credentials: key }),
    };
    try {
      return await api.call(routes.putConfig, { params: { id: spec.name }, body });
    } catch (error) {
      if (!trial || !(error instanceof AegisError)) throw error;
      const message = `${plainText(file)}: '${spec.name}': ${error.message} Nothing was changed.`;
      throw new AegisError(error.code, message, { details: error.details, cause: error });
    }
  }

  private async show(planned: readonly Planned[], json: boolean): Promise<number> {
    if (json) await this.printJson({ dry_run: true, configs: planned.map(planJson) });
    else await this.print(planned.map((plan) => planText(plan, true)).join(''));
    return planned.some(({ answer }) => answer.changed) ? DIFFERS : 0;
  }
}

const planText = ({ answer, revision }: Planned, dryRun: boolean): string =>
  answerText(answer, dryRun, revision === null);
const planJson = ({ file, answer, revision }: Planned) => ({ file, created: revision === null, ...answer });

const filesOf = (argv: readonly unknown[]): string[] => {
  const files = argv.map(String);
  if (files.length === 0) throw new AegisError('cli.usage', 'Name at least one file (-: standard input).');
  return files;
};

export class BackupsConfigsDiff extends ServerCommand {
  static override description =
    `Shows how files differ from the server's configurations, as 'apply --dry-run' does: '+' would be new, '-' would go, '~' would be another. ${FILES}

Exit code: 0 when nothing differs, 3 when something does, 1 failed, 2 a bad file or wrong usage.`;
  static override usage = ['backups configs diff FILE... [FLAGS]'];
  static override examples = [
    { description: 'One file', command: 'aegis backups configs diff etc.toml' },
    {
      description: 'Whether anybody changed something by hand',
      command: 'aegis backups configs diff backups/*.toml || echo differs',
    },
  ];
  static override strict = false;
  static override flags = {
    quiet: Flags.boolean({ char: 'q', summary: 'Say nothing: the exit code tells' }),
    ...serverFlags,
  };

  async run(): Promise<number> {
    const { flags, argv } = await this.parse(BackupsConfigsDiff);
    const files = filesOf(argv);
    return await this.withApi(flags, async (api) => {
      const planned = await planOf(api, files);
      const differing = planned.filter(({ answer }) => answer.changed);
      if (flags.json) await this.printJson({ configs: planned.map(planJson) });
      else if (!flags.quiet) await this.print(differing.map((plan) => planText(plan, true)).join(''));
      return differing.length > 0 ? DIFFERS : 0;
    });
  }
}
