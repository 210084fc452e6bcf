import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Execution } from '@aegis/protocol/commands/submission';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { waitFor } from '../faults/wait.ts';
import { bootGuest, type Guest, install } from '../systemd/guest.ts';

/** Both units as installed, under a real systemd in a machine of their own: readiness, hardening, cgroups, and that a command outlives
 *  whatever happens to its daemon. The tests follow one another on one guest. */

const DAEMON = 'aegis-daemon.service';
const SERVER = 'aegis-server.service';
const URL = 'http://127.0.0.1:8080';
const UNIT_CGROUP = `/sys/fs/cgroup/system.slice/${DAEMON}`;

let guest: Guest;
let env: Record<string, string> = {};

beforeAll(async () => {
  guest = await bootGuest();
}, 300_000);
afterAll(async () => {
  await guest?.[Symbol.asyncDispose]();
});

const sh = (script: string) => guest.out(['sh', '-ec', script]);
const property = (unit: string, name: string) => guest.out(['systemctl', 'show', '--value', '-p', name, unit]);
const state = (unit: string) => property(unit, 'ActiveState');
const mainPid = (unit: string) => property(unit, 'MainPID');
const journal = (unit: string) => guest.out(['journalctl', '--no-pager', '-o', 'cat', '-u', unit]);
const aegis = (...argv: string[]) => guest.out(['aegis', ...argv], env);
const json = async <T>(...argv: string[]): Promise<T> => JSON.parse(await aegis(...argv, '--json')) as T;

/** pid → fields of /proc/pid/status. */
const status = async (pid: string): Promise<Record<string, string>> =>
  Object.fromEntries(
    (await guest.out(['cat', `/proc/${pid}/status`])).split('\n').map((line) => {
      const [key = '', value = ''] = line.split(':\t');
      return [key, value.trim()];
    }),
  );

const submit = async (script: string, ...flags: string[]): Promise<string> =>
  (await json<{ command_id: string }>('submit', '--detach', '-t', 'box', ...flags, '--shell', script)).command_id;
const execution = async (id: string): Promise<Execution> => {
  const { executions } = await json<{ executions: Execution[] }>('commands', 'executions', id);
  const [one] = executions;
  if (!one || executions.length > 1) throw new Error(`one execution was expected: ${JSON.stringify(executions)}`);
  return one;
};
/** Waits for its end. Standard output whole. */
const output = async (id: string): Promise<string> => {
  const { out } = await guest.run(['aegis', 'logs', '--follow', id, '--stream', 'stdout'], env);
  return out;
};

test('the hardened server runs as its own user, also on data that root has made', async () => {
  expect(await aegis('server', 'init', '--fleet', 'systemd-test')).toMatch(/^fleet: +systemd-test\n/);
  await guest.out(['systemctl', 'start', SERVER]);
  await waitFor('the server to be healthy', async () => (await guest.run(['aegis', 'server', 'status'])).code === 0);
  const pid = await mainPid(SERVER);
  const uid = await guest.out(['id', '-u', 'aegis']);
  expect(await status(pid)).toMatchObject({
    Uid: [uid, uid, uid, uid].join('\t'),
    NoNewPrivs: '1',
    CapEff: '0000000000000000',
    CapBnd: '0000000000000000',
    Seccomp: '2',
  });
  const within = ['nsenter', '--target', pid, '--mount', '--'];
  expect(await guest.run([...within, 'touch', '/etc/aegis/made'])).toMatchObject({
    code: 1,
    err: expect.stringContaining('Read-only file system'),
  });
  await guest.out([...within, 'touch', '/var/lib/aegis/server/made']);
  // Tokens are made by root while it runs, and the server goes on to work with what root left behind.
  env = { AEGIS_TOKEN: await aegis('server', 'token', '--role', 'admin') };
  await guest.out(['systemctl', 'restart', SERVER]);
  await waitFor('the server to be healthy', async () => (await guest.run(['aegis', 'server', 'status'])).code === 0);
  expect(await sh('find /var/lib/aegis/server ! -user aegis ! -name made')).toBe('');
  expect((await json<{ total: number }>('nodes', 'list')).total).toBe(0);
});

test('systemd waits until the daemon is ready, for a server that is away as well', async () => {
  const joinToken = await aegis('server', 'join-token');
  guest.write('etc/aegis/daemon.env', `AEGIS_SERVER=${URL}\nAEGIS_JOIN_TOKEN=${joinToken}\nAEGIS_NAME=box\n`, 0o600);
  await guest.out(['systemctl', 'stop', SERVER]);
  await guest.out(['systemctl', 'start', '--no-block', DAEMON]);
  await waitFor('the daemon to miss its server', async () => (await journal(DAEMON)).includes('cannot enrol yet'));
  expect(await state(DAEMON)).toBe('activating');
  await guest.out(['systemctl', 'start', SERVER]);
  await guest.out(['systemctl', 'start', DAEMON]); // joins the start that is under way
  expect(await state(DAEMON)).toBe('active');
  expect(await property(DAEMON, 'StatusText')).toBe(`node box, server ${URL}`);
  expect(await json<object>('daemon', 'status')).toMatchObject({ name: 'box', fleet: 'systemd-test' });
  await guest.out(['rm', '/etc/aegis/daemon.env']); // enrolled: it needs none of this any more
});

test('a command can do what a root shell can, and inherits none of the protection of the daemon itself', async () => {
  const script = `
    mkdir -p /root/mounted
    mount -t tmpfs none /root/mounted
    echo seen >/root/mounted/file
    echo seen >/tmp/from-a-command
    install -m 4755 /bin/true /root/setuid
    setpriv --reuid 65534 --clear-groups --no-new-privs true
    unshare --mount --net --pid --fork true
    cat /proc/self/oom_score_adj
    ulimit -Sn
    umask`;
  const id = await submit(script);
  expect(await output(id)).toBe('0\n1024\n0022\n');
  expect(await execution(id)).toMatchObject({ state: 'succeeded', exit_code: 0 });
  expect(await sh('cat /root/mounted/file /tmp/from-a-command; stat -c %a /root/setuid; umount /root/mounted')).toBe(
    'seen\nseen\n4755',
  );
});

test('each execution has a cgroup of its own below the unit; a timeout takes the whole tree', async () => {
  const stubborn = `
    trap '' TERM
    (setsid sh -c 'trap "" TERM; (setsid sleep 1000 &); sleep 1000' &)
    sleep 1000 &
    echo up
    while :; do sleep 1; done`;
  const doomed = await submit(stubborn, '--timeout', '3', '--grace', '1');
  const other = await submit('echo up; exec sleep 1000');
  const ids = [(await execution(doomed)).execution_id, (await execution(other)).execution_id];
  const members = (id: string | undefined) => sh(`cat ${UNIT_CGROUP}/exec-${id}/cgroup.procs 2>/dev/null || true`);
  await waitFor('both trees', async () => {
    const [one, two] = await Promise.all(ids.map(members));
    return (one ?? '').split('\n').length >= 5 && two !== '';
  });
  const doomedPids = (await members(ids[0])).split('\n');
  const otherPids = await members(ids[1]);
  await output(doomed);
  expect(await execution(doomed)).toMatchObject({ state: 'timed_out', signal: 'SIGKILL', tree_empty: true });
  expect(await sh(`for pid in ${doomedPids.join(' ')}; do [ ! -d /proc/$pid ] || echo $pid; done`)).toBe('');
  await waitFor(
    'the cgroup to be gone',
    async () => (await sh(`ls -d ${UNIT_CGROUP}/exec-*`)) === `${UNIT_CGROUP}/exec-${ids[1]}`,
  );
  // The daemon and its launcher are in none of them.
  expect((await sh(`cat ${UNIT_CGROUP}/cgroup.procs`)).split('\n')).toContain(await mainPid(DAEMON));
  expect(await members(ids[1])).toBe(otherPids);
  await aegis('commands', 'cancel', other);
  await output(other);
  expect(await execution(other)).toMatchObject({ state: 'cancelled', presumed: false, tree_empty: true });
});

/** Writes until its release file is there; keeps a copy of all that it wrote. */
const patient = (name: string) => `
  exec 3>/root/${name}.copy
  i=0
  say() { echo "$1"; echo "$1" >&3; }
  say "pid $$"
  while [ ! -e /root/${name}.release ]; do
    i=$((i + 1))
    say "line $i of a command that goes on and on"
    sleep 0.01
  done
  say "$i lines"
  exit 7`;
const copyOf = (name: string) => readFileSync(join(guest.folder, `root/${name}.copy`), 'utf8');
const linesWritten = (name: string, more: number) => {
  const before = copyOf(name).length;
  return waitFor(`${more} more lines of ${name}`, () => copyOf(name).length > before + 40 * more);
};

/** Something happens to the daemon in the middle of a command's output: nothing happens to the command. */
const outlives = async (name: string, event: () => Promise<unknown>): Promise<void> => {
  const id = await submit(patient(name));
  await waitFor('its first lines', async () => (await guest.run(['test', '-s', `/root/${name}.copy`])).code === 0);
  await linesWritten(name, 20);
  const daemonBefore = await mainPid(DAEMON);
  await event();
  await waitFor('another daemon', async () => {
    const pid = await mainPid(DAEMON);
    return pid !== '0' && pid !== daemonBefore && (await state(DAEMON)) === 'active';
  });
  const [, pid = ''] = /^pid (\d+)\n/.exec(copyOf(name)) ?? [];
  expect((await status(pid)).State).not.toContain('zombie');
  await linesWritten(name, 20);
  guest.write(`root/${name}.release`, '');
  expect(await output(id)).toBe(copyOf(name));
  expect(copyOf(name)).toMatch(/\n\d+ lines\n$/);
  expect(await execution(id)).toMatchObject({
    state: 'failed',
    exit_code: 7,
    attempt: 1,
    presumed: false,
    tree_empty: true,
    report_signed: true,
  });
};

test('systemctl restart during a command', () =>
  outlives('restart', () => guest.out(['systemctl', 'restart', DAEMON])));

test('an upgrade during a command', () =>
  outlives('upgrade', async () => {
    install(guest.folder);
    await guest.out(['systemctl', 'restart', DAEMON]);
  }));

test('kill -9 of the daemon during a command', async () => {
  const restarts = Number(await property(DAEMON, 'NRestarts'));
  await outlives('kill', () => guest.out(['systemctl', 'kill', '--kill-who=main', '--signal=KILL', DAEMON]));
  expect(Number(await property(DAEMON, 'NRestarts'))).toBe(restarts + 1);
});

test('the watchdog ends a daemon that hangs, and a new one takes its command up', async () => {
  guest.write(`etc/systemd/system/${DAEMON}.d/sooner.conf`, '[Service]\nWatchdogSec=2\n');
  await guest.out(['systemctl', 'daemon-reload']);
  await guest.out(['systemctl', 'restart', DAEMON]);
  await outlives('watchdog', () => guest.out(['systemctl', 'kill', '--kill-who=main', '--signal=STOP', DAEMON]));
  expect(await journal(DAEMON)).toContain('Watchdog timeout');
  await guest.out(['rm', '-r', `/etc/systemd/system/${DAEMON}.d`]);
  await guest.out(['systemctl', 'daemon-reload']);
});

test('systemctl stop leaves commands running; the next start takes them up', () =>
  outlives('stop', async () => {
    await guest.out(['systemctl', 'stop', DAEMON]);
    expect(await state(DAEMON)).toBe('inactive');
    await linesWritten('stop', 100);
    await guest.out(['systemctl', 'start', DAEMON]);
  }));

test('a configuration that is refused fails the start and is not tried again', async () => {
  guest.write('etc/aegis/daemon.toml', 'max_concurrent = 0\n');
  const { code } = await guest.run(['systemctl', 'restart', DAEMON]);
  expect(code).toBe(1);
  expect(await state(DAEMON)).toBe('failed');
  expect(await journal(DAEMON)).toContain('max_concurrent = 0 (file /etc/aegis/daemon.toml) is not valid');
  await guest.out(['rm', '/etc/aegis/daemon.toml']);
  await guest.out(['systemctl', 'start', DAEMON]);
  expect(await output(await submit('echo back'))).toBe('back\n');
});

test('a shutdown gives commands a SIGTERM and time for a last word, and their supervisors write how they ended', async () => {
  const id = await submit(`trap 'echo last words; exit 3' TERM; echo up >/root/up; while :; do sleep 0.1; done`);
  await waitFor('its start', async () => (await guest.run(['test', '-e', '/root/up'])).code === 0);
  const { execution_id } = await execution(id);
  await guest.powerOff();
  const folder = join(guest.folder, 'var/lib/aegis/daemon/executions', execution_id);
  expect(JSON.parse(readFileSync(join(folder, 'status'), 'utf8'))).toMatchObject({ outcome: 'exited', exit_code: 3 });
  expect(readFileSync(join(folder, `stdout.${'0'.repeat(20)}`), 'utf8')).toBe('last words\n');
});
