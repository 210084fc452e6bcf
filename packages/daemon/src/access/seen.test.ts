import { randomUUID } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MAX_LIFETIME_MS } from '@aegis/protocol/access/directive';
import { noFaultPoints } from '@aegis/protocol/fault-points';
import { expect, test } from 'vitest';
import { migrations } from '../migrations.ts';
import { openJournal } from '../platform/journal/journal.ts';
import { seenDirectives } from './seen.ts';

const withJournal = (maxRows: number, check: (open: () => ReturnType<typeof seenDirectives>) => void): void => {
  const dir = mkdtempSync(join(tmpdir(), 'aegis-seen-'));
  const open = () =>
    openJournal({ path: join(dir, 'journal.db'), migrations, faults: noFaultPoints, maxBytes: 1 << 26 });
  let journal = open();
  try {
    check(() => {
      journal.close();
      journal = open();
      return seenDirectives({ journal, maxRows });
    });
  } finally {
    journal.close();
    rmSync(dir, { recursive: true });
  }
};

test('pairs are remembered for a lifetime, then the floor covers them, also after a restart and with the clock set back', () => {
  withJournal(1000, (reopen) => {
    let seen = reopen();
    const [old, young] = [randomUUID(), randomUUID()];
    const now = 1e12;
    expect(seen.add(old, 1, now)).toBe(true);
    expect(seen.add(old, 1, now)).toBe(false);
    expect(seen.add(old, 2, now)).toBe(true);
    seen.add(young, 1, now + 5000);
    seen = reopen();
    expect([seen.has(old, 1), seen.has(old, 2), seen.has(old, 3), seen.has(young, 1)]).toEqual([
      true,
      true,
      false,
      true,
    ]);
    expect(seen.floorMs()).toBe(Number.NEGATIVE_INFINITY);

    seen.prune(now + MAX_LIFETIME_MS - 1);
    expect(seen.has(old, 1)).toBe(true);
    seen.prune(now + MAX_LIFETIME_MS);
    expect([seen.has(old, 1), seen.has(young, 1), seen.floorMs()]).toEqual([false, true, now]);
    seen = reopen();
    expect(seen.floorMs()).toBe(now);
    seen.prune(0);
    expect([seen.has(young, 1), seen.floorMs()]).toEqual([true, now]);
    seen.prune(now * 10);
    expect([seen.count(), seen.floorMs()]).toEqual([0, now + 5000]);
  });
});

test('beyond the row limit the oldest go, and the floor rises over them', () => {
  withJournal(10, (reopen) => {
    const seen = reopen();
    for (let n = 1; n <= 25; n++) seen.add(randomUUID(), 1, n);
    seen.prune(100);
    expect([seen.count(), seen.floorMs()]).toEqual([10, 15]);
  });
});
