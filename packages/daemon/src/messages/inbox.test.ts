import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AegisError } from '@aegis/protocol/errors';
import { noFaultPoints } from '@aegis/protocol/fault-points';
import { expect, onTestFinished, test, vi } from 'vitest';
import { settled } from '../../../../test/faults/settled.ts';
import { requireMessages } from '../access/policy.ts';
import { migrations } from '../migrations.ts';
import { openJournal } from '../platform/journal/journal.ts';
import { silentLog } from '../platform/log.ts';
import type { MessageHook } from './hook.ts';
import { inbox } from './inbox.ts';
import { messagesRepository } from './repository.ts';

/** Messages with a real journal and real hooks. */

const hookOf = (script: string, more: Partial<MessageHook> = {}): MessageHook => ({
  argv: ['/bin/sh', '-c', script],
  timeout_sec: 60,
  max_output_bytes: 1024,
  ...more,
});
const place = (): string => {
  const folder = mkdtempSync(join(tmpdir(), 'aegis-inbox-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  return folder;
};
const linesOf = (path: string): string[] => readFileSync(path, 'utf8').trim().split('\n');
const stage = (hooks: Record<string, MessageHook>, more: { requireAllowed?: () => void } = {}) => {
  const folder = place();
  const clock = { ms: Date.now(), now: () => clock.ms, monotonic: () => performance.now() };
  const open = () => {
    const journal = openJournal({
      path: join(folder, 'journal.db'),
      migrations,
      faults: noFaultPoints,
      maxBytes: 64 * 1024 * 1024,
    });
    onTestFinished(() => journal.close());
    const taking = inbox({
      hooks,
      repository: messagesRepository(journal),
      nodeName: 'web-1',
      notes: join(folder, 'notes'),
      requireAllowed: more.requireAllowed ?? (() => undefined),
      clock,
      log: silentLog(),
    });
    return { ...taking, journal };
  };
  const given = (id: string, message: object = {}, ttlMs = 3_600_000) => ({
    message_id: id,
    message_type: 'request',
    message,
    expires_at: new Date(clock.ms + ttlMs).toISOString(),
  });
  return { folder, clock, open, given };
};
const codeOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'none',
    (error: unknown) => (error instanceof AegisError ? error.code : String(error)),
  );

test('the message comes on standard input, the reply is standard output, and the surroundings are few', async () => {
  vi.stubEnv('AEGIS_JOIN_TOKEN', 'secret');
  onTestFinished(() => void vi.unstubAllEnvs());
  const { open, given } = stage({ 'my.channel': hookOf('cat; echo; pwd; env | sort') });
  const { reply } = await open().take('my.channel', given('m-1', { say: "it's $HOME" }));
  expect(reply?.split('\n').filter((line) => !/^(PWD|SHLVL|_|OLDPWD)=/.test(line))).toEqual([
    `{"say":"it's $HOME"}`,
    '/',
    'AEGIS_CHANNEL=my.channel',
    'AEGIS_MESSAGE_ID=m-1',
    'AEGIS_MESSAGE_TYPE=request',
    'AEGIS_NODE=web-1',
    'LANG=C.UTF-8',
    'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    '',
  ]);
});

test('replies are text or base64, and bounded', async () => {
  const { open, given } = stage({
    text: hookOf('printf ä'),
    bytes: hookOf("printf '\\377'"),
    long: hookOf('head -c 100000 /dev/zero | tr "\\0" x', { max_output_bytes: 10 }),
    cut: hookOf('printf ää', { max_output_bytes: 3 }),
    none: hookOf('cat >/dev/null; echo lost', { max_output_bytes: 0 }),
    deaf: hookOf('exec <&-; echo done'),
    control: hookOf("printf '\\0\\0\\0\\0'"),
  });
  const { take } = open();
  const replies = [];
  for (const channel of ['text', 'bytes', 'long', 'cut', 'none', 'deaf', 'control'])
    replies.push(await take(channel, given(`m-${channel}`, { more: 'x'.repeat(200_000) })));
  expect(replies).toEqual([
    { reply: 'ä' },
    { reply: '/w==', encoding: 'base64' },
    { reply: 'xxxxxxxxxx', truncated: true },
    { reply: 'ä', truncated: true },
    { reply: '', truncated: true },
    { reply: 'done\n' },
    { reply: 'AAAAAA==', encoding: 'base64' },
  ]);
});

test('a hook that fails, in whatever way, says how', async () => {
  const { open, given } = stage({
    exits: hookOf('echo why >&2; exit 3'),
    dies: hookOf('kill -9 $$'),
    lasts: hookOf('sleep 60', { timeout_sec: 1 }),
    missing: hookOf('', { argv: ['/no/such/program'] }),
    nobody: hookOf('true', { user: 'no-such-user' }),
  });
  const { take } = open();
  const said = await Promise.all(
    ['exits', 'dies', 'lasts', 'missing', 'nobody'].map((channel) =>
      take(channel, given(`m-${channel}`)).catch((error: AegisError) => [error.code, error.message]),
    ),
  );
  const by = 'Run it by hand on the node to see why.';
  expect(said).toEqual([
    ['messages.hook_failed', `The hook of 'exits' exited with 3: why. ${by}`],
    ['messages.hook_failed', `The hook of 'dies' was ended by SIGKILL. ${by}`],
    ['messages.hook_failed', `The hook of 'lasts' was stopped after 1 s. ${by}`],
    [
      'messages.hook_failed',
      `The command '/no/such/program' cannot be started (ENOENT): see that it is there and may be run. ${by}`,
    ],
    [
      'messages.hook_failed',
      `There is no user 'no-such-user' on this node: make it, or name another in the hook. ${by}`,
    ],
  ]);
});

test('a message that comes again does not run its hook again: neither beside it, nor later, nor after a restart', async () => {
  const folder = place();
  const script = (channel: string) => `echo run >>${folder}/${channel}; sleep 0.1; echo $$`;
  const again = stage({ count: hookOf(script('count')), fails: hookOf(`${script('fails')}; exit 1`) });
  const { given } = again;
  const first = again.open();
  const [one, two] = await Promise.all([first.take('count', given('m')), first.take('count', given('m'))]);
  expect(one).toEqual(two);
  expect(await first.take('count', given('m'))).toEqual(one);
  expect(await codeOf(first.take('fails', given('f')))).toBe('messages.hook_failed');
  await first.stop(1000);
  first.journal.close();
  const second = again.open();
  expect(await second.take('count', given('m'))).toEqual(one);
  expect(await codeOf(second.take('fails', given('f')))).toBe('messages.hook_failed');
  expect([linesOf(join(folder, 'count')), linesOf(join(folder, 'fails'))]).toEqual([['run'], ['run']]);
});

test('a hook that ended is not run again when its end cannot be journaled: only that is tried again, and nothing new is taken', async () => {
  const folder = place();
  const { open, given } = stage({
    good: hookOf(`echo run >>${folder}/good; echo done`),
    bad: hookOf(`echo run >>${folder}/bad; exit 1`),
    other: hookOf(`echo run >>${folder}/other; echo other`),
  });
  const { take, journal } = open();
  journal.db.exec("CREATE TRIGGER no_end BEFORE UPDATE ON messages BEGIN SELECT RAISE(ABORT, 'the disk is full'); END");
  const first = ['good', 'bad'].map((channel) => codeOf(take(channel, given(channel))));
  for (const code of await Promise.all(first)) expect(code).toMatch(/journal/);
  expect(await codeOf(take('good', given('good')))).toMatch(/journal/);
  expect(await codeOf(take('other', given('other')))).toMatch(/journal/);
  journal.db.exec('DROP TRIGGER no_end');
  expect(await take('good', given('good'))).toEqual({ reply: 'done\n' });
  expect(await codeOf(take('bad', given('bad')))).toBe('messages.hook_failed');
  expect(await take('other', given('other'))).toEqual({ reply: 'other\n' });
  for (const name of ['good', 'bad', 'other']) expect(linesOf(join(folder, name))).toEqual(['run']);
});

test('what could not be journaled holds up nothing when it does not come again, and is tried once more at a stop', async () => {
  const folder = place();
  const { open, given } = stage({ x: hookOf(`echo run >>${folder}/runs; echo done`), y: hookOf('echo other') });
  const first = open();
  const full = () =>
    first.journal.db.exec(
      "CREATE TRIGGER no_end BEFORE UPDATE ON messages BEGIN SELECT RAISE(ABORT, 'the disk is full'); END",
    );
  full();
  expect(await codeOf(first.take('x', given('lost')))).toMatch(/journal/);
  first.journal.db.exec('DROP TRIGGER no_end');
  expect(await first.take('y', given('next'))).toEqual({ reply: 'other\n' });
  full();
  expect(await codeOf(first.take('x', given('last')))).toMatch(/journal/);
  first.journal.db.exec('DROP TRIGGER no_end');
  await first.stop(1000);
  first.journal.close();
  const second = open();
  for (const id of ['lost', 'last']) expect(await second.take('x', given(id))).toEqual({ reply: 'done\n' });
  expect(linesOf(join(folder, 'runs'))).toEqual(['run', 'run']);
});

test('a message whose hook was cut off by a stop is given to it again', async () => {
  const folder = place();
  const at = stage({ slow: hookOf(`cd ${folder}; echo run >>runs; [ -e go ] || sleep 60; echo done`) });
  const { given } = at;
  const first = at.open();
  const cut = codeOf(first.take('slow', given('m')));
  await settled(() => expect(linesOf(join(folder, 'runs'))).toEqual(['run']));
  await first.stop(10);
  expect(await cut).toBe('http.unavailable');
  first.journal.close();
  writeFileSync(join(folder, 'go'), '');
  expect(await at.open().take('slow', given('m'))).toEqual({ reply: 'done\n' });
  expect(linesOf(join(folder, 'runs'))).toEqual(['run', 'run']);
});

test('one channel goes one after the other, others beside it; too many at once are put off', async () => {
  const folder = place();
  const { open, given } = stage({
    one: hookOf(`read line; echo "begin $line" >>${folder}/log; sleep 0.05; echo "end $line" >>${folder}/log`),
    two: hookOf('echo at once'),
    gate: hookOf(`until [ -e ${folder}/go ]; do sleep 0.02; done`),
  });
  const { take } = open();
  const ordered = ['a', 'b', 'c'].map((id) => take('one', given(id, { id })));
  expect(await take('two', given('d'))).toEqual({ reply: 'at once\n' });
  await Promise.all(ordered);
  expect(readFileSync(join(folder, 'log'), 'utf8')).toBe(
    ['a', 'b', 'c'].map((id) => `begin {"id":"${id}"}\nend {"id":"${id}"}\n`).join(''),
  );
  const held = Array.from({ length: 20 }, (_, n) => codeOf(take('gate', given(`g-${n}`))));
  expect(await held[16]).toBe('http.rate_limited');
  writeFileSync(join(folder, 'go'), '');
  const codes = await Promise.all(held);
  expect(codes.filter((code) => code === 'none')).toHaveLength(16);
});

test('who drains takes nothing new, and answers what it knows', async () => {
  const { open, given } = stage({ x: hookOf('echo done') });
  const { take, drain } = open();
  await take('x', given('m'));
  drain(true);
  expect(await codeOf(take('x', given('n')))).toBe('http.unavailable');
  expect(await take('x', given('m'))).toEqual({ reply: 'done\n' });
  drain(false);
  expect(await take('x', given('n'))).toEqual({ reply: 'done\n' });
});

test('what is remembered is forgotten when it cannot come again, and only then', async () => {
  const folder = place();
  const { clock, open, given } = stage({ x: hookOf(`echo run >>${folder}/runs`) });
  const { take, tidy } = open();
  const first = given('m', {}, 1000);
  await take('x', first);
  clock.ms += 10 * 60_000 + 1000;
  tidy();
  await take('x', first);
  expect(linesOf(join(folder, 'runs'))).toEqual(['run']);
  clock.ms += 1;
  tidy();
  expect(await codeOf(take('x', first))).toBe('messages.expired');
});

test.each([
  ['ids', 20_000, 'null'],
  ['replies', 33, 'hex(zeroblob(524288))'],
])(
  'a node that remembers as many %s as it can takes none until some may go, and answers what it knows',
  async (_, rows, outcome) => {
    const { clock, open, given } = stage({ x: hookOf('echo done') });
    const { take, tidy, journal } = open();
    await take('x', given('known'));
    const until = clock.ms + 60_000;
    journal.db.exec(
      `WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ${rows})
     INSERT INTO messages (id, channel, keep_until_ms, outcome) SELECT 'old-' || n, 'x', ${until}, ${outcome} FROM n`,
    );
    expect(await codeOf(take('x', given('m')))).toBe('http.unavailable');
    expect(await take('x', given('known'))).toEqual({ reply: 'done\n' });
    clock.ms = until + 1;
    tidy();
    expect(await take('x', given('m'))).toEqual({ reply: 'done\n' });
  },
);

test('what is no message, has no hook, or is not allowed here runs nothing', async () => {
  const folder = place();
  const { open, given } = stage(
    { x: hookOf(`touch ${folder}/ran`) },
    {
      requireAllowed: () => {
        throw new AegisError('access.policy', 'not here');
      },
    },
  );
  const { take } = open();
  const bad: unknown[] = [null, 7, [], {}, { ...given('m'), message: 'text' }, { ...given('m'), message_id: '../x' }];
  for (const body of [...bad, { ...given('m'), expires_at: 'soon' }, { ...given('m'), message_type: 'shout' }])
    expect(await codeOf(take('x', body))).toBe('http.malformed');
  expect(await codeOf(take('y', given('m')))).toBe('channel.no_handler');
  expect(await codeOf(take('toString', given('m')))).toBe('channel.no_handler');
  expect(await codeOf(take('x', given('m')))).toBe('access.policy');
  expect(readdirSync(folder)).toEqual([]);
});

test.each([
  [{ obey: 'server' }, 'none'],
  [{ obey: 'operators' }, 'access.policy'],
  [{ obey: { threshold: 2 } }, 'access.policy'],
  [{ obey: 'operators', messages: { obey: 'server' } }, 'none'],
  [{ obey: 'server', messages: { obey: 'operators' } }, 'access.policy'],
] as const)('under the policy %o: %s', async (policy, code) => {
  const { open, given } = stage({ x: hookOf('true') }, { requireAllowed: () => requireMessages(policy) });
  expect(await codeOf(open().take('x', given('m')))).toBe(code);
});

test('a hook runs as the user that it names, without groups of the daemon', async () => {
  const { open, given } = stage({ x: hookOf('id -un; id -G; echo $HOME', { user: 'nobody' }) });
  const { reply } = await open().take('x', given('m'));
  expect(reply).toMatch(/^nobody\n\d+\n\/\S+\n$/);
});
