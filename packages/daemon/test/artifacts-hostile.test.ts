import { existsSync, mkdirSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { expect, test } from 'vitest';
import { createLog } from '../src/platform/log.ts';
import { artifactStage } from './artifact-stage.ts';
import { Refused } from './refused.ts';
import { waitFor } from './wait-for.ts';

/** What a server, a disk or somebody with root's rights may do to a node between two looks: it is told, and the rest goes on. */

test('an answer of thousands of directives that are refused is told in a line each name and reason', async () => {
  await using stage = await artifactStage();
  const { server } = stage;
  const lines: string[] = [];
  const log = createLog({ level: 'warn', format: 'json' }, (line) => lines.push(line));
  const daemon = await stage.start({ log });
  const body = server.bodyOf(await server.publish());
  server.give([server.signed(server.directiveOf(body, 3000))]);
  await waitFor('the report', () => server.last()?.state === 'attached');
  const stale = Array.from({ length: 1500 }, (_, at) => server.signed(server.directiveOf(body, at + 1)));
  server.give([
    ...stale,
    ...Array(500).fill('no directive'),
    ...Array(500).fill(server.signed(server.directiveOf(body, 1), server.root)),
  ]);
  await waitFor('the revision', () => daemon.desiredRevision() === server.revision());
  await waitFor('the refusal', () => server.tried.some(({ reason }) => reason?.code === 'artifacts.stale_generation'));
  const refusals = lines.filter((line) => line.includes('refused a directive')).map((line) => JSON.parse(line));
  expect(refusals).toMatchObject([
    { code: 'access.bad_directive', directives: 500 },
    { code: 'access.bad_signature', directives: 500 },
    { code: 'artifacts.stale_generation', artifact: 'block-icmp', generation: 1500 },
  ]);
  expect(server.tried.filter(({ reason }) => reason)).toHaveLength(1);
});

test('a row of the journal that cannot be read holds up no other artifact', async () => {
  await using stage = await artifactStage();
  const { server, node, kernel } = stage;
  const first = await stage.start();
  server.assign(await server.publish({ name: 'broken' }));
  server.assign(await server.publish({ name: 'whole' }));
  await waitFor(
    'both',
    () => server.last('broken')?.state === 'attached' && server.last('whole')?.state === 'attached',
  );
  await first.close();
  const db = new Database(join(node.dataDir, 'journal.db'));
  db.exec(`UPDATE desired_artifacts SET body = substr(body, 5) WHERE name = 'broken';
           UPDATE applied_artifacts SET deployment = substr(deployment, 5) WHERE name = 'broken';
           UPDATE artifact_reports SET report = substr(report, 5), waiting = 1 WHERE name = 'broken';`);
  db.close();
  kernel.reboot();
  const second = await stage.start();
  await waitFor('the whole one', () => kernel.held.has('whole'));
  await waitFor('the broken one to be told', () => server.last('broken')?.state === 'failed');
  expect(server.last('broken')?.reason?.code).toBe('access.bad_directive');
  expect(kernel.held.has('broken')).toBe(false);
  expect(second.attachments().map(({ name, state }) => [name, state])).toEqual([
    ['broken', 'failed'],
    ['whole', 'attached'],
  ]);
  server.assign(await server.publish({ name: 'broken', version: '2.0.0' }));
  await waitFor('the new generation', () => kernel.held.get('broken')?.version === '2.0.0');
});

test('a folder of bundles that is a link, or another one, is not swept', async () => {
  await using stage = await artifactStage();
  const { node, kernel } = stage;
  const first = await stage.attached();
  await first.close();
  const folder = join(node.dataDir, 'artifacts');
  const elsewhere = join(node.dataDir, 'elsewhere');
  mkdirSync(elsewhere);
  writeFileSync(join(elsewhere, 'precious'), 'text');
  rmSync(folder, { recursive: true });
  symlinkSync(elsewhere, folder);
  kernel.reboot();
  const lines: string[] = [];
  const log = createLog({ level: 'warn', format: 'json' }, (line) => lines.push(line));
  const second = await stage.start({ log });
  await waitFor('it to be told', () => lines.some((line) => line.includes('symbolic link')));
  expect(readdirSync(elsewhere)).toEqual(['precious']);
  await second.close();
  rmSync(folder);
  await stage.start();
  await waitFor('it to be fetched again', () => kernel.held.size === 1);
  expect(existsSync(join(elsewhere, 'precious'))).toBe(true);
});

test('reports that never get through hold up no others', async () => {
  await using stage = await artifactStage();
  const { server, kernel } = stage;
  server.refuseReports(new Refused(500, 'http.internal', {}, 'Broken.'), 'bad-');
  await stage.start({ random: () => 0 });
  for (const at of [1, 2, 3, 4, 5]) server.assign(await server.publish({ name: `bad-${at}` }));
  await waitFor('these to run', () => kernel.held.size === 5);
  server.assign(await server.publish({ name: 'good' }));
  await waitFor('the good one to be told', () => server.last('good')?.state === 'attached');
  server.refuseReports(null);
  await waitFor('the others', () => [1, 2, 3, 4, 5].every((at) => server.last(`bad-${at}`)?.state === 'attached'));
});
