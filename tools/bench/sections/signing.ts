import { createHash, randomUUID } from 'node:crypto';
import { generateKeyPair } from '@aegis/protocol/access/keys';
import { openUpload, signRequests, startRun } from '@aegis/protocol/backups/node-endpoints';
import { Pool } from 'undici';
import { startFleet } from '../../../test/fleet/fleet.ts';
import { RADOSGW_REGION, startRadosgw } from '../../../test/fleet/radosgw.ts';
import { operatorOf } from '../bench-fleet.ts';
import { atLeast, type Figure, figure } from '../figure.ts';
import { call } from '../node-session.ts';
import { cpuMs } from '../proc.ts';
import { type Section, times } from '../section.ts';
import { enrol } from '../simulated-node.ts';

/** Signatures for parts of uploads, through the server's HTTP door: what nodes ask for that hold no key of the bucket. Each answer rests on
 *  the run's row as it is then. A part has 16 MiB or more, so that a thousand of them a second are 16 GB/s. */

const NODES = 16;
const AT_ONCE = 16;
const HASH = createHash('sha256').update('part').digest('hex');
const SHAPES = [
  { name: 'one part in a request', batch: 1, bar: undefined, requests: 6000 },
  { name: '64 parts in a request', batch: 64, bar: atLeast(2000, 'median'), requests: 1000 },
] as const;

interface Uploading {
  token: string;
  runId: string;
  key: string;
  uploadId: string;
}

export const signing: Section = {
  name: 'signing',
  what: 'requests to S3 that the server signs for nodes, a second',
  run: async (context) => {
    await using s3 = await startRadosgw();
    await using fleet = await startFleet({ startDaemons: false });
    const operator = operatorOf(fleet.url, fleet.token);
    const pool = new Pool(fleet.url, { connections: AT_ONCE });
    try {
      const { join_token } = await operator.ask<{ join_token: string }>('POST', '/api/v1/join-tokens', { uses: NODES });
      const sessions = [];
      for (let index = 1; index <= NODES; index++)
        sessions.push(await enrol(pool, join_token, `sim-${index}`, generateKeyPair()));
      const { config } = await operator.ask<{ config: { config_id: string } }>('POST', '/api/v1/backups/configs', {
        spec: {
          name: 'bench',
          sources: ['/srv'],
          nodes: ['all'],
          destination: {
            kind: 's3',
            bucket: await s3.bucket(),
            region: RADOSGW_REGION,
            endpoint: s3.endpoint,
            path_style: true,
          },
        },
        credentials: { access_key_id: s3.accessKey, secret_access_key: s3.secretKey },
      });
      const uploading: Uploading[] = [];
      for (const { token } of sessions) {
        const runId = randomUUID();
        const run = { run_id: runId, config_id: config.config_id, generation: 1, attempt: 1, trigger: 'schedule' };
        await call(pool, startRun, { token, body: run });
        const { upload_id, key } = await call<{ upload_id: string; key: string }>(pool, openUpload, {
          path: openUpload.path.replace('{id}', runId),
          token,
          body: { attempt: 1, object: 'archive' },
        });
        uploading.push({ token, runId, key, uploadId: upload_id });
      }
      const figures: Figure[] = [];
      for (const { name, batch, bar, requests } of SHAPES) {
        const count = times(context, requests, Math.ceil(requests / 10));
        await signed(pool, uploading, batch, AT_ONCE * 4); // a warm-up
        const samples: number[] = [];
        let cores = 0;
        for (let round = 0; round < times(context, 3, 1); round++) {
          const cpuBefore = cpuMs(fleet.server.pid ?? 0);
          const before = performance.now();
          await signed(pool, uploading, batch, count);
          const tookMs = performance.now() - before;
          cores = (cpuMs(fleet.server.pid ?? 0) - cpuBefore) / tookMs;
          samples.push((count * batch * 1000) / tookMs);
        }
        figures.push(
          figure('signing', {
            name,
            unit: '/s',
            samples,
            ...(bar ? { bar } : {}),
            note: `signatures; ${NODES} nodes, ${AT_ONCE} requests at once; server busy ${cores.toFixed(2)} cores, ${((cores * 1e6) / (samples.at(-1) ?? 1)).toFixed(0)} µs of it each`,
          }),
        );
      }
      return figures;
    } finally {
      await pool.destroy();
      await operator.close();
    }
  },
};

const signed = async (pool: Pool, uploading: readonly Uploading[], batch: number, count: number): Promise<void> => {
  let next = 0;
  const one = async (): Promise<void> => {
    while (next < count) {
      const at = next++;
      const of = uploading[at % uploading.length];
      if (!of) return;
      const requests = Array.from({ length: batch }, (_, index) => ({
        method: 'PUT',
        key: of.key,
        query: { uploadId: of.uploadId, partNumber: String(1 + ((at * batch + index) % 10_000)) },
        content_length: 16 * 1024 * 1024,
        payload_sha256: HASH,
      }));
      const { signed: got } = await call<{ signed: unknown[] }>(pool, signRequests, {
        token: of.token,
        body: { run_id: of.runId, requests },
      });
      if (got.length !== batch) throw new Error(`${got.length} signatures for ${batch} requests`);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, one));
};
