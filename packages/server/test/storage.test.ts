import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { noFaultPoints } from '@aegis/protocol/fault-points';
import { sql } from 'kysely';
import { afterAll, describe, expect, test } from 'vitest';
import type { Migration } from '../src/platform/storage/migrate.ts';
import { openStorage } from '../src/platform/storage/open.ts';
import { openPostgres } from '../src/platform/storage/postgres.ts';
import { openSqlite } from '../src/platform/storage/sqlite.ts';
import type { Storage } from '../src/platform/storage/storage.ts';
import { startPostgres } from './postgres.ts';
import { freshDatabase } from './shared-postgres.ts';

/** One suite for both databases: group commit, savepoints, types, migrations, crashes, restarts. */

export interface ThingsTables {
  things: { id: number; big: number; bytes: Buffer | null; words: string };
}
const things: Migration = {
  number: 1,
  name: '0001-things',
  up: async (tx, { blob, orderedText }) => {
    await tx.schema
      .createTable('things')
      .addColumn('id', 'integer', (column) => column.primaryKey())
      .addColumn('big', 'bigint', (column) => column.notNull())
      .addColumn('bytes', blob)
      .addColumn('words', orderedText, (column) => column.notNull())
      .execute();
  },
};

const folder = mkdtempSync(join(tmpdir(), 'aegis-storage-test-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
let files = 0;
const place = async (kind: 'sqlite' | 'postgres') => ({
  file: join(folder, `${files++}.db`),
  databaseUrl: kind === 'postgres' ? await freshDatabase() : undefined,
});
const open = (at: { file: string; databaseUrl: string | undefined }, migrations: readonly Migration[] = [things]) =>
  openStorage<ThingsTables>({ ...at, migrations, faults: noFaultPoints, now: Date.now });
const insert = (storage: Storage<ThingsTables>, id: number, words = 'x') =>
  storage.write('test', async (tx) => {
    await tx.insertInto('things').values({ id, big: id, bytes: null, words }).execute();
    return id;
  });
const ids = async (storage: Storage<ThingsTables>) =>
  (await storage.read.selectFrom('things').select('id').orderBy('id').execute()).map(({ id }) => id);

describe.each(['sqlite', 'postgres'] as const)('%s', (kind) => {
  test('integers up to 2^53, bytes, text and counts come back as they went in', async () => {
    const storage = await open(await place(kind));
    const row = { id: 1, big: Number.MAX_SAFE_INTEGER, bytes: Buffer.from([0, 255, 10]), words: 'é\n"\\😀' };
    await storage.write('test', async (tx) => {
      await tx.insertInto('things').values(row).execute();
    });
    expect(await storage.read.selectFrom('things').selectAll().execute()).toEqual([row]);
    const { n, total } = await storage.read
      .selectFrom('things')
      .select((of) => [of.fn.countAll<number>().as('n'), of.fn.sum<number>('id').as('total')])
      .executeTakeFirstOrThrow();
    expect({ n, total }).toEqual({ n: 1, total: 1 });
    await storage.close();
  });

  test('works that fail among many are undone and rejected alone', async () => {
    const storage = await open(await place(kind));
    const outcomes = await Promise.allSettled(
      Array.from({ length: 300 }, (_, id) =>
        storage.write('test', async (tx) => {
          await tx.insertInto('things').values({ id, big: id, bytes: null, words: 'x' }).execute();
          if (id % 10 === 3) throw new Error(`no ${id}`);
          if (id % 10 === 7)
            await tx.insertInto('things').values({ id: 0, big: 0, bytes: null, words: 'twice' }).execute();
          return id;
        }),
      ),
    );
    const good = Array.from({ length: 300 }, (_, id) => id).filter((id) => id % 10 !== 3 && id % 10 !== 7);
    expect(outcomes.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []))).toEqual(good);
    expect(outcomes[13]).toMatchObject({ status: 'rejected', reason: { message: 'no 13' } });
    expect(await ids(storage)).toEqual(good);
    await storage.close();
  });

  test('a work that fails alone leaves nothing, and the next one works', async () => {
    const storage = await open(await place(kind));
    const failing = storage.write('test', async (tx) => {
      await tx.insertInto('things').values({ id: 1, big: 1, bytes: null, words: 'x' }).execute();
      throw new Error('no');
    });
    await expect(failing).rejects.toThrow('no');
    expect(await insert(storage, 2)).toBe(2);
    expect(await ids(storage)).toEqual([2]);
    await storage.close();
  });

  test('a write is visible to readers when its promise resolves, and to nobody before', async () => {
    const at = await place(kind);
    const seen: number[] = [];
    const storage: Storage<ThingsTables> = await openStorage({
      ...at,
      migrations: [things],
      faults: { at: (name) => seen.push(name.startsWith('server.before') ? 1 : 2) },
      now: Date.now,
    });
    const second = await open(at);
    const done = insert(storage, 1);
    let duringWork: number[] | undefined;
    const other = storage.write('test', async (tx) => {
      await tx.insertInto('things').values({ id: 2, big: 2, bytes: null, words: 'x' }).execute();
      duringWork = await ids(second);
    });
    await done;
    expect(await ids(second)).toEqual([1, 2]);
    await other;
    expect(duringWork).toEqual([]);
    expect(seen).toEqual([1, 1, 2, 2]);
    await storage.close();
    await second.close();
  });

  test('works beyond the queue are refused with 503 and what was accepted is stored', async () => {
    const { file, databaseUrl } = await place(kind);
    const limits = { batch: 4, queue: 8 };
    await (await open({ file, databaseUrl })).close();
    const { storage } = databaseUrl
      ? openPostgres<ThingsTables>({ url: databaseUrl, faults: noFaultPoints, limits })
      : openSqlite<ThingsTables>({ file, faults: noFaultPoints, limits });
    const outcomes = await Promise.allSettled(Array.from({ length: 20 }, (_, id) => insert(storage, id)));
    const refused = outcomes.filter((one) => one.status === 'rejected');
    expect(refused.map(({ reason }) => (reason as { code: string }).code)).toEqual(Array(12).fill('http.unavailable'));
    expect(await ids(storage)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    expect(await storage.ping()).toEqual({ overloaded: false });
    const many = Array.from({ length: 8 }, (_, id) => insert(storage, 10 + id));
    const tooMany = insert(storage, 20);
    const ping = storage.ping(); // asked while the queue is full
    await expect(tooMany).rejects.toMatchObject({ code: 'http.unavailable' });
    await expect(ping).resolves.toEqual({ overloaded: true });
    await Promise.all(many);
    await storage.close();
    await expect(insert(storage, 30)).rejects.toMatchObject({ code: 'http.unavailable' });
  });

  test('migrations run once, in order, together with a second opener; a newer database is refused', async () => {
    const at = await place(kind);
    const more: Migration = {
      number: 2,
      name: '0002-more',
      up: async (tx) => {
        await sql`alter table things add column more text`.execute(tx);
      },
    };
    const [one, two] = await Promise.all([open(at, [things, more]), open(at, [more, things])]);
    const applied = await sql<{
      number: number;
      name: string;
    }>`select number, name from migrations order by number`.execute(one.read);
    expect(applied.rows).toEqual([
      { number: 1, name: '0001-things' },
      { number: 2, name: '0002-more' },
    ]);
    await one.close();
    await two.close();
    await expect(open(at, [things])).rejects.toMatchObject({
      code: 'config.invalid',
      message: expect.stringContaining('newer than this program'),
    });
  });

  test('a migration that fails changes nothing', async () => {
    const at = await place(kind);
    const broken: Migration = {
      number: 2,
      name: '0002-broken',
      up: async (tx) => {
        await sql`alter table things add column more text`.execute(tx);
        await sql`select nonsense`.execute(tx);
      },
    };
    await expect(open(at, [things, broken])).rejects.toThrow(/nonsense/);
    const storage = await open(at);
    await insert(storage, 1);
    expect(await storage.read.selectFrom('things').selectAll().execute()).toEqual([
      { id: 1, big: 1, bytes: null, words: 'x' },
    ]);
    await storage.close();
  });

  test('after kill -9 in the middle of writing, everything acknowledged is there', async () => {
    const at = await place(kind);
    const child = spawn(
      process.execPath,
      [fileURLToPath(new URL('./storage-writer.ts', import.meta.url)), JSON.stringify(at)],
      {
        stdio: ['ignore', 'pipe', 'inherit'],
      },
    );
    const acknowledged: number[] = [];
    for await (const line of createInterface({ input: child.stdout })) {
      acknowledged.push(Number(line));
      if (acknowledged.length === 500) child.kill('SIGKILL');
    }
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
    expect(child.signalCode).toBe('SIGKILL');
    const storage = await open(at);
    const stored = new Set(await ids(storage));
    expect(acknowledged.filter((id) => !stored.has(id))).toEqual([]);
    await insert(storage, 1_000_000);
    await storage.close();
  });
});

test('on PostgreSQL a work that swallows its own SQL error takes its batch with it: nothing is acknowledged that is not stored', async () => {
  const storage = await open(await place('postgres'));
  const swallows = storage.write('test', async (tx) => {
    await tx.insertInto('things').values({ id: 1, big: 1, bytes: null, words: 'x' }).execute();
    await sql`select nonsense`.execute(tx).catch(() => undefined);
  });
  const outcomes = await Promise.allSettled([insert(storage, 0), swallows, insert(storage, 2), insert(storage, 3)]);
  const stored = await ids(storage);
  const acknowledged = outcomes.flatMap(({ status }, id) => (status === 'fulfilled' ? [id] : []));
  expect(acknowledged.filter((id) => !stored.includes(id))).toEqual([]);
  expect(outcomes[1]?.status).toBe('rejected');
  expect(await insert(storage, 4)).toBe(4);
  await storage.close();
});

test('PostgreSQL restarted under load: every write is stored or refused with 503, and it goes on by itself', async () => {
  await using cluster = await startPostgres();
  const storage = await open({ file: '', databaseUrl: await cluster.createDatabase() });
  const stored: number[] = [];
  const refused: unknown[] = [];
  let next = 0;
  let stop = false;
  const writer = async () => {
    while (!stop) {
      const id = next++;
      await insert(storage, id).then(
        () => stored.push(id),
        (error: { code: string }) => refused.push(error.code),
      );
    }
  };
  const writers = Array.from({ length: 8 }, writer);
  const more = async (count: number) => {
    const until = stored.length + count;
    while (stored.length < until) await new Promise((resolve) => setTimeout(resolve, 5));
  };
  await more(200);
  await cluster.restart();
  await more(200);
  stop = true;
  await Promise.all(writers);
  const there = new Set(await ids(storage));
  expect(stored.filter((id) => !there.has(id))).toEqual([]);
  expect(new Set(refused)).toEqual(new Set(['http.unavailable']));
  await storage.close();
});

test('a full disk refuses with 503 and a sentence, keeps the database whole, and works when room returns', async () => {
  const { storage, writer } = openSqlite<ThingsTables>({ file: join(folder, 'full.db'), faults: noFaultPoints });
  await sql`create table things (id integer primary key, big bigint, bytes blob, words text)`.execute(writer);
  await insert(storage, 1);
  await sql`pragma max_page_count = 8`.execute(writer); // what SQLite answers is the same SQLITE_FULL as for a full disk
  const writes = Array.from({ length: 5 }, (_, at) =>
    storage.write('test', async (tx) => {
      await tx
        .insertInto('things')
        .values({ id: 10 + at, big: 0, bytes: Buffer.alloc(at === 3 ? 500_000 : 10), words: '' })
        .execute();
    }),
  );
  for (const outcome of await Promise.allSettled(writes))
    expect(outcome).toMatchObject({
      status: 'rejected',
      reason: { code: 'http.unavailable', message: expect.stringContaining('disk is full') },
    });
  expect(await ids(storage)).toEqual([1]);
  await sql`pragma max_page_count = 100000`.execute(writer);
  await insert(storage, 2);
  expect(await ids(storage)).toEqual([1, 2]);
  expect((await sql<{ integrity_check: string }>`pragma integrity_check`.execute(writer)).rows).toEqual([
    { integrity_check: 'ok' },
  ]);
  await storage.close();
});
