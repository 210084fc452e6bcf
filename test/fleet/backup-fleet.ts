import { execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ListMultipartUploadsCommand, ListObjectsV2Command } from '@aws-sdk/client-s3';
import { differences, snapshot } from '../../packages/archive/test/tree-compare.ts';
import { type HostileS3, startHostileS3 } from '../faults/hostile-s3.ts';
import { waitFor } from '../faults/wait.ts';
import { aegis, cleanEnv, type Fleet, type FleetOptions, startFleet } from './fleet.ts';
import { type Radosgw, startRadosgw } from './radosgw.ts';

/** A fleet with a real S3 server behind a proxy that misbehaves on demand, driven by the real CLI; and the judge of what became of runs. */
export interface BackupFleet extends AsyncDisposable {
  readonly fleet: Fleet;
  readonly s3: Radosgw;
  readonly proxy: HostileS3;
  readonly bucket: string;
  /** A folder to be backed up: some MiB that cannot be packed, small files and links. */
  plant(name: string, mib: number): string;
  /** The proxies answer from this very process: nothing may wait without letting it run. */
  tryAegis(...args: readonly string[]): Promise<Ended>;
  /** @throws Error with its output unless it exits with 0 */
  aegis(...args: readonly string[]): Promise<string>;
  /** A configuration for one node (default: the first); waits until the node has it. */
  configure(name: string, options: ConfigOptions): Promise<void>;
  /** Starts a run as cron on the node would. Nothing of it is waited for but that the daemon has taken it. */
  begin(name: string, node?: number): Promise<void>;
  runs(name: string): Promise<RunSeen[]>;
  /** Waits until every run of the configuration is over. */
  over(name: string, deadlineMs?: number): Promise<RunSeen[]>;
  /** What is wrong with the runs of a configuration; empty when each that calls itself good verifies and restores to the tree that was
   *  backed up, but for what it names, and each other one says why. `wanted`: the tree, where it is not as it stands now. */
  faults(name: string, source: string, wanted?: ReadonlyMap<string, string>): Promise<string[]>;
  openUploads(): Promise<string[]>;
  objects(): Promise<string[]>;
  /** What lies in the spools of all nodes. */
  spooled(): string[];
}

export interface Ended {
  status: number | null;
  stdout: string;
  stderr: string;
}
export interface RunSeen {
  run_id: string;
  state: string;
  attempt: number;
  reason: { code: string; message: string } | null;
}
export interface ConfigOptions {
  sources: readonly string[];
  node?: number;
  /** Another proxy than the fleet's own, or S3 itself. */
  endpoint?: string;
  /** Of the specification. */
  spec?: Readonly<Record<string, unknown>>;
}

const CLI_MS = 120_000;
const MIB = 1024 * 1024;

export const startBackupFleet = async (
  options: FleetOptions = {},
  settings: Readonly<Record<string, string>> = {},
): Promise<BackupFleet> => {
  const s3 = await startRadosgw();
  const proxy = await startHostileS3(s3.endpoint);
  const fleet = await startFleet({
    ...options,
    env: {
      AEGIS_BACKUPS_PART_BYTES: String(5 * MIB),
      AEGIS_BACKUPS_SPOOL_PARTS: '1',
      AEGIS_BACKUPS_PARALLEL_PARTS: '1',
      AEGIS_BACKUPS_MAX_CONCURRENT: '20',
      AEGIS_BACKUPS_STALL_SEC: '2',
      AEGIS_BACKUPS_RETRY_SEC: '5',
      AEGIS_BACKUPS_SWEEP_UPLOADS_AFTER_SEC: '5',
      AEGIS_BACKUPS_S3_TIMEOUT_SEC: '2',
      AEGIS_BACKUPS_S3_ATTEMPTS: '2',
      ...settings,
      ...options.env,
    },
  }).catch(async (error: unknown) => {
    await s3.stop();
    throw error;
  });
  const bucket = await s3.bucket();
  const home = join(fleet.folder, 'operator');
  mkdirSync(home, { mode: 0o700 });
  const env = cleanEnv(home, { AEGIS_SERVER: fleet.url, AEGIS_TOKEN: fleet.token });

  const tryAegis = (...args: readonly string[]): Promise<Ended> =>
    new Promise((resolve) => {
      const child = execFile(aegis, args, { env, timeout: CLI_MS, maxBuffer: 64 * MIB }, (_error, stdout, stderr) =>
        resolve({ status: child.exitCode, stdout, stderr }),
      );
    });
  const run = async (...args: readonly string[]): Promise<string> => {
    const { status, stdout, stderr } = await tryAegis(...args);
    if (status !== 0) throw new Error(`aegis ${args.join(' ')}: exit ${status}\n${stdout}${stderr}`);
    return stdout;
  };
  const api = async <T>(method: string, path: string, body?: unknown): Promise<T> => {
    const answer = await fleet.api.call(method, path, body);
    if (answer.status >= 300) throw new Error(`${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}`);
    return answer.body as T;
  };
  const nodeAt = (at = 0) => {
    const node = fleet.nodes[at];
    if (!node) throw new Error(`no node ${at}`);
    return node;
  };
  const runs = async (name: string): Promise<RunSeen[]> =>
    (await api<{ items: RunSeen[] }>('GET', `/api/v1/backups/runs?config=${name}&limit=100`)).items;
  if (options.startDaemons !== false)
    for (const { name } of fleet.nodes) await run('nodes', 'trust', name, '--accept-new');

  const restored = async (runId: string, source: string, wanted: ReadonlyMap<string, string>): Promise<string[]> => {
    const target = join(fleet.folder, `restored-${runId}`);
    const { status, stdout, stderr } = await tryAegis('backups', 'restore', runId, '--target', target);
    try {
      if (status !== 0) return [`restore exits with ${status}: ${stdout}${stderr}`];
      return differences(wanted, snapshot(join(target, source)));
    } finally {
      rmSync(target, { recursive: true, force: true });
    }
  };

  return {
    fleet,
    s3,
    proxy,
    bucket,
    tryAegis,
    aegis: run,
    plant: (name, mib) => {
      const folder = join(fleet.folder, 'sources', name);
      plantTree(folder, mib);
      return folder;
    },
    configure: async (name, { sources, node, endpoint = proxy.url, spec = {} }) => {
      const { name: host, dataDir } = nodeAt(node);
      await api('PUT', `/api/v1/backups/configs/${name}`, {
        spec: {
          name,
          sources,
          destination: { kind: 's3', bucket, region: 'us-east-1', prefix: 'fleet', endpoint, path_style: true },
          nodes: [host],
          retries: { max: 1, backoff_sec: 1 },
          ...spec,
        },
        credentials: { access_key_id: s3.accessKey, secret_access_key: s3.secretKey },
        probe: false,
      });
      await waitFor(`${host} to have ${name}`, async () => {
        const { items } = await api<{ items: { taken: boolean }[] }>('GET', `/api/v1/backups/configs/${name}/nodes`);
        return items.every(({ taken }) => taken) && existsSync(join(dataDir, 'backups'));
      });
    },
    begin: async (name, node) => {
      const argv = ['backups', 'run', '--once', name, '--json', '--data-dir', nodeAt(node).dataDir];
      const child = spawn(aegis, argv, { env, stdio: ['ignore', 'pipe', 'pipe'] });
      let text = '';
      child.stdout.on('data', (bytes: Buffer) => {
        text += bytes.toString('utf8');
      });
      child.stderr.on('data', (bytes: Buffer) => {
        text += bytes.toString('utf8');
      });
      await waitFor(
        `the run of ${name} to begin`,
        () => text.includes('run_id') || child.exitCode !== null,
        60_000,
        () => text,
      );
      if (!text.includes('run_id')) throw new Error(`${name} does not begin: ${text}`);
    },
    runs,
    over: async (name, deadlineMs = 120_000) => {
      let seen: RunSeen[] = [];
      await waitFor(
        `the runs of ${name} to be over`,
        async () => {
          if (!fleet.server.running) return false;
          seen = await runs(name);
          return seen.length > 0 && seen.every(({ state }) => state !== 'running');
        },
        deadlineMs,
        () => `${JSON.stringify(seen)}\n${fleet.nodes.map(({ daemon }) => daemon.log().slice(-3000)).join('\n')}`,
      );
      return seen;
    },
    faults: async (name, source, wanted = snapshot(source)) => {
      const found: string[] = [];
      for (const { run_id, state, reason } of await runs(name)) {
        if (state === 'completed') {
          const { status, stdout, stderr } = await tryAegis('backups', 'verify', run_id);
          const wrong =
            status === 0 ? await restored(run_id, source, wanted) : [`verify exits with ${status}: ${stdout}${stderr}`];
          found.push(...wrong.map((text) => `${name} ${run_id}: ${text}`));
        } else if (!reason?.code || reason.message.length < 10)
          found.push(`${name} ${run_id} ${state} without a reason`);
      }
      return found;
    },
    openUploads: async () => {
      const { Uploads = [] } = await s3.s3().send(new ListMultipartUploadsCommand({ Bucket: bucket }));
      return Uploads.map(({ Key = '' }) => Key);
    },
    objects: async () => {
      const { Contents = [] } = await s3.s3().send(new ListObjectsV2Command({ Bucket: bucket }));
      return Contents.map(({ Key = '' }) => Key);
    },
    spooled: () =>
      fleet.nodes.flatMap(({ dataDir }) => {
        const spool = join(dataDir, 'backups', 'spool');
        return existsSync(spool) ? readdirSync(spool).map((one) => join(spool, one)) : [];
      }),
    [Symbol.asyncDispose]: async () => {
      await fleet[Symbol.asyncDispose]();
      await proxy[Symbol.asyncDispose]();
      await s3.stop();
    },
  };
};

export const plantTree = (folder: string, mib: number): void => {
  for (let at = 0; at < 20; at++) {
    const below = join(folder, `d${at % 4}`);
    mkdirSync(below, { recursive: true });
    writeFileSync(join(below, `small-${at}`), `file ${at}\n`.repeat(at * 40));
    utimesSync(join(below, `small-${at}`), 1_600_000_000 + at, 1_600_000_000 + at);
  }
  for (let at = 0; at < mib; at++) writeFileSync(join(folder, `d${at % 4}`, `noise-${at}`), randomBytes(MIB));
};
