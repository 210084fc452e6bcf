import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { INTERNAL_ERROR, type Misbehaviour, type SeenRequest, SLOW_DOWN } from '../../../test/faults/hostile-s3.ts';
import { type Radosgw, startRadosgw } from '../../../test/fleet/radosgw.ts';
import { controlStream } from '../src/control.ts';
import { begin, isManifest, isPart, isStatement, s3Stage, spoolOf, whole } from './backup-s3-stage.ts';
import { endedRun, tempFolder } from './backup-stage.ts';
import { waitFor } from './wait-for.ts';

/** A backup behind an S3 server, a network or a control server that misbehave: it is whole and proven in the end, or says that it failed. Each
 *  has a stage of its own and mostly waits, so some run at once. */

let rados: Radosgw;
beforeAll(async () => {
  rados = await startRadosgw();
}, 120_000);
afterAll(() => rados?.stop());

const MIB = 1024 * 1024;
const stage = (work?: Record<string, unknown>, flags?: Record<string, unknown>) => s3Stage(rados, work, flags, 6);

describe('a request that fails once, or a few times, is sent again', () => {
  const faults: [string, Misbehaviour, (ask: SeenRequest) => boolean, number][] = [
    ['500 for two parts', INTERNAL_ERROR, isPart, 2],
    ['503 SlowDown for three parts', SLOW_DOWN, isPart, 3],
    ['a part that hangs', 'hang', isPart, 1],
    ['a part whose connection breaks', 'reset', isPart, 2],
    ['a part of which half arrives', 'truncate-request', isPart, 1],
    ['a part that S3 took, its answer lost', 'lose-answer', isPart, 1],
    ['a manifest that S3 took, its answer lost', 'lose-answer', isManifest, 1],
    ['a statement that S3 took, its answer lost', 'lose-answer', isStatement, 1],
    ['a statement whose request hangs', 'hang', isStatement, 1],
    ['the wrong ETag for a part', 'wrong-etag', isPart, 1],
    ['an error page of a proxy', { answer: 502, code: '', body: '<html>' }, isPart, 1],
  ];
  test.concurrent.each(faults)('%s', async (_name, how, which, times) => {
    await using on = await stage();
    on.proxy.misbehave(how, which, times);
    const lines = await begin(on.node);
    expect(lines.at(-1)).toMatchObject({ type: 'run', state: 'completed' });
    await whole(on);
  });
});

test.concurrent('an S3 server that never takes a part: the run says that it failed, after as many attempts as it has', async () => {
  await using on = await stage({}, { backups_retry_sec: 1 });
  on.proxy.misbehave(INTERNAL_ERROR, isPart);
  const end = (await begin(on.node)).at(-1);
  expect(end).toMatchObject({
    type: 'run',
    state: 'failed',
    reason: {
      code: 'backups.destination_failed',
      message: expect.stringContaining("did not take the request 'part' (answered 500 InternalError)"),
    },
  });
  const run = await endedRun(on.server, on.configId);
  expect(run).toMatchObject({ attempt: 2, end: { state: 'failed', statement: null } });
  expect(await on.server.objectOf(run, 'statement')).toBeNull();
  await waitFor('an empty spool', () => spoolOf(on.node).length === 0);
});

test.concurrent('a bucket that is not there is said at once, without trying again for long', async () => {
  await using on = await stage({ retries: { max: 0 } });
  on.proxy.misbehave({ answer: 404, code: 'NoSuchBucket' }, isPart);
  expect((await begin(on.node)).at(-1)).toMatchObject({
    state: 'failed',
    reason: { code: 'backups.destination_failed', message: expect.stringContaining('404 NoSuchBucket') },
  });
});

test.concurrent('a destination that the control server cannot get at fails the run in time', async () => {
  await using on = await stage({ retries: { max: 0 } }, { backups_retry_sec: 2 });
  on.server.loseBucket();
  expect((await begin(on.node)).at(-1)).toMatchObject({
    state: 'failed',
    reason: { code: 'backups.destination_failed', message: 'There is no such bucket.' },
  });
});

test.concurrent('a network that is cut in the middle: the parts go up when it is back', async () => {
  await using on = await stage({}, { backups_retry_sec: 60 });
  let parts = 0;
  on.proxy.misbehave('reset', (ask) => isPart(ask) && ++parts > 1);
  const run = begin(on.node);
  await waitFor('some parts to break', () => parts > 3);
  on.proxy.cut();
  await waitFor('the run to be told of', () => (on.server.runsOf(on.configId)[0]?.progress.length ?? 0) > 2);
  on.proxy.mend();
  expect((await run).at(-1)).toMatchObject({ state: 'completed' });
  await whole(on);
});

test.concurrent('a control server that is away while a run ends hears of it when it is back', async () => {
  await using on = await stage();
  on.proxy.misbehave('hang', isStatement);
  const run = begin(on.node);
  await waitFor('the statement', () => on.proxy.seen.some(isStatement));
  on.server.refuseAll(503);
  on.proxy.mend();
  await new Promise((resolve) => setImmediate(resolve));
  await waitFor('requests in vain', () => on.server.requests.filter((key) => /\/(sign|end)$/.test(key)).length > 0);
  on.server.refuseAll(null);
  expect((await run).at(-1)).toMatchObject({ state: 'completed' });
  await whole(on);
});

test.concurrent('cancelled by who asked for it, or by the server: it ends, and nothing of it is left here', async () => {
  await using on = await stage();
  on.proxy.misbehave('hang', isPart);
  const leaving = controlStream(on.node.dataDir, { op: 'backup-run', config: 'tree' });
  await leaving.next();
  await waitFor('a part', () => on.proxy.seen.some(isPart));
  await leaving.return();
  const first = await endedRun(on.server, on.configId, 0);
  expect(first.end).toMatchObject({ state: 'cancelled', reason: { code: 'backups.cancelled' }, statement: null });

  const second = begin(on.node);
  const asked = await waitFor('another run', () => on.server.runsOf(on.configId)[1]);
  asked.cancelled = true;
  expect((await second).at(-1)).toMatchObject({ state: 'cancelled' });
  expect((await endedRun(on.server, on.configId, 1)).end?.state).toBe('cancelled');
  await waitFor('an empty spool', () => spoolOf(on.node).length === 0);
});

test.concurrent('a run that gets no signature any more because it was cancelled is cancelled, not failed', async () => {
  await using on = await stage();
  on.proxy.misbehave('hang', isPart);
  const asked = begin(on.node);
  await waitFor('a part', () => on.proxy.seen.some(isPart));
  const [run] = on.server.runsOf(on.configId);
  if (run) run.cancelled = true;
  on.proxy.mend(); // the parts are signed anew
  expect((await asked).at(-1)).toMatchObject({ state: 'cancelled' });
});

test.concurrent('an upload keeps to its limit, and its hooks frame it', async () => {
  const notes = join(tempFolder(), 'notes');
  const note = (word: string) => ({
    argv: ['sh', '-c', `echo "${word} $AEGIS_CONFIG $AEGIS_STATE $AEGIS_ATTEMPT" >> ${notes}`],
  });
  await using on = await stage({
    bandwidth: { upload: 4 * MIB },
    hooks: { before: [note('before')], after: [note('after')], on_failure: [note('failed')] },
  });
  const begun = performance.now();
  expect((await begin(on.node)).at(-1)).toMatchObject({ state: 'completed' });
  expect(performance.now() - begun).toBeGreaterThan(1000); // 6 MiB, but for the first tenth of a second
  await whole(on);
  expect(readFileSync(notes, 'utf8')).toBe('before tree running 1\nafter tree completed 1\n');
});

test.concurrent('a before that fails stops the run, and on_failure is told why', async () => {
  const notes = join(tempFolder(), 'notes');
  await using on = await stage({
    hooks: {
      before: [{ argv: ['sh', '-c', 'echo no such database >&2; exit 3'] }],
      on_failure: [{ argv: ['sh', '-c', `echo "$AEGIS_STATE $AEGIS_REASON" >> ${notes}`] }],
    },
  });
  expect((await begin(on.node)).at(-1)).toMatchObject({
    state: 'failed',
    reason: { code: 'backups.hook_failed', message: expect.stringContaining("'sh' exited with 3: no such database") },
  });
  expect(readFileSync(notes, 'utf8')).toBe('failed backups.hook_failed\n');
  expect(on.proxy.seen).toEqual([]);
});

test.concurrent('a hook that hangs is stopped with all that it started', async () => {
  await using on = await stage({
    hooks: { before: [{ argv: ['sh', '-c', 'sleep 600 & sleep 600'], timeout_sec: 1 }] },
  });
  expect((await begin(on.node)).at(-1)).toMatchObject({
    state: 'failed',
    reason: { code: 'backups.hook_failed', message: expect.stringContaining('was stopped after 1 s') },
  });
});

test.concurrent('an archive beyond its limit fails at once', async () => {
  await using on = await stage({ limits: { archive_bytes: 6 * MIB } });
  expect((await begin(on.node)).at(-1)).toMatchObject({ state: 'failed', reason: { code: 'backups.limit' } });
  expect((await endedRun(on.server, on.configId)).attempt).toBe(1);
});
