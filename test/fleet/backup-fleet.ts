import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ListMultipartUploadsCommand, ListObjectsV2Command } from '@aws-sdk/client-s3';
import { type HostileS3, startHostileS3 } from '../faults/hostile-s3.ts';
import { waitFor } from '../faults/wait.ts';
import { type BackupJudge, backupJudge, type RunSeen } from './backup-judge.ts';
import { type Fleet, type FleetOptions, startFleet } from './fleet.ts';
import { type Radosgw, startRadosgw } from './radosgw.ts';

/** A fleet with a real S3 server behind a proxy that misbehaves on demand, driven by the real CLI; and the judge of what became of runs. */
export interface BackupFleet extends Omit<BackupJudge, 'begin'>, AsyncDisposable {
  readonly fleet: Fleet;
  readonly s3: Radosgw;
  readonly proxy: HostileS3;
  readonly bucket: string;
  /** A folder to be backed up: some MiB that cannot be packed, small files and links. */
  plant(name: string, mib: number): string;
  /** A configuration for one node (default: the first); waits until the node has it. */
  configure(name: string, options: ConfigOptions): Promise<void>;
  /** Starts a run as cron on the node would. Nothing of it is waited for but that the daemon has taken it. */
  begin(name: string, node?: number): Promise<void>;
  /** Waits until every run of the configuration is over, also those of which the server has not heard yet. */
  over(name: string, deadlineMs?: number): Promise<RunSeen[]>;
  openUploads(): Promise<string[]>;
  objects(): Promise<string[]>;
  /** What lies in the spools of all nodes. */
  spooled(): string[];
}

export interface ConfigOptions {
  sources: readonly string[];
  node?: number;
  /** Another proxy than the fleet's own, or S3 itself. */
  endpoint?: string;
  /** Of the specification. */
  spec?: Readonly<Record<string, unknown>>;
}

const MIB = 1024 * 1024;

export const startBackupFleet = async (
  options: FleetOptions = {},
  settings: Readonly<Record<string, string>> = {},
): Promise<BackupFleet> => {
  const [withS3, withFleet] = await Promise.allSettled([
    startRadosgw(),
    startFleet({
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
    }),
  ]);
  if (withS3.status === 'rejected' || withFleet.status === 'rejected') {
    if (withS3.status === 'fulfilled') await withS3.value.stop();
    if (withFleet.status === 'fulfilled') await withFleet.value[Symbol.asyncDispose]();
    throw withS3.status === 'rejected' ? withS3.reason : (withFleet as PromiseRejectedResult).reason;
  }
  const [s3, fleet] = [withS3.value, withFleet.value];
  const proxy = await startHostileS3(s3.endpoint);
  const bucket = await s3.bucket();
  const judge = backupJudge(fleet);
  const begun: { name: string; id: string }[] = [];
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
  if (options.startDaemons !== false)
    for (const { name } of fleet.nodes) await judge.aegis('nodes', 'trust', name, '--accept-new');

  return {
    fleet,
    s3,
    proxy,
    bucket,
    tryAegis: judge.tryAegis,
    aegis: judge.aegis,
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
      begun.push({ name, id: await judge.begin(name, nodeAt(node).dataDir) });
    },
    runs: judge.runs,
    over: async (name, deadlineMs = 120_000) => {
      let seen: RunSeen[] = [];
      await waitFor(
        `the runs of ${name} to be over`,
        async () => {
          if (!fleet.server.running) return false;
          seen = await judge.runs(name);
          const known = new Set(seen.map(({ run_id }) => run_id));
          if (begun.some((one) => one.name === name && !known.has(one.id))) return false;
          return seen.length > 0 && seen.every(({ state }) => state !== 'running');
        },
        deadlineMs,
        () => `${JSON.stringify(seen)}\n${fleet.nodes.map(({ daemon }) => daemon.log().slice(-3000)).join('\n')}`,
      );
      return seen;
    },
    faults: judge.faults,
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
