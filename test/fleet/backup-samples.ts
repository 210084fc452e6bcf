import { randomUUID } from 'node:crypto';
import * as node from '@aegis/protocol/backups/node-endpoints';
import { create, failedEnd, progress, spec, starting } from '../../packages/server/test/backups-support.ts';
import type { TestClient } from '../../packages/server/test/test-client.ts';
import type { Sample } from './samples.ts';

/** Configurations with a run under way and one that has failed, and the samples of the endpoints of backups. All go to a folder: a mutated
 *  sample must reach nobody's S3. */
export const stageBackups = async (
  admin: TestClient,
  on: TestClient & { name: string },
  other: { name: string },
): Promise<Record<string, Sample>> => {
  const made = (name: string) =>
    create({ as: () => admin }, { name, nodes: [on.name], description: 'a sample', schedule: { cron: '@daily' } });
  const suffix = randomUUID().slice(0, 8);
  const { config } = await made(`stage-${suffix}`);
  const spare = await made(`spare-${suffix}`);
  const id = config.config_id;
  const begin = async () => (await on.call(node.startRun, { body: starting(id) })).run_id;
  const run = await begin();
  const cancelled = await begin();
  const failed = await begin();
  await on.call(node.endRun, { params: { id: failed }, body: failedEnd() });
  const line = {
    at: new Date().toISOString(),
    level: 'info' as const,
    message: `secret of ${on.name}`,
    metadata: { files: 3 },
  };
  await on.call(node.postRunLog, { params: { id: run }, body: { lines: [line] } });
  const change = { credentials: null, probe: false, dry_run: false };
  const body = { attempt: 1, object: 'archive' };
  return {
    createBackupConfig: { body: { spec: spec({ name: `new-${suffix}`, schedule: { cron: '0 3 * * *' } }), ...change } },
    putBackupConfig: {
      params: { id: spare.config.name },
      body: { spec: spec({ name: spare.config.name }), ...change, if_revision: 1 },
    },
    listBackupConfigs: { query: { limit: '2', node: on.name } },
    showBackupConfig: { params: { id: config.name } },
    deleteBackupConfig: { params: { id: spare.config.name } },
    probeBackupConfig: { params: { id: config.name } },
    runBackupConfig: { params: { id: config.name } },
    backupConfigNodes: { params: { id }, query: { limit: '2' } },
    assignBackupConfig: { params: { id }, body: { add: [other.name], remove: [], dry_run: true } },
    forgetBackupRuns: { params: { id }, body: { dry_run: true, node: on.name } },
    listBackupRuns: { query: { limit: '2', config: id, node: on.name, state: 'failed', removed: 'true' } },
    showBackupRun: { params: { id: run } },
    cancelBackupRun: { params: { id: cancelled } },
    backupRunLog: { params: { id: run }, query: { limit: '2' } },
    nodeLog: { params: { id: on.name }, query: { limit: '2' } },
    backupRunLinks: { params: { id: failed } },
    grantBackupRestore: { params: { id: failed }, body: { node: other.name, ttl_sec: 60 } },
    verifyBackupRun: { params: { id: failed } },
    startBackupRun: { body: starting(id, { scheduled_at: new Date().toISOString() }) },
    openBackupUpload: { params: { id: run }, body },
    closeBackupUpload: {
      params: { id: run },
      body: {
        ...body,
        upload_id: 'a-sample',
        parts: [{ number: 1, etag: 'a-sample', bytes: 7 }],
        bytes: 7,
        sha256: '0'.repeat(64),
      },
    },
    signBackupRequests: {
      body: {
        run_id: run,
        requests: [
          {
            method: 'PUT',
            key: 'a-sample',
            query: { partNumber: '1' },
            headers: { 'if-none-match': '*' },
            content_length: 7,
            payload_sha256: '0'.repeat(64),
          },
        ],
      },
    },
    postBackupProgress: {
      params: { id: run },
      body: progress({ files_total: 9, bytes_total: 900, bytes_per_sec: 10, path: '/home/a' }),
    },
    postBackupRunLog: { params: { id: run }, body: { lines: [line] } },
    endBackupRun: {
      params: { id: run },
      body: { ...failedEnd(), errors: [{ path: '/home/a', code: 'EACCES', message: 'a sample' }] },
    },
    registerBackupAgent: { body: { name: `An agent ${suffix}`, platform: 'darwin' } },
    backupAgentHeartbeat: { body: { version: '0.1.0', platform: 'linux', status: 'online' } },
    backupAgentConfigs: {},
    backupAgentStart: { body: { configId: id } },
    backupAgentComplete: {
      body: {
        logId: run,
        status: 'failed',
        filesProcessed: 150,
        bytesTransferred: 1_024_000,
        duration: 45_000,
        errors: ['a sample', { path: '/home/a', message: 'a sample' }],
      },
    },
    backupAgentLog: { body: { level: 'info', message: 'a sample', metadata: { filesFound: 150 } } },
    backupRestoreSource: { params: { id: failed } },
    putBackupConfigReports: {
      body: {
        configs: [
          {
            config_id: id,
            generation: 1,
            next_run_at: new Date().toISOString(),
            refusal: { code: 'backups.no_source', message: 'a sample' },
          },
        ],
      },
    },
  };
};
