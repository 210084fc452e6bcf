import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Envelope, PAYLOAD_TYPES, signEnvelope } from '@aegis/protocol/access/dsse';
import { generateKeyPair } from '@aegis/protocol/access/keys';
import { Work } from '@aegis/protocol/backups/config';
import type { ConfigBody } from '@aegis/protocol/backups/directive';
import { noFaultPoints } from '@aegis/protocol/fault-points';
import { afterEach, beforeEach, expect, test } from 'vitest';
import * as z from 'zod/mini';
import { migrations } from '../migrations.ts';
import { type Journal, openJournal } from '../platform/journal/journal.ts';
import { silentLog } from '../platform/log.ts';
import { desiredState } from './desired.ts';
import { backupsRepository, backupsState } from './repository.ts';

/** A configuration's id is the server's word, its name the operator's: what operators signed of one name is of no other. */

const key = generateKeyPair();
const CONFIG = '01a1fd03-ab32-7149-9a1f-9165a79627d9';
const NOW = Date.parse('2026-06-01T12:00:00Z');
const work = z.parse(Work, { sources: ['/etc'], destination: { kind: 'file', path: '/backup' } });
const named = (name: string): ConfigBody => ({ state: 'present', config_id: CONFIG, name, paused: false, work });
const GONE: ConfigBody = { state: 'absent', config_id: CONFIG };

let folder: string;
let journal: Journal;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'aegis-desired-'));
  journal = openJournal({ path: join(folder, 'journal.db'), migrations, faults: noFaultPoints, maxBytes: 2 ** 24 });
});
afterEach(() => {
  journal.close();
  rmSync(folder, { recursive: true });
});

/** Of wishes that are genuine, one generation each. */
const stateOf = ({ byOperators }: { byOperators: boolean }) => {
  const desired = desiredState({
    repository: backupsRepository(journal),
    state: backupsState(journal),
    journal,
    verify: ({ payload }) => {
      const directive = {
        kind: 'backups.config',
        object_id: CONFIG,
        ...JSON.parse(Buffer.from(payload, 'base64').toString()),
      };
      return { kind: 'good', directive, issuedAtMs: NOW + directive.generation, byOperators };
    },
    maxConfigs: 10,
    clock: { now: () => NOW, monotonic: () => 0 },
    log: silentLog(),
  });
  let generation = 0;
  return {
    take: (...bodies: ConfigBody[]) =>
      desired.take(
        bodies.map((body): Envelope => {
          generation++;
          return signEnvelope(PAYLOAD_TYPES.directive, { generation, body }, key);
        }),
      ),
    name: () => desired.held.get(CONFIG)?.body?.name ?? null,
    refusal: () => desired.refusals.get(CONFIG)?.message ?? null,
  };
};
const REFUSAL = `This configuration is 'db' here, and what was signed is called 'etc': the server may have given the one the other's id. If it is a new name for the same, delete 'db', sign that, and make 'etc' anew.`;

test('what operators signed under another name does not take its place, unless that is off first', async () => {
  const state = stateOf({ byOperators: true });
  await state.take(named('db'));
  await state.take(named('etc'));
  expect([state.name(), state.refusal()]).toEqual(['db', REFUSAL]);
  await state.take(named('db'));
  expect([state.name(), state.refusal()]).toEqual(['db', null]);
  await state.take(GONE, named('etc'));
  expect([state.name(), state.refusal()]).toEqual(['etc', null]);
});

test('nor where both come at once', async () => {
  const state = stateOf({ byOperators: true });
  await state.take(named('db'), named('etc'));
  expect([state.name(), state.refusal()]).toEqual(['db', REFUSAL]);
});

test('a server that is obeyed renames as it likes', async () => {
  const state = stateOf({ byOperators: false });
  await state.take(named('db'));
  await state.take(named('etc'));
  expect([state.name(), state.refusal()]).toEqual(['etc', null]);
});
