import { uuidv7Generator } from '@aegis/protocol/ids';
import { expect, test } from 'vitest';
import { registrationsRepository } from '../src/nodes/registrations-repository.ts';
import { startTestServer } from './start-test-server.ts';

/** Enrolments under way are bounded, and what has expired is forgotten. */
test.each(['sqlite', 'postgres'] as const)('%s', async (storage) => {
  await using server = await startTestServer({ storage });
  const rows = registrationsRepository(server.running.storage);
  const newId = uuidv7Generator(Date.now);
  const add = (at: number, atMost = 100) => {
    const id = newId();
    const row = { id, challenge: Buffer.alloc(32), init: '{}', tokenless: 0, completed_at: null, node_uid: null };
    return rows.add({ ...row, created_at: at, expires_at: at + 10 }, atMost).then((added) => (added ? id : null));
  };
  const old = await add(100);
  const pending = await add(200);
  expect(await add(200, 1)).toBeNull();
  const done = await add(200, 2); // the first one has expired by then: it no longer counts
  await server.running.storage.write('test', (tx) => rows.complete(tx, done ?? '', newId(), 205));
  expect(await rows.useNonce('n', 'a', 300)).toBe(true);
  expect(await rows.useNonce('n', 'a', 300)).toBe(false);

  const left = async () => (await Promise.all([old, pending, done].map((id) => rows.byId(id ?? '')))).map(Boolean);
  await rows.sweep(205, 0);
  expect(await left()).toEqual([false, true, true]);
  await rows.sweep(301, 200);
  expect(await left()).toEqual([false, false, true]);
  expect(await rows.useNonce('n', 'a', 400)).toBe(true);
  await rows.sweep(301, 206);
  expect(await left()).toEqual([false, false, false]);
});
