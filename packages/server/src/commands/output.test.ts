import { createHash } from 'node:crypto';
import { expect, test } from 'vitest';
import { processBus } from '../platform/bus.ts';
import { systemClock } from '../platform/clock.ts';
import type { Storage } from '../tables.ts';
import { outputService } from './output.ts';
import type { OutputRepository } from './output-repository.ts';
import { streamHashes } from './stream-hashes.ts';

test('an output that is read back lets others have their turn between two slices', async () => {
  const hashes = streamHashes();
  const row = { execution_id: 'e', stream: 1, length: 1, stored_at: 0, gap_reason: null, bytes: Buffer.from('x') };
  const service = outputService({
    storage: {} as Storage,
    repository: {
      slice: async (_id: string, _stream: number, start: number) => [{ ...row, start }],
    } as unknown as OutputRepository, // nothing else of it is called
    hashes,
    bus: processBus(),
    clock: systemClock,
  });
  let turns = 0;
  let reading = true;
  const count = () => {
    if (!reading) return;
    turns++;
    setImmediate(count);
  };
  setImmediate(count);
  await service.rehash('e', 'stdout', 10);
  reading = false;
  expect(turns).toBeGreaterThanOrEqual(9);
  expect(hashes.digest('e', 'stdout', 10, [])).toBe(createHash('sha256').update('x'.repeat(10)).digest('hex'));
});
