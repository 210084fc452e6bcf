import { randomUUID } from 'node:crypto';
import { signStatement } from '@aegis/archive/backup/statement';
import type { Directive } from '@aegis/protocol/access/directive';
import { type Envelope, openEnvelope, PAYLOAD_TYPES } from '@aegis/protocol/access/dsse';
import { showTrust } from '@aegis/protocol/access/endpoints';
import { keyIdOf, publicKeyFromRaw } from '@aegis/protocol/access/keys';
import { BackupSpec } from '@aegis/protocol/backups/config';
import { type ConfigAnswer, createConfig, putConfig } from '@aegis/protocol/backups/endpoints';
import { endRun, type RunGrant, type StartRun, startRun } from '@aegis/protocol/backups/node-endpoints';
import type { RunEnd, RunProgress } from '@aegis/protocol/backups/run';
import { nodeDesired } from '@aegis/protocol/nodes/endpoints';
import * as z from 'zod/mini';
import type { EnrolledNode, TestServer } from './start-test-server.ts';

/** Configurations and runs for tests, to a folder unless said otherwise. */

export const spec = (more: Record<string, unknown> = {}): BackupSpec =>
  z.parse(BackupSpec, {
    name: 'home',
    sources: ['/home'],
    destination: { kind: 'file', path: '/backup' },
    ...more,
  });

export const create = (
  server: Pick<TestServer, 'as'>,
  more: Record<string, unknown> = {},
  change: Record<string, unknown> = {},
): Promise<ConfigAnswer> =>
  server.as('operator').call(createConfig, { body: { spec: spec(more), probe: false, ...change } });
export const put = (
  server: TestServer,
  id: string,
  more: Record<string, unknown> = {},
  change: Record<string, unknown> = {},
): Promise<ConfigAnswer> =>
  server.as('operator').call(putConfig, { params: { id }, body: { spec: spec(more), probe: false, ...change } });

/** What the node reads of its desired state of this kind, checked as it checks it. */
export const desiredOf = async (
  server: TestServer,
  node: EnrolledNode,
): Promise<{ revision: number; directives: Directive[] }> => {
  const { trust_bundle } = await server.as('anyone').call(showTrust);
  const { keys } = JSON.parse(Buffer.from(trust_bundle.payload, 'base64').toString()) as {
    keys: { public_key: string; usage: string[] }[];
  };
  const raw = Buffer.from(keys.find(({ usage }) => usage.includes('serve'))?.public_key ?? '', 'base64');
  const { revision, directives } = await node.call(nodeDesired);
  return {
    revision,
    directives: directives.map((envelope: Envelope) => {
      const opened = openEnvelope(envelope, PAYLOAD_TYPES.directive, new Map([[keyIdOf(raw), publicKeyFromRaw(raw)]]));
      if (opened.signedBy.length !== 1) throw new Error('the directive is not signed by the server');
      return JSON.parse(opened.payload.toString()) as Directive;
    }),
  };
};

/** Generation and state by name of the configuration, or its id where it is absent. */
export const heldBy = async (server: TestServer, node: EnrolledNode): Promise<Record<string, string>> =>
  Object.fromEntries(
    (await desiredOf(server, node)).directives.map(({ generation, body }) => {
      const one = body as { state: string; name?: string; config_id: string };
      return [one.name ?? one.config_id, `${one.state} ${generation}`];
    }),
  );

export const starting = (configId: string, more: Partial<StartRun> = {}): StartRun => ({
  run_id: randomUUID(),
  config_id: configId,
  generation: 1,
  attempt: 1,
  trigger: 'schedule',
  ...more,
});
export const start = (node: EnrolledNode, request: StartRun): Promise<RunGrant> =>
  node.call(startRun, { body: request });

export const progress = (more: Partial<RunProgress> = {}): RunProgress => ({
  phase: 'archiving',
  attempt: 1,
  files: 3,
  bytes: 300,
  archive_bytes: 100,
  uploaded_bytes: 50,
  errors: 0,
  at: new Date().toISOString(),
  ...more,
});

/** A good end with what proves it. `more` goes into the statement alone, `end` into the end alone. */
export const goodEnd = (
  node: Pick<EnrolledNode, 'uid' | 'keys'>,
  configId: string,
  grant: RunGrant,
  more: Record<string, unknown> = {},
  end: Partial<RunEnd> = {},
): RunEnd => {
  const totals = { files: 3, directories: 1, others: 0, bytes: 300, errors: 0 };
  const statement = {
    format: 'aegis-backup-1' as const,
    run_id: grant.run_id,
    config_id: configId,
    node_uid: node.uid,
    attempt: grant.attempt,
    prefix: grant.prefix,
    started_at: '2026-11-21T00:00:00.000Z',
    finished_at: '2026-11-21T00:01:00.000Z',
    state: 'completed' as const,
    encrypted: false,
    archive: { name: 'archive.tar.zst', bytes: 100, sha256: 'a'.repeat(64) },
    manifest: { name: 'manifest.ndjson.zst', bytes: 50, sha256: 'b'.repeat(64) },
    totals,
    ...more,
  };
  return {
    state: 'completed',
    attempt: grant.attempt,
    finished_at: '2026-11-21T00:01:00.000Z',
    duration_ms: 60_000,
    totals,
    archive_bytes: 100,
    uploaded_bytes: 150,
    errors: [],
    reason: null,
    statement: signStatement(statement, node.keys),
    ...end,
  };
};
export const failedEnd = (attempt = 1): RunEnd => ({
  state: 'failed',
  attempt,
  finished_at: '2026-11-21T00:01:00.000Z',
  duration_ms: 60_000,
  totals: null,
  archive_bytes: 0,
  uploaded_bytes: 0,
  errors: [],
  reason: { code: 'backups.no_source', message: 'There is no /home.' },
  statement: null,
});
export const end = (node: EnrolledNode, runId: string, body: RunEnd) =>
  node.call(endRun, { params: { id: runId }, body });
