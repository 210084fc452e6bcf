import { noFaultPoints } from '@aegis/protocol/fault-points';
import { openStorage } from '../src/platform/storage/open.ts';
import type { ThingsTables } from './storage.test.ts';

/** Writes without end, eight works at a time, and prints each id once it is durable; its parent kills it. */
const at = JSON.parse(process.argv[2] ?? '{}') as { file: string; databaseUrl?: string };
const storage = await openStorage<ThingsTables>({
  ...at,
  migrations: [
    {
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
    },
  ],
  faults: noFaultPoints,
  now: Date.now,
});
let next = 0;
const writer = async (): Promise<never> => {
  for (;;) {
    const id = next++;
    await storage.write('test', async (tx) => {
      await tx
        .insertInto('things')
        .values({ id, big: id, bytes: Buffer.alloc(100), words: 'x' })
        .execute();
    });
    process.stdout.write(`${id}\n`);
  }
};
await Promise.all(Array.from({ length: 8 }, writer));
