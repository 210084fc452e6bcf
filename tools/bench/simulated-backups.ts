import { createHash, randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { statementBytes } from '@aegis/archive/backup/statement';
import { jitterMs } from '@aegis/protocol/backups/decide-schedule';
import {
  endRun,
  openUpload,
  type RunGrant,
  type SignedRequest,
  signRequests,
  startRun,
} from '@aegis/protocol/backups/node-endpoints';
import type { RunEnd } from '@aegis/protocol/backups/run';
import { pathOf } from '@aegis/protocol/endpoint';
import { nodeDesired } from '@aegis/protocol/nodes/endpoints';
import { request } from 'undici';
import { failedEnd, goodEnd } from '../../packages/server/test/backups-support.ts';
import { wallClockMs } from './bench-fleet.ts';
import { call, type Session } from './node-session.ts';

/** A simulated node's side of one run: it starts at its own moment after the schedule's time, by the function that daemons use; asks for
 *  signatures as a backup of that many parts would, and ends. Only nodes of the share that stores talk to S3 themselves. */

export interface BackupPlan {
  configId: string;
  /** The schedule's time, on the wall clock. */
  atMs: number;
  jitterSec: number;
  batches: number;
  perBatch: number;
  /** One of so many nodes has the server open an upload, and stores three small objects. */
  storesEach: number;
}
export interface BackedUp {
  startedAtMs: number;
  signedFromMs: number;
  signedUntilMs: number;
  signed: number;
  startMs: number;
  endMs: number;
  stored: boolean;
}

const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
const ANY_SHA256 = 'a'.repeat(64);

export const backUp = async (session: Session, nth: number, plan: BackupPlan): Promise<BackedUp> => {
  const { pool, token, uid } = session;
  const { configId } = plan;
  // Each has its connection by then, as a node in the long poll has.
  await call(pool, nodeDesired, { token });
  await sleep(Math.max(0, plan.atMs + jitterMs(uid, configId, { jitter_sec: plan.jitterSec }) - wallClockMs()));
  const startedAtMs = wallClockMs();
  const body = {
    run_id: randomUUID(),
    config_id: configId,
    generation: 1,
    attempt: 1,
    trigger: 'schedule',
    scheduled_at: new Date(plan.atMs).toISOString(),
  };
  const grant = await call<RunGrant>(pool, startRun, { token, body });
  const startMs = wallClockMs() - startedAtMs;
  const sign = async (requests: unknown[]): Promise<SignedRequest[]> =>
    (
      await call<{ signed: SignedRequest[] }>(pool, signRequests, {
        token,
        body: { run_id: grant.run_id, requests },
      })
    ).signed;

  const stores = nth % plan.storesEach === 0;
  const params = { id: grant.run_id };
  const upload = stores
    ? await call<{ upload_id: string; key: string }>(pool, openUpload, {
        path: pathOf(openUpload, params),
        token,
        body: { attempt: 1, object: 'archive' },
      })
    : null;
  const signedFromMs = wallClockMs();
  for (let batch = 0; batch < plan.batches; batch++) {
    const requests = Array.from({ length: plan.perBatch }, (_, at) => ({
      method: 'PUT',
      ...(upload
        ? { key: upload.key, query: { uploadId: upload.upload_id, partNumber: String(batch * plan.perBatch + at + 1) } }
        : { key: `${grant.prefix}archive.tar.zst`, headers: { 'if-none-match': '*' } }),
      content_length: 1024,
      payload_sha256: ANY_SHA256,
    }));
    const signed = await sign(requests);
    if (signed.length !== plan.perBatch) throw new Error(`${signed.length} of ${plan.perBatch} were signed`);
  }
  const signedUntilMs = wallClockMs();

  const end = stores ? await storedEnd(session, grant, configId, sign) : failedEnd();
  const endingMs = wallClockMs();
  await call(pool, endRun, { path: pathOf(endRun, params), token, body: end });
  return {
    startedAtMs,
    signedFromMs,
    signedUntilMs,
    signed: plan.batches * plan.perBatch,
    startMs,
    endMs: wallClockMs() - endingMs,
    stored: stores,
  };
};

/** Three small objects, put as a node puts them, and the word for them. */
const storedEnd = async (
  { uid, keys }: Session,
  grant: RunGrant,
  configId: string,
  sign: (requests: unknown[]) => Promise<SignedRequest[]>,
): Promise<RunEnd> => {
  const [archive, manifest] = [Buffer.from(`the archive of ${uid}`), Buffer.from(`the manifest of ${uid}`)];
  const facts = (name: string, bytes: Buffer) => ({ name, bytes: bytes.length, sha256: sha256(bytes) });
  const end = goodEnd(
    { uid, keys },
    configId,
    grant,
    { archive: facts('archive.tar.zst', archive), manifest: facts('manifest.ndjson.zst', manifest) },
    { archive_bytes: archive.length, uploaded_bytes: archive.length + manifest.length },
  );
  if (!end.statement) throw new Error('no statement');
  const objects: [string, Buffer][] = [
    ['archive.tar.zst', archive],
    ['manifest.ndjson.zst', manifest],
    ['statement.json', statementBytes(end.statement)],
  ];
  for (const [name, bytes] of objects) {
    const [signed] = await sign([
      {
        method: 'PUT',
        key: `${grant.prefix}${name}`,
        headers: { 'if-none-match': '*' },
        content_length: bytes.length,
        payload_sha256: sha256(bytes),
      },
    ]);
    if (!signed) throw new Error('nothing was signed');
    const { host: _, ...headers } = signed.headers;
    const answer = await request(signed.url, { method: 'PUT', headers, body: bytes });
    if (answer.statusCode !== 200) throw new Error(`${name}: ${answer.statusCode} ${await answer.body.text()}`);
    await answer.body.dump();
  }
  return end;
};
