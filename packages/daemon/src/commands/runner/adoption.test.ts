import { randomUUID } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createExecutionFolder, type ExecutionStatus, voidClaim } from '@aegis/native/execution-folder';
import { expect, test } from 'vitest';
import { decideNext, type FolderView, type KnownOfExecution, viewFolder } from './adoption.ts';

const BOOT = 'boot-now';
const status: ExecutionStatus = {
  outcome: 'exited',
  exitCode: 0,
  signal: null,
  timedOut: false,
  cancelled: false,
  treeEmpty: true,
  leftover: 0,
  killed: false,
  startedAtMs: 1,
  finishedAtMs: 2,
  durationMs: 1,
  stdout: { bytes: 0, sha256: '0'.repeat(64) },
  stderr: { bytes: 0, sha256: '0'.repeat(64) },
  usage: { userUs: 0, systemUs: 0, maxRssKb: 0 },
  error: null,
};
const here = { kind: 'started', bootId: BOOT, startedAtMs: 7 } as const;
const before = { kind: 'started', bootId: 'boot-before', startedAtMs: 7 } as const;
const plain: KnownOfExecution = { handedBoot: BOOT, begun: true, cancelAsked: false, expired: false };
const unhanded: KnownOfExecution = { ...plain, handedBoot: null, begun: false };
const rebooted: KnownOfExecution = { ...plain, handedBoot: 'boot-before' };
const folder = (change: Partial<FolderView>): FolderView => ({ alive: false, claim: null, status: null, ...change });

test.each<[string, KnownOfExecution, FolderView | null, string]>([
  ['never begun', unhanded, null, 'start'],
  ['accepted for a start, never begun', { ...plain, begun: false }, null, 'start'],
  ['accepted for a start before a reboot', { ...plain, begun: false, handedBoot: 'boot-before' }, null, 'lost'],
  ['never begun, expired', { ...unhanded, expired: true }, null, 'given-up expired'],
  ['never begun, cancelled', { ...unhanded, cancelAsked: true }, null, 'given-up cancelled'],
  ['handed over, folder gone', plain, null, 'lost'],
  ['handed over, folder gone, cancelled', { ...plain, cancelAsked: true }, null, 'lost'],
  ['folder made, nobody claimed', plain, folder({}), 'start'],
  ['folder made, launcher never asked', unhanded, folder({}), 'start'],
  ['no claim left after a reboot', rebooted, folder({}), 'lost'],
  ['no claim left after a reboot, cancelled', { ...rebooted, cancelAsked: true }, folder({}), 'lost'],
  ['ended, handed over before a reboot', rebooted, folder({ claim: before, status }), 'finish'],
  [
    'voided before a reboot',
    { ...rebooted, cancelAsked: true },
    folder({ claim: { kind: 'void' } }),
    'given-up cancelled',
  ],
  ['nobody claimed, expired', { ...plain, expired: true }, folder({}), 'give-up expired'],
  ['nobody claimed, cancelled', { ...plain, cancelAsked: true, expired: true }, folder({}), 'give-up cancelled'],
  ['supervisor about to claim', plain, folder({ alive: true }), 'follow'],
  ['running', plain, folder({ alive: true, claim: here }), 'follow'],
  ['running, expired meanwhile', { ...plain, expired: true }, folder({ alive: true, claim: here }), 'follow'],
  ['running, cancelled', { ...plain, cancelAsked: true }, folder({ alive: true, claim: here }), 'follow'],
  ['ended', plain, folder({ claim: here, status }), 'finish'],
  ['ended, supervisor just leaving', plain, folder({ alive: true, claim: here, status }), 'finish'],
  ['ended before a reboot', plain, folder({ claim: before, status }), 'finish'],
  ['ended, cancelled too late', { ...plain, cancelAsked: true }, folder({ claim: here, status }), 'finish'],
  ['supervisor killed', plain, folder({ claim: here }), 'lost'],
  ['supervisor killed, cancelled', { ...plain, cancelAsked: true }, folder({ claim: here }), 'lost'],
  ['reboot while it ran', plain, folder({ claim: before }), 'lost'],
  ['claim damaged by a crash', plain, folder({ claim: { kind: 'damaged' } }), 'lost'],
  ['status damaged', plain, folder({ claim: here, status: 'damaged' }), 'lost'],
  ['voided by a cancel', { ...plain, cancelAsked: true }, folder({ claim: { kind: 'void' } }), 'given-up cancelled'],
  ['voided by expiry', { ...plain, expired: true }, folder({ claim: { kind: 'void' } }), 'given-up expired'],
  ['voided because no supervisor could be started', plain, folder({ claim: { kind: 'void' } }), 'given-up failed'],
])('%s', (_, known, view, expected) => {
  const next = decideNext(known, view, BOOT);
  expect('as' in next ? `${next.do} ${next.as}` : next.do).toBe(expected);
});

test('the view of real folders', () => {
  const root = mkdtempSync(join(tmpdir(), 'aegis-adoption-'));
  try {
    const id = randomUUID();
    expect(viewFolder(join(root, id))).toBeNull();
    const dir = createExecutionFolder(root, id, {
      argv: ['true'],
      env: {},
      timeoutMs: 0,
      graceMs: 0,
      drainMs: 0,
      spoolBytes: 4096,
      segmentBytes: 4096,
      bootId: BOOT,
    });
    expect(viewFolder(dir)).toEqual({ alive: false, claim: null, status: null });
    expect(voidClaim(dir)).toBe(true);
    expect(viewFolder(dir)).toEqual({ alive: false, claim: { kind: 'void' }, status: null });
    writeFileSync(join(dir, 'status'), 'rubbish');
    expect(viewFolder(dir)?.status).toBe('damaged');
  } finally {
    rmSync(root, { recursive: true });
  }
});
