import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';
import { type HostileS3, type SeenRequest, startHostileS3 } from '../../../test/faults/hostile-s3.ts';
import { RADOSGW_REGION, type Radosgw } from '../../../test/fleet/radosgw.ts';
import { controlStream } from '../src/control.ts';
import type { RunningDaemon } from '../src/daemon.ts';
import { type BackupServer, startBackupServer } from './backup-server.ts';
import { endedRun, listing, plantTree, tempFolder, unpack } from './backup-stage.ts';
import { type TestNode, testNode } from './test-node.ts';
import { waitFor } from './wait-for.ts';

/** A node with one configuration, 'tree', of 12 MiB (or so many) in parts of 5, behind an S3 server that can be told to misbehave. */

const MIB = 1024 * 1024;
export interface Stage extends AsyncDisposable {
  proxy: HostileS3;
  server: BackupServer;
  node: TestNode;
  daemon: RunningDaemon;
  /** Once the one before is closed. */
  start(): Promise<RunningDaemon>;
  source: string;
  configId: string;
}
const FAST = {
  backups_part_bytes: 5 * MIB,
  backups_stall_sec: 1,
  backups_retry_sec: 6,
  backups_parallel_parts: 2,
};

export const s3Stage = async (
  rados: Radosgw,
  work: Record<string, unknown> = {},
  flags: Record<string, unknown> = {},
  mib = 12,
): Promise<Stage> => {
  const proxy = await startHostileS3(rados.endpoint);
  const account = { access_key_id: rados.accessKey, secret_access_key: rados.secretKey };
  const server = await startBackupServer({ account, ownEndpoint: rados.endpoint });
  const node = testNode(server);
  const source = tempFolder();
  plantTree(source, mib);
  const start = () => node.start({ flags: { ...FAST, ...flags } });
  const daemon = await start();
  const destination = {
    kind: 's3' as const,
    bucket: await rados.bucket(),
    region: RADOSGW_REGION,
    endpoint: proxy.url,
    path_style: true,
  };
  const { config_id: configId } = server.configure(
    { sources: [source], destination, retries: { max: 1, backoff_sec: 1 }, ...work },
    { name: 'tree' },
  );
  await waitFor('the report', () => server.reportOf(configId));
  return {
    proxy,
    server,
    daemon,
    start,
    node,
    source,
    configId,
    [Symbol.asyncDispose]: async () => {
      await node[Symbol.asyncDispose]();
      await server[Symbol.asyncDispose]();
      await proxy[Symbol.asyncDispose]();
    },
  };
};
export const begin = async (node: TestNode): Promise<Record<string, unknown>[]> => {
  const lines: Record<string, unknown>[] = [];
  for await (const line of controlStream(node.dataDir, { op: 'backup-run', config: 'tree' }))
    lines.push(line as Record<string, unknown>);
  return lines;
};
export const isPart = ({ method, query }: SeenRequest): boolean => method === 'PUT' && query.has('partNumber');
export const isStatement = ({ path, method }: SeenRequest): boolean =>
  method === 'PUT' && path.endsWith('statement.json');
export const isManifest = ({ path, method }: SeenRequest): boolean => method === 'PUT' && path.includes('manifest');
export const spoolOf = (node: TestNode): string[] => readdirSync(join(node.dataDir, 'backups', 'spool'));

export const whole = async ({ server, configId, source, node }: Stage): Promise<void> => {
  const run = await endedRun(server, configId);
  expect(run.end).toMatchObject({ state: 'completed' });
  const archive = await server.objectOf(run, 'archive');
  expect(listing(unpack(archive ?? Buffer.alloc(0), source))).toBe(listing(source));
  await waitFor('an empty spool', () => spoolOf(node).length === 0);
};
