import { execFile, execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import pg from 'pg';
import { freePort } from '../../../test/fleet/free-port.ts';

/** A throwaway PostgreSQL cluster, real in all that counts (fsync on): a temporary folder, a free loopback port, the programs of
 *  Debian's `postgresql` package, run as the user postgres when we are root (it refuses to run as root). */
export interface PostgresCluster extends AsyncDisposable {
  /** Of the database that a cluster always has. */
  adminUrl: string;
  /** A fresh, empty database; its URL. */
  createDatabase(): Promise<string>;
  /** Stops the cluster as an operator's restart does (open connections are cut) and starts it again on the same port. */
  restart(): Promise<void>;
  stop(): Promise<void>;
}

const run = promisify(execFile);

export const startPostgres = async (): Promise<PostgresCluster> => {
  const bin = binaries();
  const folder = mkdtempSync(join(tmpdir(), 'aegis-postgres-'));
  const data = join(folder, 'data');
  const asRoot = process.getuid?.() === 0;
  const as = (program: string, args: string[]) =>
    asRoot
      ? run('runuser', ['-u', 'postgres', '--', join(bin, program), ...args], { cwd: folder })
      : run(join(bin, program), args, { cwd: folder });
  chmodSync(folder, 0o755);
  if (asRoot) execFileSync('chown', ['postgres', folder]);
  const password = randomBytes(16).toString('hex');
  const passwordFile = join(folder, 'password');
  writeFileSync(passwordFile, password, { mode: 0o600 });
  if (asRoot) execFileSync('chown', ['postgres', passwordFile]);
  await as('initdb', [
    '-D',
    data,
    '-U',
    'aegis',
    '-A',
    'scram-sha-256',
    `--pwfile=${passwordFile}`,
    '-E',
    'UTF8',
    '--no-locale',
    '--no-instructions',
  ]);
  const port = await freePort();
  const settings = [
    `-p ${port}`,
    '-h 127.0.0.1',
    `-k ${folder}`,
    '-c fsync=on',
    '-c max_connections=60',
    '-c shared_buffers=64MB',
  ];
  const log = join(folder, 'log');
  const start = async () => {
    try {
      await as('pg_ctl', ['-D', data, '-l', log, '-w', '-t', '60', '-o', settings.join(' '), 'start']);
    } catch (error) {
      throw new Error(`PostgreSQL did not start: ${existsSync(log) ? readFileSync(log, 'utf8').slice(-2000) : ''}`, {
        cause: error,
      });
    }
  };
  const halt = () => as('pg_ctl', ['-D', data, '-w', '-t', '60', '-m', 'fast', 'stop']);
  await start();
  const urlOf = (name: string) => `postgres://aegis:${password}@127.0.0.1:${port}/${name}`;
  let stopped: Promise<void> | undefined;
  const stop = () => {
    stopped ??= halt().then(() => rmSync(folder, { recursive: true, force: true }));
    return stopped;
  };
  return {
    adminUrl: urlOf('postgres'),
    createDatabase: () => createDatabase(urlOf('postgres')),
    restart: async () => {
      await halt();
      await start();
    },
    stop,
    [Symbol.asyncDispose]: stop,
  };
};

/** Makes a database with a name of its own; its URL. */
export const createDatabase = async (adminUrl: string): Promise<string> => {
  const name = `aegis_${randomBytes(6).toString('hex')}`;
  const client = new pg.Client({ connectionString: adminUrl });
  await client.connect();
  try {
    await client.query(`create database ${name}`);
  } finally {
    await client.end();
  }
  return adminUrl.replace(/postgres$/, name);
};

/** The newest installed release. */
const binaries = (): string => {
  const root = '/usr/lib/postgresql';
  const releases = existsSync(root) ? readdirSync(root).sort((a, b) => Number(b) - Number(a)) : [];
  const found = releases.map((release) => join(root, release, 'bin')).find((path) => existsSync(join(path, 'initdb')));
  if (!found)
    throw new Error("these tests need PostgreSQL's programs: run 'apt-get install postgresql' (bin/setup does it)");
  return found;
};
