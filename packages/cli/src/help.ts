import type { AegisError } from '@aegis/protocol/errors';
import { VERSION } from '@aegis/protocol/version';
import type { Command } from '@oclif/core/command';
import { CommandHelp } from '@oclif/core/help';
import { COMMANDS, findCommand, GROUPS, type Group, TOPICS, wordsOf } from './command-table.ts';
import { type AegisConfig, loadCommand } from './oclif.ts';

/** The manual: `aegis --help`, a topic's page, a command's page. Plain text, 80 columns, so that it reads the same through a pager. */

const WIDTH = 80;

const listed = (rows: readonly (readonly [string, string])[], width: number): string =>
  rows.map(([left, right]) => `  ${left.padEnd(width)}  ${right}`).join('\n');

const groupText = (group: Group, width: number): string => {
  const rows = Object.entries(COMMANDS)
    .filter(([, entry]) => entry.group === group)
    .map(([id, { summary }]) => [wordsOf(id), summary] as const);
  return `${GROUPS[group]}\n${listed(rows, width)}`;
};

const rootText = (): string => {
  const width = Math.max(...Object.keys(COMMANDS).map((id) => id.length));
  return `aegis ${VERSION}: run commands on a fleet of machines, and get every byte back

USAGE
  aegis COMMAND [FLAGS]
  aegis COMMAND --help

${(Object.keys(GROUPS) as Group[]).map((group) => groupText(group, width)).join('\n\n')}

GETTING STARTED
  aegis server start --dev                          a server to try things out
  aegis daemon start --server http://127.0.0.1:8080 --data-dir /tmp/n1 \\
      --name n1 --insecure-dev                      this machine as its node
  aegis submit --target n1 -- uptime                run something there

ENVIRONMENT
  AEGIS_SERVER      URL of the server (default: the context in use, else
                    http://127.0.0.1:8080)
  AEGIS_TOKEN       operator token; never give one on the command line
  AEGIS_CONTEXT     context to use, see 'aegis context list'
  AEGIS_TLS_CA      certificate authority to trust beside the system's (PEM)
  AEGIS_JOIN_TOKEN  join token for 'register' and 'daemon start'
  AEGIS_DATA_DIR    holds the directories server/ and daemon/
  NO_COLOR          no colours

EXIT CODES
  0 done, 1 failed, 2 wrong usage. 'submit' answers with the remote exit code;
  its own codes are in 'aegis submit --help'.

Every command takes --json (docs/cli-json.md) and --help.
`;
};

/** How a topic's commands go together, where their names do not say it. */
const STORIES: Readonly<Record<string, string>> = {
  artifacts: `
FROM C TO THE KERNEL
  aegis artifacts init block-icmp && make -C block-icmp
  aegis artifacts pack block-icmp
  aegis artifacts sign block-icmp-1.0.0.tar.zst --key release.key
  aegis artifacts push block-icmp-1.0.0.tar.zst
  aegis assign --wait --set target_ip=192.0.2.9 block-icmp NODE
  aegis artifacts status --watch
  aegis unassign --wait block-icmp NODE

  The key: 'aegis access keys create', once. The guide: docs/artifacts.md.
`,
  backups: `
A FIRST BACKUP
  aegis backups configs create etc --source /etc --to file:///var/backups \\
      --node NODE --schedule @daily --keep-daily 7
  aegis backups run etc --node NODE --follow
  aegis backups list
  aegis nodes trust NODE
  aegis backups restore latest:etc@NODE --node NODE --target /tmp/etc

  To S3, encrypted, and without Aegis: docs/backups.md.
`,
};

const topicText = (topic: string): string => {
  const rows = Object.entries(COMMANDS)
    .filter(([id]) => id === topic || id.startsWith(`${topic}:`))
    .map(([id, { summary }]) => [wordsOf(id), summary] as const);
  const width = Math.max(...rows.map(([words]) => words.length));
  const story = STORIES[topic] ?? '';
  return `${TOPICS[topic] ?? ''}\n\nUSAGE\n  aegis ${wordsOf(topic)} COMMAND [FLAGS]\n\nCOMMANDS\n${listed(rows, width)}\n${story}\nSee 'aegis ${wordsOf(topic)} COMMAND --help' for each.\n`;
};

/** oclif's page for one command, from the class itself. */
const commandText = async (config: AegisConfig, id: string): Promise<string> => {
  const command = await loadCommand(id);
  const flags = Object.fromEntries(
    Object.entries({ ...command.flags, ...command.baseFlags }).map(([name, flag]) => [name, { ...flag, name }]),
  );
  const args = Object.fromEntries(Object.entries(command.args).map(([name, arg]) => [name, { ...arg, name }]));
  const { description, examples, usage, strict, summary } = command;
  const cached = {
    id: wordsOf(id),
    description,
    examples,
    usage,
    strict,
    flags,
    args,
    aliases: [],
    hiddenAliases: [],
    hidden: false,
  };
  const page = new CommandHelp(cached as unknown as Command.Loadable, config, {
    maxWidth: WIDTH,
    stripAnsi: true,
    flagSortOrder: 'none',
  });
  return `${summary}\n\n${page.generate()}\n`;
};

const subjectOf = (argv: readonly string[]): string[] => {
  const words = argv.filter((word) => word !== '--help' && word !== '-h');
  if (words[0] === 'help') words.shift();
  return words;
};

/** Whatever `--help` or `help` was asked about. */
export const showHelp = async (config: AegisConfig, argv: readonly string[]): Promise<number> => {
  const words = subjectOf(argv);
  const { output } = config.surroundings;
  if (words.length === 0 || words[0]?.startsWith('-')) await output.out(rootText());
  else {
    const topic = topicOf(words);
    const found = findCommand(words);
    if (found) await output.out(await commandText(config, found.id));
    else if (topic) await output.out(topicText(topic));
    else return await showTopic(config, words, (await import('./usage-errors.ts')).unknownCommand);
  }
  return 0;
};

const topicOf = (words: readonly string[]): string | null => {
  const id = words.join(':');
  return Object.hasOwn(TOPICS, id) ? id : null;
};

/** A topic without a command is a question about it; anything else is a mistake. */
export const showTopic = async (
  config: AegisConfig,
  argv: readonly string[],
  unknown: (argv: readonly string[]) => AegisError,
): Promise<number> => {
  const topic = topicOf(argv);
  if (topic === null) throw unknown(argv);
  await config.surroundings.output.out(topicText(topic));
  return 0;
};
