import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { noFaultPoints } from '@aegis/protocol/fault-points';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Journal, openJournal } from './journal.ts';

const migrations = [{ version: 1, name: 'one', sql: 'CREATE TABLE notes (text TEXT NOT NULL)' }];
let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'aegis-journal-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const open = (options: Partial<Parameters<typeof openJournal>[0]> = {}): Journal =>
  openJournal({ path: join(dir, 'journal.db'), migrations, faults: noFaultPoints, maxBytes: 1 << 26, ...options });
const notes = (journal: Journal): unknown[] =>
  journal.db.prepare('SELECT text FROM notes ORDER BY rowid').pluck().all();
const add = (journal: Journal, text: string) => () => void journal.db.prepare('INSERT INTO notes VALUES (?)').run(text);

test('what comes together is committed together, and each commit passes its fault points', async () => {
  const points: string[] = [];
  const journal = open({ faults: { at: (name) => points.push(name) } });
  points.splice(0);
  const lazy = journal.lazily('c', add(journal, 'lazy'));
  await Promise.all([
    journal.group('a', add(journal, '1')),
    journal.group('b', add(journal, '2')),
    journal.group('a', add(journal, '3')),
    lazy,
  ]);
  expect(notes(journal)).toEqual(['lazy', '1', '2', '3']);
  expect(points).toEqual(
    ['c', 'a', 'b']
      .map((label) => `daemon.before-commit.${label}`)
      .concat(['c', 'a', 'b'].map((label) => `daemon.after-commit.${label}`)),
  );
  await journal.lazily('c', add(journal, 'alone'));
  expect(notes(journal)).toHaveLength(5);
  const last = journal.lazily('c', add(journal, 'at the end'));
  journal.close();
  await last;
  const again = open();
  expect(notes(again)).toHaveLength(6);
  again.close();
});

test('a change that throws takes its whole group back', async () => {
  const journal = open();
  const results = await Promise.allSettled([
    journal.group('a', add(journal, '1')),
    journal.group('a', () => {
      throw new Error('no');
    }),
  ]);
  expect(results.map((result) => result.status)).toEqual(['rejected', 'rejected']);
  expect(() =>
    journal.transaction('a', () => {
      add(journal, '2')();
      throw new Error('no');
    }),
  ).toThrow('no');
  expect(notes(journal)).toEqual([]);
  journal.prove();
  journal.close();
});

test('a second daemon on the same journal is told so', () => {
  const journal = open();
  expect(() => open()).toThrow(
    expect.objectContaining({ code: 'journal.failed', message: expect.stringContaining('Another daemon') }),
  );
  journal.close();
  open().close();
});

test('a file that is no journal is refused and left as it is', () => {
  writeFileSync(join(dir, 'journal.db'), 'x'.repeat(8192));
  expect(() => open()).toThrow(expect.objectContaining({ code: 'journal.failed' }));
});

test('a journal that a later release has extended still opens', () => {
  const later = [...migrations, { version: 2, name: 'two', sql: 'ALTER TABLE notes ADD COLUMN extra TEXT' }];
  open({ migrations: later }).close();
  const journal = open();
  journal.db.prepare('INSERT INTO notes (text) VALUES (?)').run('kept');
  expect(notes(journal)).toEqual(['kept']);
  journal.close();
});

test('at its own bound the journal says that it is full and stays usable', () => {
  const journal = open({ maxBytes: 64 * 1024 });
  const big = 'x'.repeat(20_000);
  add(journal, 'first')();
  expect(() => {
    for (let n = 0; n < 10; n++) journal.transaction('a', add(journal, big));
  }).toThrow(expect.objectContaining({ code: 'journal.full', message: expect.stringContaining('free disk space') }));
  expect(notes(journal)[0]).toBe('first');
  journal.transaction('a', () => journal.db.prepare("DELETE FROM notes WHERE text <> 'first'").run());
  journal.transaction('a', add(journal, big));
  expect(journal.db.pragma('integrity_check', { simple: true })).toBe('ok');
  journal.close();
});

test('a full disk: typed error, nothing changed, works again when there is room', async () => {
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', dir]); // needs root: run the tests as root
  try {
    const journal = open();
    journal.transaction('a', add(journal, 'before'));
    writeFileSync(join(dir, 'ballast'), '');
    expect(() => {
      for (;;) writeFileSync(join(dir, 'ballast'), Buffer.alloc(16_384), { flag: 'a' });
    }).toThrow(/ENOSPC/);
    const big = 'x'.repeat(60_000);
    expect(() => journal.transaction('a', add(journal, big))).toThrow(
      expect.objectContaining({ code: 'journal.full' }),
    );
    await expect(journal.group('a', add(journal, big))).rejects.toMatchObject({ code: 'journal.full' });
    expect(notes(journal)).toEqual(['before']);
    journal.prove();
    rmSync(join(dir, 'ballast'));
    journal.transaction('a', add(journal, big));
    expect(notes(journal)).toEqual(['before', big]);
    expect(journal.db.pragma('integrity_check', { simple: true })).toBe('ok');
    journal.close();
    const again = open();
    expect(notes(again)).toEqual(['before', big]);
    again.close();
  } finally {
    execFileSync('umount', [dir]);
  }
});
