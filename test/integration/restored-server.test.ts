import { createHash, randomUUID } from 'node:crypto';
import { copyFileSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { describe, expect, test } from 'vitest';
import { waitFor } from '../faults/wait.ts';
import { faultsIn } from '../fleet/database.ts';
import { type HeldFleet, type HeldNode, startHeldFleet } from '../fleet/in-process.ts';
import { ended, isTo, type Marked, marked, only, quick, ran, reached, WAITS } from '../fleet/marked-command.ts';

/** A server that was put back to an earlier moment, while its nodes went on. */

/** The server as it was at an earlier moment: its database is put back while it is down. */
const backUp = (fleet: HeldFleet): (() => Promise<void>) => {
  const file = join(fleet.server.dataDir, 'aegis.db');
  const copy = join(fleet.folder, randomUUID());
  const db = new Database(file, { readonly: true });
  db.prepare('VACUUM INTO ?').run(copy);
  db.close();
  return async () => {
    await fleet.server.running.close();
    for (const suffix of ['', '-wal', '-shm']) rmSync(`${file}${suffix}`, { force: true });
    copyFileSync(copy, file);
    await fleet.server.restart();
  };
};
const forgotten = (node: HeldNode): Promise<void> =>
  waitFor('the node to have told everything', () => {
    const status = node.daemon?.status();
    return (
      status?.running === 0 && status.unreported === 0 && readdirSync(join(node.dataDir, 'executions')).length === 0
    );
  });
/** What the log says of stdout: runs of bytes and gaps, by offset. */
const logOf = async (fleet: HeldFleet, { run }: Marked) => {
  const { text } = await fleet.server.as('viewer').raw('GET', `/api/v1/commands/${run.id}/logs?stream=stdout`, {
    headers: { accept: 'application/x-ndjson' },
  });
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map(
      (line) =>
        JSON.parse(line) as {
          type: string;
          offset: number;
          gap: number;
          reason: string;
          data: string;
          encoding: 'utf8' | 'base64';
        },
    )
    .filter(({ type }) => type === 'chunk' || type === 'gap');
};
const EMPTIED = 'freed_after_ack';

describe('the server is restored from a backup that is older than its node', () => {
  test('executions that it does not know: they end undisturbed, nothing of them is kept, and new ones work', async () => {
    await using fleet = await startHeldFleet();
    const node = fleet.node('web-1');
    await node.start();
    const restore = backUp(fleet);
    const unknown = await marked(fleet, node, `seq 1000; ${WAITS}; seq 100000`);
    const finished = await quick(fleet, node);
    await unknown.run.holds('stdout', 3893);
    await ended(finished);
    await restore();
    unknown.go();
    await forgotten(node);
    expect((await fleet.api.call('GET', `/api/v1/commands/${unknown.run.id}`)).status).toBe(404);
    expect(await ended(await quick(fleet, node))).toEqual(ran);
    expect([unknown.started(), finished.started()]).toEqual([1, 1]);
    expect(faultsIn(fleet.server.dataDir)).toEqual([]);
  });

  test('executions that it offered and does not know when the acknowledgement comes: the node goes on asking for work', async () => {
    await using fleet = await startHeldFleet();
    const node = fleet.node('web-1');
    await node.start();
    const restore = backUp(fleet);
    node.intercept = (asked, send) =>
      isTo(asked, '/v1/commands/ack') ? Promise.reject(new Error('lost')) : send(asked);
    const unknown = await quick(fleet, node);
    await waitFor('the command to start', () => unknown.started() === 1);
    await restore();
    node.intercept = null;
    expect(await ended(await quick(fleet, node))).toEqual(ran);
    expect(unknown.started()).toBe(1);
  });

  test.each([
    ['the node still knows how they ended', {}, 'succeeded', null, 2],
    ['the node does not know it any more', { journal_kept_reports: 0 }, 'lost', 'commands.lost', null],
  ] as const)('executions that it believes queued: %s', async (_, flags, state, error, bytes) => {
    await using fleet = await startHeldFleet();
    const node = fleet.node('web-1', flags);
    await node.start();
    await node.stop();
    const one = await marked(fleet, node, 'printf ab');
    const restore = backUp(fleet);
    await node.start();
    expect(await ended(one)).toEqual(ran);
    await forgotten(node);
    await restore();
    expect((await only(one)).state).toBe('queued');
    expect(await ended(one)).toEqual({ ...ran, state, error });
    expect(await only(one)).toMatchObject({ report_signed: true, output: { stdout: { bytes } } });
    expect(await logOf(fleet, one)).toMatchObject(
      bytes === null ? [] : [{ type: 'gap', offset: 0, gap: bytes, reason: EMPTIED }],
    );
    expect(faultsIn(fleet.server.dataDir)).toEqual([]);
  });

  test('executions that it believes under way, ended and freed since: the node is asked, without a restart of its own', async () => {
    await using fleet = await startHeldFleet();
    const node = fleet.node('web-1');
    await node.start();
    const held = await marked(fleet, node, WAITS);
    const ending = await marked(fleet, node, WAITS);
    const cancelled = await marked(fleet, node, WAITS);
    for (const one of [held, ending, cancelled]) await reached(one, 'running');
    const restore = backUp(fleet);
    ending.go();
    await fleet.api.call('POST', `/api/v1/commands/${cancelled.run.id}/cancel`, {});
    await ended(ending);
    await waitFor('the cancel to be confirmed', async () => (await only(cancelled)).presumed === false);
    await restore();
    expect(await ended(ending)).toEqual(ran);
    expect(await ended(cancelled)).toEqual({ ...ran, state: 'cancelled' });
    expect((await only(held)).state).toBe('running');
    held.go();
    expect(await ended(held)).toEqual(ran);
    expect(await held.run.text('stdout')).toBe('went\n');
    expect(faultsIn(fleet.server.dataDir)).toEqual([]);
  });

  test('offsets below what the node has freed: a gap says so, all else is there', async () => {
    await using fleet = await startHeldFleet();
    const node = fleet.node('web-1', { segment_bytes: 65_536, spool_bytes: 1_048_576 });
    await node.start();
    const one = await marked(
      fleet,
      node,
      `seq -w 100000; until [ -e $GO ]; do sleep 0.05; done; seq -w 100001 300000; ${WAITS.replace('$GO', '$GO.2')}`,
      {
        output_limit_bytes: 0,
      },
    );
    await one.run.holds('stdout', 700_000);
    const restore = backUp(fleet);
    one.go();
    await one.run.holds('stdout', 2_100_000);
    await restore();
    expect((await only(one)).output.stdout.next).toBe(700_000);
    one.goTwice();
    expect(await ended(one)).toEqual(ran);
    const whole = Buffer.from(
      `${Array.from({ length: 300_000 }, (_, at) => `${String(at + 1).padStart(6, '0')}\n`).join('')}went\n`,
    );
    const log = await logOf(fleet, one);
    const gaps = log.filter(({ type }) => type === 'gap');
    expect(gaps).toMatchObject([{ offset: 700_000, reason: EMPTIED }]);
    // Every byte outside the gap is the command's own, and what follows the gap lies on the node's own segment.
    let at = 0;
    for (const part of log) {
      expect(part.offset).toBe(at);
      if (part.type === 'gap') at += part.gap;
      else {
        const bytes = Buffer.from(part.data, part.encoding);
        expect(bytes.equals(whole.subarray(at, at + bytes.length))).toBe(true);
        at += bytes.length;
      }
    }
    expect(at).toBe(whole.length);
    expect(await only(one)).toMatchObject({
      output_verified: null,
      output: {
        stdout: {
          bytes: whole.length,
          missing: gaps[0]?.gap,
          sha256: createHash('sha256').update(whole).digest('hex'),
        },
      },
    });
    expect(faultsIn(fleet.server.dataDir)).toEqual([]);
  });
});
