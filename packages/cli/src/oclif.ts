import { VERSION } from '@aegis/protocol/version';
import type { Command } from '@oclif/core/command';
import { Config } from '@oclif/core/config';
import type { Plugin } from '@oclif/core/interfaces';
import { COMMANDS, type CommandClass, TOPICS } from './command-table.ts';
import type { Surroundings } from './surroundings.ts';

/** oclif without its discovery: the one plugin is made from the static table, so no folder is scanned and no manifest is read. */

export type AegisConfig = Config & { surroundings: Surroundings };

const PACKAGE = {
  name: 'aegis',
  version: VERSION,
  oclif: { bin: 'aegis', dirname: 'aegis', topicSeparator: ' ' as const },
};

/** The class with the table's id and summary: they stand in one place only. */
export const loadCommand = async (id: string): Promise<CommandClass> => {
  const entry = COMMANDS[id];
  if (!entry) throw new RangeError(`no command '${id}'`);
  const command = await entry.load();
  command.id = id;
  command.summary = entry.summary;
  return command;
};

const loadable = (id: string): Command.Loadable => ({
  id,
  summary: COMMANDS[id]?.summary,
  aliases: [],
  hiddenAliases: [],
  hidden: false,
  args: {},
  flags: {},
  load: () => loadCommand(id),
});

export const aegisConfig = async (root: string, surroundings: Surroundings): Promise<AegisConfig> => {
  const plugin: Plugin = {
    _base: '',
    alias: PACKAGE.name,
    commandIDs: Object.keys(COMMANDS),
    commands: Object.keys(COMMANDS).map(loadable),
    commandsDir: undefined,
    findCommand: (id: string) => loadCommand(id),
    hasManifest: false,
    hooks: {},
    isRoot: true,
    load: async () => undefined,
    moduleType: 'commonjs',
    name: PACKAGE.name,
    options: { root },
    pjson: PACKAGE,
    root,
    topics: Object.entries(TOPICS).map(([name, description]) => ({ name, description })),
    type: 'core',
    valid: true,
    version: VERSION,
  };
  const config = await Config.load({ root, pjson: PACKAGE, plugins: new Map([[plugin.name, plugin]]) });
  return Object.assign(config, { surroundings });
};
