import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { createWriteStream, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { CreateBucketCommand, S3Client, type S3ClientConfig } from '@aws-sdk/client-s3';
import { waitFor } from '../faults/wait.ts';
import { freePort } from './free-port.ts';

/** A real S3 server for tests: one monitor, one OSD in memory and one gateway of Debian's Ceph (16.2), on ports of loopback of their own,
 *  in a throwaway folder. About two seconds and 250 MB, so one for each test file, started in `beforeAll`. The three processes end with
 *  `stop`, and by the kernel when the test's own process dies. */

export interface Radosgw extends AsyncDisposable {
  /** http, path style; region `us-east-1`. STS is on the same address. */
  readonly endpoint: string;
  readonly accessKey: string;
  readonly secretKey: string;
  /** The user above may assume it; it may do everything with S3, so that a session's policy alone limits it. */
  readonly roleArn: string;
  /** host:port, for a proxy in front (test/faults/hostile-s3.ts): the gateway checks signatures against the Host that it is sent. */
  readonly proxyable: { host: string; port: number };
  /** Makes a bucket: by default of a new name. `objectLock` needs it at its birth. */
  bucket(name?: string, options?: { objectLock?: boolean }): Promise<string>;
  /** Empties a bucket at once and for good, its space too. */
  empty(bucket: string): Promise<void>;
  /** A client with the credentials above (or what is given), which does not try again. */
  s3(change?: S3ClientConfig): S3Client;
  /** Another user of the gateway, with nothing of the first one's. */
  user(name: string): Promise<{ accessKey: string; secretKey: string }>;
  /** The processes, so that a test may stop (SIGSTOP) or kill one. */
  readonly pids: { monitor: number; osd: number; gateway: number };
  stop(): Promise<void>;
}

export const RADOSGW_REGION = 'us-east-1';
const ACCESS_KEY = 'AEGISTESTKEY00000001';
const SECRET_KEY = 'aegis/test+secret/0123456789abcdefghijkl';
const ROLE = 'backups';
const PLACEMENT = [
  'placement',
  'add',
  '--rgw-zonegroup',
  'default',
  '--rgw-zone',
  'default',
  '--placement-id',
  'default-placement',
];
const GIB = 1024 ** 3;
const READY_DEADLINE_MS = 60_000;

const exec = promisify(execFile);

export interface RadosgwOptions {
  /** What it can hold. */
  bytes?: number;
  /** Beside STANDARD; they cost two calls each before the start. */
  storageClasses?: readonly string[];
}

export const startRadosgw = async ({ bytes = 2 * GIB, storageClasses = [] }: RadosgwOptions = {}): Promise<Radosgw> => {
  const folder = mkdtempSync(join(tmpdir(), 'aegis-radosgw-'));
  const [port, monitorV2, monitorV1] = [await freePort(), await freePort(), await freePort()];
  for (const name of ['mon.a', 'osd.0', 'rgw', 'run', 'log']) mkdirSync(join(folder, name));
  const fsid = randomUUID();
  const conf = join(folder, 'ceph.conf');
  writeFileSync(conf, configuration({ folder, fsid, port, monitorV2, monitorV1, bytes }));
  const children: ChildProcess[] = [];
  const output = createWriteStream(join(folder, 'log', 'output'), { flags: 'a' });
  const log = () => readFileSync(join(folder, 'log', 'output'), 'utf8').slice(-4000);
  const once = (program: string, ...args: string[]) =>
    exec(program, ['-c', conf, ...args], { timeout: READY_DEADLINE_MS });
  /** Whatever happens to this process, the kernel ends the child with it. */
  const resident = (program: string, ...args: string[]): number => {
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', program, '-c', conf, ...args, '-f'], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    child.on('error', () => {}); // seen as the missing answer of what waits for it
    child.stdout.pipe(output, { end: false });
    child.stderr.pipe(output, { end: false });
    children.push(child);
    return child.pid ?? -1;
  };
  const stop = async (): Promise<void> => {
    await Promise.all(
      children.map(async (child) => {
        if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
        const gone = new Promise((resolve) => child.once('exit', resolve));
        child.kill('SIGKILL'); // a clean end would write the memory store to disk first
        await gone;
      }),
    );
    await new Promise((resolve) => output.end(resolve));
    rmSync(folder, { recursive: true, force: true });
  };

  try {
    const monmap = join(folder, 'monmap');
    const addresses = `[v2:127.0.0.1:${monitorV2},v1:127.0.0.1:${monitorV1}]`;
    await exec('monmaptool', ['--create', '--fsid', fsid, '--addv', 'a', addresses, monmap]);
    await once('ceph-mon', '-i', 'a', '--mkfs', '--monmap', monmap);
    const monitor = resident('ceph-mon', '-i', 'a');
    const osdUuid = randomUUID();
    await Promise.all([
      once('ceph', 'osd', 'new', osdUuid, '0'),
      once('ceph-osd', '-i', '0', '--mkfs', '--osd-uuid', osdUuid),
    ]);
    const osd = resident('ceph-osd', '-i', '0');
    const admin = (...args: string[]) => once('radosgw-admin', '-n', 'client.rgw', ...args);
    if (storageClasses.length > 0) await admin('user', 'list'); // the zone comes about with the first call
    for (const one of storageClasses) {
      await admin('zonegroup', ...PLACEMENT, '--storage-class', one);
      await admin('zone', ...PLACEMENT, '--storage-class', one, '--data-pool', `rgw.${one.toLowerCase()}`);
    }
    const gateway = resident('radosgw', '-n', 'client.rgw');
    const endpoint = `http://127.0.0.1:${port}`;
    await waitFor('the S3 gateway to listen', () => answers(endpoint), READY_DEADLINE_MS, log);

    const createUser = (name: string, accessKey: string, secretKey: string, ...more: string[]) =>
      admin(
        'user',
        'create',
        '--uid',
        name,
        '--display-name',
        name,
        '--access-key',
        accessKey,
        '--secret-key',
        secretKey,
        ...more,
      );
    await createUser('test', ACCESS_KEY, SECRET_KEY, '--caps', 'roles=*');
    await admin('role', 'create', '--role-name', ROLE, '--path', '/', '--assume-role-policy-doc', ASSUMED_BY_TEST);
    await admin('role-policy', 'put', '--role-name', ROLE, '--policy-name', 'all', '--policy-doc', ALL_OF_S3);

    const s3 = (change: S3ClientConfig = {}): S3Client =>
      new S3Client({
        endpoint,
        region: RADOSGW_REGION,
        forcePathStyle: true,
        credentials: { accessKeyId: ACCESS_KEY, secretAccessKey: SECRET_KEY },
        // The gateway knows no checksum trailers (it answers 411).
        requestChecksumCalculation: 'WHEN_REQUIRED',
        responseChecksumValidation: 'WHEN_REQUIRED',
        maxAttempts: 1,
        ...change,
      });
    return {
      endpoint,
      accessKey: ACCESS_KEY,
      secretKey: SECRET_KEY,
      roleArn: `arn:aws:iam:::role/${ROLE}`,
      proxyable: { host: '127.0.0.1', port },
      pids: { monitor, osd, gateway },
      s3,
      bucket: async (name = `b-${randomUUID().slice(0, 13)}`, { objectLock = false } = {}) => {
        using client = disposable(s3());
        await client.s3.send(new CreateBucketCommand({ Bucket: name, ObjectLockEnabledForBucket: objectLock }));
        return name;
      },
      empty: async (bucket) => {
        await admin('bucket', 'rm', '--bucket', bucket, '--purge-objects', '--bypass-gc');
        using client = disposable(s3());
        await client.s3.send(new CreateBucketCommand({ Bucket: bucket }));
      },
      user: async (name) => {
        const keys = { accessKey: `KEY${randomUUID().slice(0, 8)}`, secretKey: randomUUID() };
        await createUser(name, keys.accessKey, keys.secretKey);
        return keys;
      },
      stop,
      [Symbol.asyncDispose]: stop,
    };
  } catch (error) {
    const text = log();
    await stop();
    if ((error as NodeJS.ErrnoException).code === 'ENOENT')
      throw new Error("Ceph's S3 gateway is not installed, or not whole. Run 'bin/setup --test' as root.", {
        cause: error,
      });
    throw new Error(`the S3 gateway did not start: ${String(error)}\n${text}`, { cause: error });
  }
};

const disposable = (s3: S3Client) => ({ s3, [Symbol.dispose]: () => s3.destroy() });

const answers = async (endpoint: string): Promise<boolean> => {
  try {
    await (await fetch(endpoint)).arrayBuffer();
    return true;
  } catch {
    return false;
  }
};

const ASSUMED_BY_TEST = JSON.stringify({
  Version: '2012-10-17',
  Statement: [{ Effect: 'Allow', Principal: { AWS: ['arn:aws:iam:::user/test'] }, Action: ['sts:AssumeRole'] }],
});
const ALL_OF_S3 = JSON.stringify({
  Version: '2012-10-17',
  Statement: [{ Effect: 'Allow', Action: ['s3:*'], Resource: 'arn:aws:s3:::*' }],
});

interface Place {
  folder: string;
  fsid: string;
  port: number;
  monitorV2: number;
  monitorV1: number;
  bytes: number;
}
/** Small, without authentication between its own parts, and in no hurry for nothing: each line saves time or memory. */
const configuration = ({ folder, fsid, port, monitorV2, monitorV1, bytes }: Place): string => `
[global]
fsid = ${fsid}
mon_host = [v2:127.0.0.1:${monitorV2},v1:127.0.0.1:${monitorV1}]
mon_initial_members = a
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
ms_mon_client_mode = crc
run_dir = ${folder}/run
admin_socket = ${folder}/run/$name.$pid.asok
log_file = ${folder}/log/$name.log
crash_dir = ${folder}/log
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
mon_data_avail_warn = 2
mon_data_avail_crit = 1
paxos_propose_interval = 0.05
paxos_min_wait = 0.01
[mon]
mon_data = ${folder}/mon.$id
[osd]
osd_data = ${folder}/osd.$id
osd_objectstore = memstore
memstore_device_bytes = ${bytes}
osd_class_load_list = *
osd_class_default_list = *
osd_op_num_shards = 1
osd_op_num_threads_per_shard = 2
[client]
rgw_data = ${folder}/rgw
rgw_frontends = beast endpoint=127.0.0.1:${port}
rgw_thread_pool_size = 32
rgw_s3_auth_use_sts = true
rgw_sts_key = abcdefghijklmnop
rgw_crypt_require_ssl = false
rgw_enable_usage_log = false
rgw_lc_debug_interval = -1
`;
