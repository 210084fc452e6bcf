import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { noFaultPoints } from '@aegis/protocol/fault-points';
import { afterAll, describe, expect, test } from 'vitest';
import { compiledOnce } from '../src/platform/storage/compiled.ts';
import type { Migration } from '../src/platform/storage/migrate.ts';
import { openStorage } from '../src/platform/storage/open.ts';
import { rowInserts, rowsByKey, rowUpdates } from '../src/platform/storage/row-statements.ts';
import { together } from '../src/platform/storage/statements.ts';
import { freshDatabase } from './shared-postgres.ts';

/** Statements beneath Kysely and works that are done together, on both databases. */

interface Tables {
  parts: { id: string; big: number | null; words: string | null; bytes: Buffer | null };
}
const COLUMNS = { id: 'text', big: 'bigint', words: 'text', bytes: 'bytea' } as const;
const parts: Migration = {
  number: 1,
  name: '0001-parts',
  up: async (tx, { blob, orderedText }) => {
    await tx.schema
      .createTable('parts')
      .addColumn('id', orderedText, (column) => column.primaryKey())
      .addColumn('big', 'bigint')
      .addColumn('words', 'text')
      .addColumn('bytes', blob)
      .execute();
  },
};

const folder = mkdtempSync(join(tmpdir(), 'aegis-together-test-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const open = async (kind: 'sqlite' | 'postgres') =>
  openStorage<Tables>({
    file: join(folder, `${kind}.${Math.random()}.db`),
    databaseUrl: kind === 'postgres' ? await freshDatabase() : undefined,
    migrations: [parts],
    faults: noFaultPoints,
    now: Date.now,
  });

describe.each(['sqlite', 'postgres'] as const)('%s', (kind) => {
  const insert = rowInserts(kind, 'parts', COLUMNS, 'on conflict do nothing returning id');
  const update = rowUpdates(kind, 'parts', COLUMNS);
  const byId = rowsByKey(kind, { table: 'parts', columns: ['*'], key: 'id', lock: true });
  const a = { id: 'a', big: Number.MAX_SAFE_INTEGER, words: 'é"\\{},NULL\n', bytes: Buffer.from([0, 255, 92]) };
  const b = { id: 'b', big: null, words: null, bytes: null };
  const c = { id: 'c', big: -1, words: '', bytes: Buffer.alloc(0) };

  test('rows go in, change and come back as they are, many by one statement', async () => {
    const storage = await open(kind);
    const inserted = await storage.write('test', (tx) => together(tx, [insert([a, b, c]), insert([a])]));
    expect(inserted).toEqual([[{ id: 'a' }, { id: 'b' }, { id: 'c' }], []]);
    const changed = { ...a, big: 7, words: null };
    const both = await storage.write('test', (tx) =>
      together(tx, [
        ...update([
          { id: 'a', before: a, after: changed },
          { id: 'b', before: b, after: { ...b, big: 8 } },
          { id: 'c', before: c, after: c },
        ]),
        byId(['c', 'a', 'nobody', 'b']),
      ]),
    );
    const rows = both.at(-1) as (typeof changed)[];
    expect(rows.toSorted((x, y) => (x.id < y.id ? -1 : 1))).toEqual([changed, { ...b, big: 8 }, c]);
    expect(await together(storage.read, [])).toEqual([]);
    await storage.close();
  });

  test('a query that is compiled once takes other values each time', async () => {
    const storage = await open(kind);
    await storage.write('test', (tx) => together(tx, [insert([a, b, c])]));
    const above = compiledOnce((of: { least: number; limit: number }) =>
      storage.read.selectFrom('parts').select('id').where('big', '>=', of.least).orderBy('id').limit(of.limit),
    );
    expect(await above(storage.read, { least: -5, limit: 9 })).toEqual([{ id: 'a' }, { id: 'c' }]);
    expect(await above(storage.read, { least: -5, limit: 1 })).toEqual([{ id: 'a' }]);
    expect(await together(storage.read, [above.statement({ least: 0, limit: 9 })])).toEqual([[{ id: 'a' }]]);
    await storage.close();
  });

  test('works of one kind are done together; one that makes them fail fails alone', async () => {
    const storage = await open(kind);
    const calls: number[] = [];
    const put = storage.writeTogether('test', async (tx, ids: readonly string[]) => {
      calls.push(ids.length);
      await together(tx, [insert(ids.map((id) => ({ ...b, id })))]);
      if (ids.includes('bad')) throw new Error('no bad ones');
      if (ids.includes('sql')) await together(tx, [{ sql: 'select nothing_at_all', runs: [[]] }]);
      return ids.map((id) => `stored ${id}`);
    });
    const other = (id: string) => storage.write('other', async (tx) => together(tx, [insert([{ ...b, id }])]));
    const good = await Promise.all([put('1'), other('x'), put('2'), put('3')]);
    expect(good).toEqual(['stored 1', [[{ id: 'x' }]], 'stored 2', 'stored 3']);
    expect(calls).toEqual([3]);
    const mixed = await Promise.allSettled([put('4'), put('bad'), other('y'), put('sql'), put('5')]);
    expect(mixed.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled', 'rejected', 'fulfilled']);
    expect(mixed[1]).toMatchObject({ reason: { message: 'no bad ones' } });
    const stored = await storage.read.selectFrom('parts').select('id').orderBy('id').execute();
    expect(stored.map(({ id }) => id).join(' ')).toBe('1 2 3 4 5 x y');
    await storage.close();
  });

  test('between two statements of a write nobody reads what it has not committed', async () => {
    const storage = await open(kind);
    const seen: number[] = [];
    const count = async () => seen.push((await storage.read.selectFrom('parts').select('id').execute()).length);
    await storage.write('test', async (tx) => {
      await together(tx, [insert([a])]);
      await count();
    });
    await count();
    expect(seen).toEqual([0, 1]);
    await storage.close();
  });
});

test('postgres: works of two server processes that hold one another up are all done', async () => {
  const databaseUrl = await freshDatabase();
  const at = () =>
    openStorage<Tables>({
      file: '',
      databaseUrl,
      migrations: [parts],
      faults: noFaultPoints,
      now: () => 0,
    });
  const [one, other] = [await at(), await at()];
  try {
    await one.write('test', async (tx) => {
      const row = { big: 0, words: null, bytes: null };
      await tx
        .insertInto('parts')
        .values([
          { ...row, id: 'a' },
          { ...row, id: 'b' },
        ])
        .execute();
    });
    const has = { a: Promise.withResolvers<void>(), b: Promise.withResolvers<void>() };
    const grow = (storage: typeof one, first: 'a' | 'b', second: 'a' | 'b', alone: boolean) => {
      const add = (id: string) => (tx: Parameters<Parameters<typeof one.write>[1]>[0]) =>
        tx
          .updateTable('parts')
          .set((of) => ({ big: of('big', '+', 1) }))
          .where('id', '=', id)
          .execute();
      const work = storage.write('test', async (tx) => {
        await add(first)(tx);
        has[first].resolve();
        await has[second].promise;
        await add(second)(tx);
      });
      // With another in its transaction, and by itself.
      return Promise.all([work, ...(alone ? [] : [storage.write('test', add('a'))])]);
    };
    await Promise.all([grow(one, 'a', 'b', true), grow(other, 'b', 'a', false)]);
    const rows = await one.read.selectFrom('parts').select(['id', 'big']).orderBy('id').execute();
    expect(rows).toEqual([
      { id: 'a', big: 3 },
      { id: 'b', big: 2 },
    ]);
  } finally {
    await Promise.all([one.close(), other.close()]);
  }
});
