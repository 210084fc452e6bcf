import { execFile, execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { waitFor } from '../faults/wait.ts';
import { root } from '../fleet/fleet.ts';

/** A Debian 12 of its own with systemd as process 1, booted by systemd-nspawn: no network but loopback, a cgroup2 tree of its own,
 *  what bin/setup built installed by deploy/install.sh. Needs root, systemd-container and debootstrap (bin/setup --long). */
export interface Guest extends AsyncDisposable {
  /** Its files, from outside. */
  readonly folder: string;
  run(argv: readonly string[], env?: Readonly<Record<string, string>>): Promise<Ran>;
  /** Standard output without its last newline. @throws when it fails */
  out(argv: readonly string[], env?: Readonly<Record<string, string>>): Promise<string>;
  write(path: string, text: string, mode?: number): void;
  /** Shuts it down in order; its files stay. */
  powerOff(): Promise<void>;
}

export interface Ran {
  code: number;
  out: string;
  err: string;
}

const SUITE = 'bookworm';
const PACKAGES = 'systemd,systemd-sysv,dbus';
const MAX_OUTPUT = 64 * 1024 * 1024;

/** Made once and kept: half a minute of downloading. Removing it costs nothing but that. */
const cachedRoot = (): string => {
  const folder = join(process.env.XDG_CACHE_HOME ?? tmpdir(), `aegis-test-debian-${process.getuid?.()}`);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const { uid, mode } = lstatSync(folder);
  if (uid !== process.getuid?.() || (mode & 0o022) !== 0)
    throw new Error(`${folder} can be written by others: remove it`);
  const made = join(folder, `${SUITE}-${PACKAGES.replaceAll(',', '-')}`);
  if (existsSync(made)) return made;
  const draft = `${made}.${process.pid}`;
  try {
    const mirrors = execFileSync('apt-get', ['indextargets', '--format', '$(REPO_URI) $(CODENAME)'], {
      encoding: 'utf8',
    });
    const mirror = mirrors
      .split('\n')
      .find((line) => line.endsWith(` ${SUITE}`))
      ?.split(' ')[0];
    execFileSync(
      'debootstrap',
      ['--variant=minbase', `--include=${PACKAGES}`, SUITE, draft, ...(mirror ? [mirror] : [])],
      { stdio: ['ignore', 'ignore', 'inherit'] },
    );
    renameSync(draft, made);
  } finally {
    rmSync(draft, { recursive: true, force: true });
  }
  return made;
};

/** What bin/setup built, as a package would bring it. */
export const install = (files: string): void => {
  execFileSync(join(root, 'deploy', 'install.sh'), ['--destdir', files], { stdio: ['ignore', 'ignore', 'inherit'] });
};

/** systemd-nspawn makes the cgroups `payload` and `supervisor` below the one that it is started in, so it gets one of its own in every
 *  hierarchy that systemd lives in. */
const cgroupMounts = (): string[] =>
  readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' - '))
    .filter(([, type]) => type?.startsWith('cgroup2 ') || type?.endsWith(',name=systemd'))
    .map(([mount]) => mount?.split(' ')[4] ?? '');

/** False while somebody in it is still on his way out. */
const removeTree = (folder: string): boolean => {
  if (!existsSync(folder)) return true;
  const below = readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  if (!below.every(({ name }) => removeTree(join(folder, name)))) return false;
  try {
    rmdirSync(folder);
    return true;
  } catch {
    return false;
  }
};

export const bootGuest = async (): Promise<Guest> => {
  const folder = mkdtempSync(join(tmpdir(), 'aegis-guest-'));
  const files = join(folder, 'root');
  const name = `aegis-${randomBytes(4).toString('hex')}`;
  const cgroups = cgroupMounts().map((mount) => join(mount, name));
  const write: Guest['write'] = (path, text, mode = 0o644) => {
    const at = join(files, path);
    mkdirSync(join(at, '..'), { recursive: true });
    writeFileSync(at, text);
    chmodSync(at, mode);
  };

  const base = cachedRoot();
  execFileSync('cp', ['-a', '--reflink=auto', base, files]);
  install(files);
  // With a machine id it is no first boot, which would enable every unit there is; and it has no network to wait for.
  write('etc/machine-id', `${randomBytes(16).toString('hex')}\n`);
  for (const unit of ['systemd-networkd.service', 'systemd-networkd-wait-online.service'])
    symlinkSync('/dev/null', join(files, 'etc/systemd/system', unit));

  const nspawn = spawn(
    'sh',
    [
      '-c',
      'while [ "$1" != -- ]; do mkdir "$1"; echo $$ >"$1/cgroup.procs"; shift; done; shift; exec "$@"',
      'sh',
      ...cgroups,
      '--',
      'systemd-nspawn',
      '--quiet',
      `--directory=${files}`,
      `--machine=${name}`,
      '--register=no',
      '--keep-unit',
      '--private-network',
      '--link-journal=no',
      '--boot',
    ],
    { stdio: ['ignore', 'pipe', 'pipe'], env: { PATH: process.env.PATH, SYSTEMD_NSPAWN_UNIFIED_HIERARCHY: '1' } },
  );
  const gone = new Promise<void>((resolve) => nspawn.once('exit', () => resolve()));
  let console = '';
  for (const stream of [nspawn.stdout, nspawn.stderr])
    stream.on('data', (bytes: Buffer) => {
      console = (console + bytes.toString()).slice(-4000);
    });

  /** Process 1 of the guest, once there is one. */
  let leader = '';
  const run: Guest['run'] = (argv, env = {}) =>
    new Promise((resolve) => {
      const child = execFile(
        'nsenter',
        ['--target', leader, '--all', '--', ...argv],
        {
          encoding: 'utf8',
          maxBuffer: MAX_OUTPUT,
          env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', HOME: '/root', ...env },
        },
        (_, out, err) => resolve({ code: child.exitCode ?? -1, out, err }),
      );
    });
  const guest: Guest = {
    folder: files,
    run,
    out: async (argv, env) => {
      const { code, out, err } = await run(argv, env);
      if (code !== 0) throw new Error(`${argv.join(' ')}: exit code ${code}\n${out}${err}`);
      return out.replace(/\n$/, '');
    },
    write,
    powerOff: async () => {
      await run(['systemctl', 'poweroff']);
      await gone;
    },
    [Symbol.asyncDispose]: async () => {
      for (const kill of cgroups.map((cgroup) => join(cgroup, 'cgroup.kill')))
        if (existsSync(kill)) writeFileSync(kill, '1');
      await gone;
      await waitFor('the cgroups to be empty', () => cgroups.every(removeTree));
      rmSync(folder, { recursive: true, force: true });
    },
  };
  try {
    await waitFor(
      'the guest to have booted',
      async () => {
        if (nspawn.exitCode !== null) throw new Error(`systemd-nspawn ended\n${console}`);
        leader ||= guestInit(nspawn.pid) ?? '';
        if (leader === '') return false;
        const { out } = await run(['systemctl', 'is-system-running']);
        return out === 'running\n' || out === 'degraded\n';
      },
      60_000,
      () => console,
    );
    await guest.out(['systemd-sysusers', 'aegis.conf']);
    await guest.out(['systemd-tmpfiles', '--create', 'aegis.conf']);
    return guest;
  } catch (error) {
    await guest[Symbol.asyncDispose]();
    throw error;
  }
};

/** The child that is process 1 of a pid namespace; before it there are others, that pass. */
const guestInit = (pid: number | undefined): string | undefined =>
  readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
    .split(' ')
    .find((child) => child !== '' && /^NSpid:\t\d+\t1$/m.test(statusOf(child)));

const statusOf = (pid: string): string => {
  try {
    return readFileSync(`/proc/${pid}/status`, 'utf8');
  } catch {
    return ''; // gone in the meantime
  }
};
