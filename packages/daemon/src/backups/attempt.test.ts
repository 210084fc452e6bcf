import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Work } from '@aegis/protocol/backups/config';
import { AegisError } from '@aegis/protocol/errors';
import { expect, onTestFinished, test } from 'vitest';
import * as z from 'zod/mini';
import { type AttemptContext, type AttemptOptions, carryOut } from './attempt.ts';

const work = z.parse(Work, {
  sources: ['/etc'],
  destination: { kind: 's3', bucket: 'bucket', endpoint: 'http://127.0.0.1:1', path_style: true },
});
const RUN = '01a1fd03-ab32-7149-9a1f-9165a79627d9';
const CONFIG = '01a1fd03-ab32-7149-9a1f-9165a79627da';
const PREFIX = `node/${CONFIG}/${RUN}/1/`;

test('an upload that fails ends the attempt only when nothing is packed any more: its spool may be cleared then', async () => {
  const spool = mkdtempSync(join(tmpdir(), 'aegis-attempt-'));
  onTestFinished(() => rmSync(spool, { recursive: true }));
  let packing = true;
  const options = {
    node: { uid: 'node', name: 'web-1' },
    spool,
    repository: { putRun: () => undefined },
    journal: { group: async (_: string, act: () => void) => act() },
    archiver: (_job, { part, signal }) => {
      const { promise, reject } = Promise.withResolvers<never>();
      promise.catch(() => undefined);
      part({ number: 1, bytes: 5, sha256: '00' }, false);
      const end = async (): Promise<void> => {
        await new Promise((resolve) => setTimeout(resolve, 20)); // a thread that is slow to hear of it
        packing = false;
        reject(new Error('ended'));
      };
      signal.addEventListener('abort', () => void end(), { once: true });
      return { done: promise, room: () => undefined, end };
    },
    limits: { partBytes: 8, spoolParts: 4, parallelParts: 1, retryMs: 1, stallMs: 1000 },
    clock: { now: () => Date.now(), monotonic: () => performance.now() },
    random: Math.random,
  } satisfies Record<string, unknown> & { archiver: AttemptOptions['archiver'] } as unknown as AttemptOptions;
  const nothing = (): void => undefined;
  const context = {
    run: {
      id: RUN,
      configId: CONFIG,
      stage: 'started',
      attempt: 1,
      start: {
        trigger: 'request',
        scheduledAt: null,
        generation: 1,
        body: { state: 'present', config_id: CONFIG, name: 'etc', paused: false, work },
      },
      state: { failures: 0, spentMs: 0, prefix: null, conditionalWrites: true, uploads: {}, archived: null },
    },
    door: {
      start: async () => ({ prefix: PREFIX, max_bytes: 2 ** 30, conditional_writes: true, cancelled: false }),
      openUpload: async () => {
        throw new AegisError('backups.destination_failed', 'The bucket is away.');
      },
    },
    teller: {
      phase: nothing,
      known: nothing,
      counts: nothing,
      uploaded: nothing,
      log: nothing,
      current: () => ({ phase: 'scanning' }),
    },
    last: null,
    env: {},
    signal: new AbortController().signal,
  } as unknown as AttemptContext;
  await expect(carryOut(options, context)).rejects.toMatchObject({ code: 'backups.destination_failed' });
  expect(packing).toBe(false);
});
