import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { AuditEntry } from '@aegis/protocol/access/audit';
import { auditVerifier } from '@aegis/protocol/access/audit-verify';
import { expect, test } from 'vitest';
import { type Fleet, startFleet } from '../fleet/fleet.ts';

/** The server dies, by `kill -9` of itself, at each commit and each send of a call that changes something. Whatever it did has its
 *  entry, whatever was answered has two, and the chain is whole. */

const ask = async (fleet: Fleet, method: string, path: string, body?: unknown, accept = 'application/json') => {
  const answer = await fetch(`${fleet.url}${path}`, {
    method,
    headers: { authorization: `Bearer ${fleet.token}`, accept, 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  return { status: answer.status, text: await answer.text() };
};
/** The status, or null when the server died first. */
const makeToken = (fleet: Fleet, name: string): Promise<number | null> =>
  ask(fleet, 'POST', '/api/v1/tokens', { name, role: 'viewer' }).then(
    ({ status }) => status,
    () => null,
  );

test('no change without its entry, no answer without both, no gap: at every point of a call', async () => {
  await using fleet = await startFleet({ nodes: 1, startDaemons: false });
  const restart = async (env: Record<string, string>) => {
    await fleet.server.kill9();
    await fleet.server.start(env);
  };
  const trace = join(fleet.folder, 'trace');
  await restart({ AEGIS_CRASH_TRACE: trace });
  const before = existsSync(trace) ? readFileSync(trace, 'utf8').split('\n').length - 1 : 0;
  expect(await makeToken(fleet, 'traced')).toBe(201);
  const points = readFileSync(trace, 'utf8').split('\n').slice(before).filter(Boolean);
  expect(points.map((point) => point.replace(/#\d+$/, ''))).toEqual(
    expect.arrayContaining([
      'server.before-commit.access.audit',
      'server.after-commit.access.audit',
      'server.before-commit.access.add-token',
      'server.after-commit.access.add-token',
      'server.before-answer.createToken',
    ]),
  );
  const answered = new Set<string>();
  let died = 0;
  for (const [nth, point] of points.entries()) {
    await restart({ AEGIS_CRASH_AT: point });
    if ((await makeToken(fleet, `t${nth}`)) === 201) answered.add(`t${nth}`);
    else died += 1;
  }
  expect(died).toBeGreaterThanOrEqual(5);
  await restart({});
  const { items } = JSON.parse((await ask(fleet, 'GET', '/api/v1/tokens?limit=1000')).text) as {
    items: { name: string }[];
  };
  const { text } = await ask(fleet, 'GET', '/api/v1/audit', undefined, 'application/x-ndjson');
  const lines = text.trimEnd().split('\n');
  const verifier = auditVerifier();
  for (const line of lines) verifier.line(line);
  expect(verifier.end()).toMatchObject({ intact: true, findings: [] });
  const entries = lines.map((line) => JSON.parse(line) as { type: string } & AuditEntry);
  const outcomesOf = (name: string) =>
    entries
      .filter(({ type, summary }) => type === 'entry' && summary.includes(`name=${name}`))
      .map(({ outcome }) => outcome);
  const made = items.map(({ name }) => name).filter((name) => /^t\d+$/.test(name));
  for (const name of made) expect([name, outcomesOf(name)[0]]).toEqual([name, 'begun']);
  for (const name of answered) expect([name, outcomesOf(name)]).toEqual([name, ['begun', 'ok']]);
  expect(made.length).toBeGreaterThan(answered.size); // some were made and never answered: their entry tells
}, 300_000);
