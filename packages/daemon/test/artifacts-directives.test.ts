import { sign } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { type Directive, signDirective } from '@aegis/protocol/access/directive';
import { type Envelope, PAYLOAD_TYPES, preAuthEncoding, signEnvelope } from '@aegis/protocol/access/dsse';
import { generateKeyPair } from '@aegis/protocol/access/keys';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { ArtifactServer } from './artifact-server.ts';
import type { FakeKernel } from './fake-kernel.ts';
import { type HostileStage, hostileStage } from './hostile-stage.ts';
import { waitFor } from './wait-for.ts';

/** Directives of desired state that a hostile or broken server, or a thief of old ones, might give. Each names its reason, where there is
 *  anybody to tell; none reaches the engine, and none leaves anything on disk. */

let stage: HostileStage;
let server: ArtifactServer;
let kernel: FakeKernel;
beforeAll(async () => {
  stage = await hostileStage();
  ({ server, kernel } = stage);
});
afterAll(() => stage[Symbol.asyncDispose]());

const HOUR = 3_600_000;
const iso = (ms: number) => new Date(Date.now() + ms).toISOString();
const stranger = generateKeyPair();

/** Directives: what is wrong, how it is made of a good one for an artifact of this name, and what is reported (null: nothing, for it is
 *  no word of this fleet's to this node). */
const directives: [string, (good: Directive) => Envelope | unknown, string | null][] = [
  ['a directive of an unknown signer', (good) => signDirective(good, stranger), null],
  [
    "an unknown signer's under the server's key id",
    (good) => {
      const envelope = signDirective(good, stranger);
      const sig = envelope.signatures[0]?.sig ?? '';
      return { ...envelope, signatures: [{ keyid: server.serverKey.keyId, sig }] };
    },
    null,
  ],
  ['a directive that an artifacts key signed', (good) => signDirective(good, server.signer.key), null],
  ['a directive that the root signed', (good) => signDirective(good, server.root), null],
  [
    'another payload under a good signature',
    (good) => ({
      ...server.signed(good),
      payload: server.signed({ ...good, generation: (good.generation ?? 0) + 1 }).payload,
    }),
    null,
  ],
  ['signed as a report', (good) => signEnvelope(PAYLOAD_TYPES.report, good, server.serverKey), null],
  ["another node's directive", (good) => server.signed({ ...good, targets: { node_keys: ['e'.repeat(64)] } }), null],
  ['a directive by selector', (good) => server.signed({ ...good, targets: { selector: 'all' } }), null],
  ["another fleet's directive", (good) => server.signed({ ...good, fleet: 'other' }), null],
  ['a command', (good) => server.signed({ ...good, kind: 'command.run' }), null],
  ['no generation', (good) => server.signed(without(good, 'generation')), null],
  ['no object id', (good) => server.signed(without(good, 'object_id')), null],
  ['generation 0', (good) => server.signed({ ...good, generation: 0 }), null],
  ['an unknown field', (good) => server.signed({ ...good, extra: 1 } as never), null],
  ['no envelope at all', () => ({ payload: 'x' }), null],
  ['a number', () => 7, null],
  ['a repeated key', (good) => signedText(JSON.stringify(good).replace('{', '{"generation":1,')), null],
  ['bytes that are no UTF-8', () => signedText(Buffer.from([0x7b, 0xff, 0x7d])), null],
  [
    'an expired directive',
    // A minute short of seven days: the clock moves on between the two.
    (good) => server.signed({ ...good, issued_at: iso(-8 * 24 * HOUR), expires_at: iso(-24 * HOUR - 60_000) }),
    'access.stale_directive',
  ],
  [
    'a directive from the future',
    (good) => server.signed({ ...good, issued_at: iso(6 * 60_000), expires_at: iso(HOUR) }),
    'access.stale_directive',
  ],
  [
    'a directive that does not hold yet',
    (good) => server.signed({ ...good, not_before: iso(HOUR) }),
    'access.stale_directive',
  ],
  [
    'a directive that claims to hold a year',
    (good) => server.signed({ ...good, expires_at: iso(365 * 24 * HOUR) }),
    'access.bad_directive',
  ],
  [
    'a body about another artifact',
    (good) => server.signed({ ...good, object_id: `${good.object_id}-x` }),
    'access.bad_directive',
  ],
  [
    'a body that is no assignment',
    (good) => server.signed({ ...good, body: { state: 'present', name: good.object_id } }),
    'access.bad_directive',
  ],
  [
    'a body with an unknown field',
    (good) => server.signed({ ...good, body: { ...(good.body as object), run_as: 'root' } }),
    'access.bad_directive',
  ],
  [
    'an attach point with a path that climbs',
    (good) =>
      server.signed({
        ...good,
        body: {
          ...(good.body as object),
          programs: [{ name: 'block', attach: { kind: 'cgroup_skb', cgroup: '/../../x', direction: 'egress' } }],
        },
      }),
    'access.bad_directive',
  ],
];
const without = (directive: Directive, key: keyof Directive): Directive =>
  Object.fromEntries(Object.entries(directive).filter(([name]) => name !== key)) as Directive;
const signedText = (text: string | Buffer): Envelope => {
  const bytes = Buffer.from(text);
  const message = preAuthEncoding(PAYLOAD_TYPES.directive, bytes);
  return {
    payloadType: PAYLOAD_TYPES.directive,
    payload: bytes.toString('base64'),
    signatures: [
      { keyid: server.serverKey.keyId, sig: sign(null, message, server.serverKey.privateKey).toString('base64') },
    ],
  };
};

test.each(directives)('directive: %s', async (what, make, code) => {
  const calls = kernel.calls.length;
  const name = `d-${directives.findIndex(([other]) => other === what)}`;
  const published = await server.publish({ name });
  const [downloads, told] = [server.downloads.length, server.reports.length];
  const good = server.directiveOf(server.bodyOf(published), 3);
  await stage.give([make(good)]);
  if (code === null) expect(server.reports.slice(told)).toEqual([]);
  else {
    const report = await waitFor('the report', () => server.reports[told]);
    expect(report).toMatchObject({ generation: 3, state: 'failed', attachments: [], reason: { code } });
    expect(report.reason?.message).toMatch(/\.$/);
    expect(report.name.startsWith(name)).toBe(true);
  }
  expect(server.downloads.slice(downloads)).toEqual([]);
  expect(stage.onDisk()).toEqual(stage.steadyFile());
  expect(stage.daemon.status().artifacts.assigned).toBe(1);
  stage.unharmed(calls);
});

test('an older generation, the same with another body, and a tombstone of an old one change nothing', async () => {
  const calls = kernel.calls.length;
  const told = server.reports.length;
  const older = server.directiveOf({ ...stage.steady, version: '0.9.0' }, 4);
  await stage.give([server.signed(older)]);
  await stage.give([server.signed(server.directiveOf({ state: 'absent', name: 'steady' }, 4))]);
  expect(await refusalOf('steady')).toMatchObject({ generation: 4, reason: { code: 'artifacts.stale_generation' } });
  const conflicting = server.directiveOf({ ...stage.steady, constants: { target_ip: '192.0.2.66', magic: 7 } }, 5);
  await stage.give([server.signed(conflicting)]);
  await waitFor(
    'the conflict to be told',
    () => server.last('steady')?.reason?.code === 'artifacts.generation_conflict',
  );
  expect(server.last('steady')).toMatchObject({ generation: 5, version: '1.0.0', state: 'attached' });
  await stage.give([server.signed(server.directiveOf({ state: 'absent', name: 'steady' }, 5))]);
  // The very same body under a fresh id and time is nothing new.
  await stage.give([server.signed(server.directiveOf(stage.steady, 5))]);
  stage.unharmed(calls);
  expect(stage.onDisk()).toEqual(stage.steadyFile());
  expect(server.reports.slice(told).every(({ generation }) => generation === 5)).toBe(true);
  expect(stage.daemon.attachments()).toMatchObject([
    { name: 'steady', generation: 5, version: '1.0.0', state: 'attached' },
  ]);
});

/** What the node tried to tell, also of a generation that the server does not store. */
const refusalOf = (name: string) =>
  waitFor('the refusal', () => server.tried.findLast((report) => report.name === name && report.reason !== undefined));

test('a newer generation that is refused does not take off what runs', async () => {
  const calls = kernel.calls.length;
  const expired = { issued_at: iso(-8 * 24 * HOUR), expires_at: iso(-24 * HOUR) };
  await stage.give([server.signed(server.directiveOf({ state: 'absent', name: 'steady' }, 6, expired))]);
  const report = await waitFor('the refusal', () =>
    server.last('steady')?.generation === 6 ? server.last('steady') : null,
  );
  expect(report).toMatchObject({
    state: 'attached',
    version: '1.0.0',
    attachments: [{ program: 'block', state: 'attached' }],
    reason: { code: 'access.stale_directive' },
  });
  stage.unharmed(calls);
});

test('more artifacts than the node takes', async () => {
  const calls = kernel.calls.length;
  const many = await server.publish({ name: 'many' });
  server.blobs.delete(many.id);
  const bodies = Array.from({ length: 60 }, (_, n) => ({ ...server.bodyOf(many), name: `many-${n}`, signature: null }));
  await stage.give(bodies.map((body) => server.signed(server.directiveOf(body, 1))));
  await waitFor('the reports', () => bodies.every(({ name }) => server.last(name)?.state === 'failed'));
  expect(server.last('many-58')?.reason?.code).toBe('artifacts.unsigned');
  expect(server.last('many-59')?.reason).toMatchObject({
    code: 'artifacts.storage_full',
    message: expect.stringContaining('journal_max_artifacts'),
  });
  await stage.give(bodies.map(({ name }) => server.signed(server.directiveOf({ state: 'absent', name }, 2))));
  await waitFor('them to be off', () => bodies.every(({ name }) => server.last(name)?.state === 'detached'));
  expect(stage.daemon.status().artifacts.assigned).toBe(1);
  expect(kernel.calls.slice(calls).filter((call) => call.startsWith('apply'))).toEqual([]);
});
test('an offer of an assignment as a command is refused, and nothing of it is taken', async () => {
  const calls = kernel.calls.length;
  const published = await server.publish({ name: 'as-a-command' });
  const directive = server.directiveOf(server.bodyOf(published), 1);
  const execution = server.know(directive.id);
  server.offer({
    kind: 'command.run',
    command_id: directive.id,
    execution_id: execution.id,
    attempt: 1,
    directive: server.signed(directive),
  });
  const report = await waitFor('the refusal', () => execution.reports[0]);
  expect(report).toMatchObject({
    state: 'refused',
    error: { code: 'access.bad_directive', message: expect.stringContaining('artifacts.assign') },
  });
  stage.unharmed(calls);
  expect(existsSync(join(stage.dataDir, 'executions', execution.id))).toBe(false);
});
