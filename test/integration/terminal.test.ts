import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { waitFor } from '../faults/wait.ts';
import { aegis, cleanEnv, type Fleet, startFleet } from '../fleet/fleet.ts';

/** The live view as a person has it: a real terminal (tmux), five daemons, whole screens. */

let fleet: Fleet;
let terminal: Terminal;
beforeAll(async () => {
  fleet = await startFleet({ nodes: 5, direct: true });
  writeFileSync(join(fleet.folder, 'upgrade'), UPGRADE, { mode: 0o755 });
  terminal = openTerminal(fleet);
});
afterAll(async () => {
  terminal?.close();
  await fleet?.[Symbol.asyncDispose]();
});

/** Each node has something else to say; web-1 and web-5 go on until their file is there. */
const UPGRADE = `#!/bin/sh
case $AEGIS_NODE in
web-1) echo 'Reading package lists... Done'; echo 'Unpacking nginx (1.22.1-9+deb12u2) over (1.22.1-9+deb12u1) ...' ;;
web-2) echo 'Processing triggers for libc-bin (2.36-9+deb12u10) ...'; exit ;;
web-3) echo 'E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 1203 (apt)' >&2; exit 100 ;;
web-4) echo '0 upgraded, 0 newly installed.'; exit ;;
web-5) printf 'Progress: [ 10%%]\\rProgress: [ 64%%]' ;;
esac
while [ ! -e "$1" ]; do sleep 0.05; done
echo
echo 'done'
`;

interface Terminal {
  type(keys: string, ...more: string[]): void;
  resize(columns: number, lines: number): void;
  /** The lines that are not empty, with every duration as `~`. */
  screen(): string[];
  /** Waits for it. */
  shows(lines: readonly (string | undefined)[]): Promise<void>;
  /** What an application could leave behind. */
  modes(): string;
  close(): void;
}

const openTerminal = ({ folder, url, token }: Fleet): Terminal => {
  const env = cleanEnv(folder, { TERM: 'xterm-256color', AEGIS_SERVER: url, AEGIS_TOKEN: token });
  const path = `${dirname(aegis)}:${env.PATH}`;
  const tmux = (...argv: string[]) =>
    execFileSync('tmux', ['-u', '-f', '/dev/null', '-S', join(folder, 'tmux.sock'), ...argv], {
      encoding: 'utf8',
      env: { ...env, PATH: path },
    });
  tmux('new-session', '-d', '-x', '80', '-y', '24', '-c', folder, 'sh');
  tmux('set-option', '-g', 'status', 'off');
  tmux('resize-window', '-x', '80', '-y', '24');
  const screen = () =>
    tmux('capture-pane', '-p', '-J') // lines that the terminal wrapped as one
      .split('\n')
      .map((line) => line.trimEnd())
      .filter((line) => line !== '')
      .map((line) => line.replace(/ +(\d+\/\d+ ended) +[\d.]+s$/, ' … $1'))
      .map((line) => line.replaceAll(/ +[\d.]+m?s(?= |$)/g, (took) => '~'.padStart(took.length)))
      // The closing table is as wide as its longest duration, so on a slow machine it has other gaps.
      .map((line) => (/^(NODE {3}STATE {6}|web-\d {2})/.test(line) ? line.replaceAll(/ {2,}/g, '  ') : line));
  return {
    type: (...keys) => void tmux('send-keys', ...keys),
    resize: (columns, lines) => void tmux('resize-window', '-x', String(columns), '-y', String(lines)),
    screen,
    shows: async (lines) => {
      let last: string[] = [];
      const same = () => {
        last = screen();
        return JSON.stringify(last) === JSON.stringify(lines);
      };
      await waitFor('the screen', same, 10_000).catch(() => expect(last).toEqual(lines));
    },
    modes: () =>
      tmux(
        'display-message',
        '-p',
        'alternate #{alternate_on} cursor #{cursor_flag} keypad #{keypad_flag} application #{keypad_cursor_flag} mouse #{mouse_any_flag} wrap #{wrap_flag} insert #{insert_flag}',
      ).trim(),
    close: () => void tmux('kill-server'),
  };
};

const CLEAN = 'alternate 0 cursor 1 keypad 0 application 0 mouse 0 wrap 1 insert 0';
const VIEW_80 = [
  './upgrade now … 2/5 ended',
  'NODE    STATE          TIME LAST LINE',
  'web-1 ▸ running           ~ Unpacking nginx (1.22.1-9+deb12u2) over (1.22.1-9+d…',
  'web-2 ✔ succeeded         ~ Processing triggers for libc-bin (2.36-9+deb12u10) …',
  'web-3 ✖ failed 100        ~ E: Could not get lock /var/lib/dpkg/lock-frontend. …',
  'web-4 · queued',
  'web-5 ▸ running           ~ Progress: [ 64%]',
  '2 running, 1 succeeded, 1 failed, 1 queued  (Ctrl-C: cancel or detach)',
];
const VIEW_50 = [
  './upgrade now … 2/5 ended',
  'NODE    STATE          TIME LAST LINE',
  'web-1 ▸ running           ~ Unpacking nginx (1.22…',
  'web-2 ✔ succeeded         ~ Processing triggers f…',
  'web-3 ✖ failed 100        ~ E: Could not get lock…',
  'web-4 · queued',
  'web-5 ▸ running           ~ Progress: [ 64%]',
  '2 running, 1 succeeded, 1 failed, 1 queued  (Ctrl…',
];
const QUESTION = [...VIEW_80.slice(0, -1), 'c: cancel  d: detach  Enter: go on'];

beforeAll(async () => {
  terminal.type("PS1='$ '; stty -a >before", 'Enter'); // dash gives root another prompt whatever the environment says
});
beforeEach(async () => {
  await fleet.nodes[3]?.daemon.stop();
  terminal.resize(80, 24);
  terminal.type('clear', 'Enter');
  await terminal.shows(['$']);
});
afterEach(async () => {
  terminal.type('clear; stty -a >after; echo clean', 'Enter');
  await terminal.shows(['clean', '$']);
  expect(readFileSync(join(fleet.folder, 'after'), 'utf8')).toBe(readFileSync(join(fleet.folder, 'before'), 'utf8'));
  expect(terminal.modes()).toBe(CLEAN);
});

/** What stands on the screen before the view must stand there after it. */
const typed = (file: string) => `aegis submit -t all --cwd $PWD -- ./upgrade ${file}; echo exit $?`;
const submit = (file: string): void => terminal.type(typed(file), 'Enter');
const idOnScreen = () => /aegis logs (?:-f )?([0-9a-f-]{36})/.exec(terminal.screen().join('\n'))?.[1] ?? '';

test('eighty columns, a resize, a question that is declined, and the end', async () => {
  submit('now');
  await terminal.shows(VIEW_80);
  terminal.resize(50, 12);
  await terminal.shows(VIEW_50);
  terminal.resize(80, 24);
  await terminal.shows(VIEW_80);
  terminal.type('C-c');
  await terminal.shows(QUESTION);
  terminal.type('Enter');
  await terminal.shows(VIEW_80);
  await fleet.nodes[3]?.daemon.start();
  writeFileSync(join(fleet.folder, 'now'), '');
  await waitFor('the prompt', () => terminal.screen().at(-1) === '$', 10_000);
  await terminal.shows([
    `$ ${typed('now')}`,
    'NODE  STATE  EXIT  TIME  NOTE',
    'web-1  succeeded  0  ~',
    'web-2  succeeded  0  ~',
    'web-3  failed  100  ~',
    'web-4  succeeded  0  ~',
    'web-5  succeeded  0  ~',
    `4 of 5 succeeded. Output again: aegis logs ${idOnScreen()}`,
    'exit 1',
    '$',
  ]);
});

const named = (view: readonly string[], file: string) =>
  view.map((line) => line.replace('./upgrade now', `./upgrade ${file}`));

test('Ctrl-C and c end it everywhere, also where it has not begun', async () => {
  submit('never');
  await terminal.shows(named(VIEW_80, 'never'));
  terminal.type('C-c');
  await terminal.shows(named(QUESTION, 'never'));
  terminal.type('c');
  await waitFor('the prompt', () => terminal.screen().at(-1) === '$', 10_000);
  await terminal.shows([
    `$ ${typed('never')}`,
    'NODE  STATE  EXIT  TIME  NOTE',
    'web-1  cancelled  SIGTERM  ~',
    'web-2  succeeded  0  ~',
    'web-3  failed  100  ~',
    'web-4  cancelled',
    'web-5  cancelled  SIGTERM  ~',
    `1 of 5 succeeded. Output again: aegis logs ${idOnScreen()}`,
    'exit 130',
    '$',
  ]);
});

test('a second Ctrl-C lets go: the terminal is free at once and the command goes on', async () => {
  submit('later');
  await terminal.shows(named(VIEW_80, 'later'));
  terminal.type('C-c', 'C-c');
  await waitFor('the prompt', () => terminal.screen().at(-1) === '$', 10_000);
  const id = idOnScreen();
  await terminal.shows([
    `$ ${typed('later')}`,
    `aegis: let go of the command; it goes on. Follow it again: aegis logs -f ${id}`,
    'exit 130',
    '$',
  ]);
  writeFileSync(join(fleet.folder, 'later'), '');
  const states = async () => {
    const { body } = await fleet.api.call('GET', `/api/v1/commands/${id}`);
    return (body as { result: Record<string, number> }).result;
  };
  await waitFor('what was running to end', async () => (await states()).succeeded === 3);
  expect(await states()).toEqual({ succeeded: 3, failed: 1, queued: 1 });
});
