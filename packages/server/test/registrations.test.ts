import { uuidv7Generator } from '@aegis/protocol/ids';
import { expect, test } from 'vitest';
import { registrationsRepository } from '../src/nodes/registrations-repository.ts';
import { startTestServer } from './start-test-server.ts';

/** Enrolments under way are bounded, and what has expired is forgotten. */
test.each(['sqlite', 'postgres'] as const)('%s', async (storage) => {
  await using server = await startTestServer({ storage });
  const rows = registrationsRepository(server.running.storage);
  const newId = uuidv7Generator(Date.now);
  const add = async (at: number, all = 100, origin: { remote_address?: string; token_id?: string } = {}) => {
    const id = newId();
    const row = { id, challenge: Buffer.alloc(32), init: '{}', tokenless: 0, completed_at: null, node_uid: null };
    const from = { remote_address: null, token_id: null, ...origin };
    const added = await rows.add({ ...row, ...from, created_at: at, expires_at: at + 10 }, { all, each: 2 });
    return added === 'added' ? id : added;
  };
  const one = { remote_address: '192.0.2.1', token_id: 'a' };
  expect([await add(50, 100, one), await add(50, 100, one)]).toEqual([expect.any(String), expect.any(String)]);
  expect(await add(50, 100, { remote_address: '192.0.2.1', token_id: 'b' })).toBe('too many of its own');
  expect(await add(50, 100, { remote_address: '192.0.2.2', token_id: 'a' })).toBe('too many of its own');
  expect(await add(50, 100, { remote_address: '192.0.2.2', token_id: 'b' })).toEqual(expect.any(String));
  expect(await add(61, 100, one)).toEqual(expect.any(String)); // those have expired
  const old = await add(100);
  const pending = await add(200);
  expect(await add(200, 1)).toBe('too many');
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
