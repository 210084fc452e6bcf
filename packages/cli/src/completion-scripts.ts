import type { CompletedCommand, CompletionTable } from './completion-table.ts';

/** The three completion scripts. Pure text from the table; every word in it is ours, none comes from elsewhere. */

export const SHELLS = ['bash', 'zsh', 'fish'] as const;
export type Shell = (typeof SHELLS)[number];

export const completionScript = (shell: Shell, table: CompletionTable): string => ({ bash, zsh, fish })[shell](table);

const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;
const HELP = '--help';

/** First words, then each topic's next words. */
const nextWords = ({ commands, topics }: CompletionTable): Map<string, { word: string; summary: string }[]> => {
  const next = new Map<string, { word: string; summary: string }[]>();
  const summaries = new Map([...commands, ...topics].map(({ words, summary }) => [words, summary]));
  for (const words of summaries.keys()) {
    const parts = words.split(' ');
    const parent = parts.slice(0, -1).join(' ');
    const known = next.get(parent) ?? [];
    known.push({ word: parts.at(-1) ?? '', summary: summaries.get(words) ?? '' });
    next.set(parent, known);
  }
  next.get('')?.push({ word: 'help', summary: 'Show help' }, { word: 'version', summary: 'Show the version' });
  return next;
};

const flagWords = (command: CompletedCommand): string[] => [...command.flags.flatMap(({ names }) => names), HELP];

const bash = (table: CompletionTable): string => {
  const values = table.commands.flatMap((command) =>
    command.flags
      .filter((flag) => flag.takesValue)
      .map((flag) => {
        const patterns = flag.names.map((name) => quoted(`${command.words} ${name}`)).join(' | ');
        return `    ${patterns}) words=${quoted(flag.values.join(' '))}; takes=1 ;;`;
      }),
  );
  const cases = table.commands.map(
    (command) =>
      `    ${quoted(command.words)}) flags=${quoted(flagWords(command).join(' '))}; words=${quoted(command.values.join(' '))} ;;`,
  );
  const nexts = [...nextWords(table)].map(
    ([parent, words]) => `    ${quoted(parent)}) next=${quoted(words.map(({ word }) => word).join(' '))} ;;`,
  );
  return `# bash completion for aegis; made by 'aegis completion bash'
_aegis() {
  local current=\${COMP_WORDS[COMP_CWORD]} previous=\${COMP_WORDS[COMP_CWORD-1]}
  local command='' word candidate next flags words takes ended i
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=\${COMP_WORDS[i]}
    [[ $word == -- ]] && return
    candidate=\${command:+$command }$word
    _aegis_next "$command"
    if [[ -z $ended && " $next " == *" $word "* ]]; then command=$candidate; else ended=1; fi
  done
  words='' takes=''
  case "$command $previous" in
${values.join('\n')}
  esac
  if [[ -n $takes ]]; then
    if [[ -n $words ]]; then mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current"); else mapfile -t COMPREPLY < <(compgen -f -- "$current"); fi
    return
  fi
  flags='' words=''
  case $command in
${cases.join('\n')}
  esac
  if [[ $current == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "\${flags:---help --version}" -- "$current")
    return
  fi
  _aegis_next "$command"
  mapfile -t COMPREPLY < <(compgen -W "$next $words" -- "$current")
}
_aegis_next() {
  next=''
  case $1 in
${nexts.join('\n')}
  esac
}
complete -F _aegis aegis
`;
};

const zshText = (text: string): string => text.replaceAll(/([[\]:\\])/g, '\\$1').replaceAll("'", "'\\''");

const zsh = (table: CompletionTable): string => {
  const topics = [...nextWords(table)].map(([parent, words]) => {
    const list = words
      .map(({ word, summary }) => `      '${word.replaceAll(':', '\\:')}:${zshText(summary)}'`)
      .join('\n');
    return `    ${quoted(parent)}) next=(\n${list}\n      ) ;;`;
  });
  const commands = table.commands.map((command) => {
    const flags = command.flags.flatMap((flag) =>
      flag.names.map(
        (name) =>
          `'*${name}[${zshText(flag.summary)}]${flag.takesValue ? `:value:${flag.values.length > 0 ? `(${flag.values.join(' ')})` : '_files'}` : ''}'`,
      ),
    );
    const rest = command.values.length > 0 ? `'*:argument:(${command.values.join(' ')})'` : "'*:argument:_files'";
    return `    ${quoted(command.words)}) _arguments ${[...flags, `'${HELP}[Show help]'`, rest].join(' \\\n        ')} ;;`;
  });
  return `#compdef aegis
# zsh completion for aegis; made by 'aegis completion zsh'
_aegis() {
  local command='' word i
  local -a next
  for ((i = 2; i < CURRENT; i++)); do
    word=\${words[i]}
    _aegis_next "$command"
    (( \${\${next%%:*}[(Ie)$word]} )) || break
    command=\${command:+$command }$word
  done
  _aegis_next "$command"
  if [[ \${words[CURRENT]} != -* && i -eq CURRENT && \${#next} -gt 0 ]]; then
    _describe command next
    return
  fi
  case $command in
${commands.join('\n')}
  esac
}
_aegis_next() {
  next=()
  case $1 in
${topics.join('\n')}
  esac
}
if [[ \${funcstack[1]} == _aegis ]]; then _aegis "$@"; else compdef _aegis aegis; fi
`;
};

const fish = (table: CompletionTable): string => {
  const lines = ["# fish completion for aegis; made by 'aegis completion fish'", 'complete -c aegis -f'];
  const seen = (words: string) =>
    words === ''
      ? '__fish_use_subcommand'
      : words
          .split(' ')
          .map((word) => `__fish_seen_subcommand_from ${word}`)
          .join('; and ');
  const fishText = (text: string) => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
  for (const [parent, words] of nextWords(table))
    for (const { word, summary } of words) {
      const others = words.map((one) => one.word).join(' ');
      const condition = parent === '' ? seen('') : `${seen(parent)}; and not __fish_seen_subcommand_from ${others}`;
      lines.push(`complete -c aegis -n ${fishText(condition)} -a ${word} -d ${fishText(summary)}`);
    }
  for (const command of table.commands)
    for (const flag of command.flags) {
      const names = flag.names
        .map((name) => (name.startsWith('--') ? `-l ${name.slice(2)}` : `-s ${name.slice(1)}`))
        .join(' ');
      const value = flag.takesValue
        ? flag.values.length > 0
          ? ` -x -a ${fishText(flag.values.join(' '))}`
          : ' -r'
        : '';
      lines.push(`complete -c aegis -n ${fishText(seen(command.words))} ${names}${value} -d ${fishText(flag.summary)}`);
    }
  return `${lines.join('\n')}\n`;
};
