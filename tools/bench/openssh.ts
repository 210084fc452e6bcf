import { spawn } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { waitFor } from '../../test/faults/wait.ts';
import { freePort } from '../../test/fleet/free-port.ts';
import { runProcess } from './stopwatch.ts';

/** Debian's OpenSSH on loopback alone, with keys of its own in a temporary folder and otherwise Debian's defaults. Nothing of the
 *  user's or the machine's SSH configuration takes part. */
export interface OpenSsh extends AsyncDisposable {
  /** Each is a host of its own to a client: 127.0.1.1, 127.0.1.2, … */
  readonly addresses: readonly string[];
  readonly port: number;
  readonly identity: string;
  /** `ssh` options that keep everything else out. */
  readonly options: readonly string[];
}

/** Where sshd's unprivileged half lives; compiled in, and made by the unit that we do not start. */
const PRIVSEP_FOLDER = '/run/sshd';
/** sshd listens on at most 16 sockets. */
const ADDRESSES_PER_SSHD = 16;
const DEADLINE_MS = 10_000;

export const startOpenSsh = async (
  folder: string,
  hosts: number,
  env: Readonly<Record<string, string>>,
): Promise<OpenSsh> => {
  const file = (name: string) => join(folder, name);
  for (const key of ['host_key', 'identity'])
    await runProcess(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', file(key)], env);
  const addresses = Array.from({ length: hosts }, (_, index) => `127.0.1.${index + 1}`);
  const port = await freePort();
  const madeFolder = !existsSync(PRIVSEP_FOLDER);
  if (madeFolder) mkdirSync(PRIVSEP_FOLDER, { mode: 0o755 });

  const log = file('sshd.log');
  const logFd = openSync(log, 'a', 0o600);
  const daemons = Array.from({ length: Math.ceil(hosts / ADDRESSES_PER_SSHD) }, (_, index) => {
    const listened = addresses.slice(index * ADDRESSES_PER_SSHD, (index + 1) * ADDRESSES_PER_SSHD);
    const config = file(`sshd_config.${index}`);
    writeFileSync(config, sshdConfig(folder, port, listened));
    return spawn('/usr/sbin/sshd', ['-D', '-e', '-f', config], { stdio: ['ignore', 'ignore', logFd], env: { ...env } });
  });
  closeSync(logFd);
  for (const address of addresses)
    await waitFor(
      `sshd on ${address}:${port}`,
      () => answers(address, port),
      DEADLINE_MS,
      () => readFileSync(log, 'utf8'),
    );

  return {
    addresses,
    port,
    identity: file('identity'),
    options: [
      '-F',
      'none',
      '-o',
      'BatchMode=yes',
      '-o',
      'StrictHostKeyChecking=accept-new',
      '-o',
      `UserKnownHostsFile=${file('known_hosts')}`,
      '-o',
      'IdentitiesOnly=yes',
      '-o',
      'LogLevel=ERROR',
    ],
    [Symbol.asyncDispose]: async () => {
      for (const daemon of daemons) {
        const exited = new Promise((resolve) => daemon.once('exit', resolve));
        if (daemon.exitCode === null && daemon.kill()) await exited;
      }
      if (madeFolder) rmSync(PRIVSEP_FOLDER, { recursive: true });
    },
  };
};

/** Debian's sshd_config, but for the keys, the port and the number of connections that may be unauthenticated at once (20 forks). */
const sshdConfig = (folder: string, port: number, addresses: readonly string[]): string =>
  [
    ...addresses.map((address) => `ListenAddress ${address}:${port}`),
    `HostKey ${join(folder, 'host_key')}`,
    `AuthorizedKeysFile ${join(folder, 'identity.pub')}`,
    'StrictModes no', // the folder lies below /tmp, which everyone may write to
    'PidFile none',
    'UsePAM yes',
    'KbdInteractiveAuthentication no',
    'X11Forwarding yes',
    'PrintMotd no',
    'MaxStartups 100',
    'LogLevel ERROR',
    '',
  ].join('\n');

const answers = (host: string, port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect({ host, port });
    const end = (good: boolean) => {
      socket.destroy();
      resolve(good);
    };
    socket.once('connect', () => end(true)).once('error', () => end(false));
  });

export const sshArgv = (ssh: OpenSsh, user: string, command: readonly string[]): string[] => [
  'ssh',
  ...ssh.options,
  '-i',
  ssh.identity,
  '-p',
  String(ssh.port),
  `${user}@${ssh.addresses[0]}`,
  ...command,
];
