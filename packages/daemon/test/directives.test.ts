import { randomUUID, sign } from 'node:crypto';
import { type Directive, signDirective } from '@aegis/protocol/access/directive';
import { type Envelope, PAYLOAD_TYPES, preAuthEncoding, signEnvelope } from '@aegis/protocol/access/dsse';
import { generateKeyPair, type KeyPair } from '@aegis/protocol/access/keys';
import { operatorKeysOf } from '@aegis/protocol/access/operators';
import { keysFor, openTrustBundle, signTrustBundle } from '@aegis/protocol/access/trust-bundle';
import { expect, test } from 'vitest';
import { NO_POLICY } from '../src/access/policy.ts';
import { directiveVerifier } from '../src/access/verify-directive.ts';
import type { Clock } from '../src/platform/clock.ts';
import { startContractServer } from './contract-server.ts';
import { heldCommand } from './held-command.ts';
import { testNode } from './test-node.ts';
import { waitFor } from './wait-for.ts';

const NOW = Date.parse('2026-06-01T12:00:00Z');
const HOUR = 3_600_000;
const iso = (ms: number) => new Date(ms).toISOString();
const server = generateKeyPair();
const operator = generateKeyPair();
const revoked = generateKeyPair();
const powerless = generateKeyPair();
const stranger = generateKeyPair();
const root = generateKeyPair();
const own = generateKeyPair().keyId;
const entry = (key: KeyPair, usage: ('serve' | 'operate')[], state: 'active' | 'revoked' = 'active') => ({
  keyid: key.keyId,
  public_key: key.publicRaw.toString('base64'),
  name: 'k',
  usage,
  state,
});
const bundle = signTrustBundle(
  {
    fleet: 'test',
    version: 1,
    previous: null,
    issued_at: iso(NOW - HOUR),
    expires_at: iso(NOW + 1e12),
    root: { threshold: 1, keys: [root.publicRaw.toString('base64')] },
    keys: [
      entry(server, ['serve']),
      entry(operator, ['operate']),
      entry(revoked, ['serve'], 'revoked'),
      entry(powerless, []),
      { ...entry(stranger, ['serve']), keyid: server.keyId.replace(/^./, (first) => (first === '0' ? '1' : '0')) },
    ],
  },
  root,
);

const opened = openTrustBundle(bundle, root.keyId, NOW);
const servers = keysFor(opened.bundle, 'serve');
const operators = operatorKeysOf(opened.bundle);
const verifier = ({ now = NOW, floorMs = Number.NEGATIVE_INFINITY, seenBefore = false } = {}) =>
  directiveVerifier({
    fleet: 'test',
    ownKeyId: own,
    servers: () => servers,
    operators: () => operators,
    policy: () => NO_POLICY,
    self: {
      name: 'web-1',
      site: null,
      labels: {},
      capabilities: [],
      os: null,
      container_engine: null,
      status: '',
    },
    factsOf: () => ({ type: null, facts: null }),
    seen: { has: () => seenBefore, floorMs: () => floorMs },
    clock: { now: () => now, monotonic: () => 0 },
  });
const good: Directive = {
  fleet: 'test',
  id: randomUUID(),
  kind: 'command.run',
  targets: { node_keys: ['f'.repeat(64), own] },
  issued_at: iso(NOW - 1000),
  expires_at: iso(NOW + HOUR),
  max_attempts: 3,
  body: {},
};
const outcome = (envelope: Envelope, options = {}, attempt = 1): string => {
  const verdict = verifier(options).verify({ directive: envelope }, attempt);
  return verdict.kind === 'refused' ? verdict.code : verdict.kind;
};
const signed = (change: object = {}, key = server) => signDirective({ ...good, ...change } as Directive, key);
/** Signs these very bytes. */
const signedText = (text: string | Buffer): Envelope => {
  const bytes = Buffer.from(text);
  const sig = sign(null, preAuthEncoding(PAYLOAD_TYPES.directive, bytes), server.privateKey).toString('base64');
  return {
    payloadType: PAYLOAD_TYPES.directive,
    payload: bytes.toString('base64'),
    signatures: [{ keyid: server.keyId, sig }],
  };
};
const text = JSON.stringify(good);

test.each<[string, Envelope, object, number, string]>([
  ['a good one', signed(), {}, 1, 'good'],
  ["an operator's own", signed({}, operator), {}, 1, 'good'],
  [
    'another payload under the signature',
    { ...signed(), payload: signed({ max_attempts: 9 }).payload },
    {},
    1,
    'access.bad_signature',
  ],
  [
    'another type under the signature',
    { ...signed(), payloadType: PAYLOAD_TYPES.report },
    {},
    1,
    'access.bad_signature',
  ],
  ['signed as a report', signEnvelope(PAYLOAD_TYPES.report, good, server), {}, 1, 'access.bad_signature'],
  ['an unknown signer', signed({}, generateKeyPair()), {}, 1, 'access.bad_signature'],
  [
    'a signer under a known id',
    {
      ...signed({}, stranger),
      signatures: [{ keyid: server.keyId, sig: signed({}, stranger).signatures[0]?.sig ?? '' }],
    },
    {},
    1,
    'access.bad_signature',
  ],
  ['a key listed under an id that is not its own', signed({}, stranger), {}, 1, 'access.bad_signature'],
  ['a revoked signer', signed({}, revoked), {}, 1, 'access.bad_signature'],
  ['a signer without the usage', signed({}, powerless), {}, 1, 'access.bad_signature'],
  ['the root itself', signed({}, root), {}, 1, 'access.bad_signature'],
  ['no signature', { ...signed(), signatures: [] }, {}, 1, 'access.bad_signature'],
  ['no JSON', signedText('run everything'), {}, 1, 'access.bad_directive'],
  ['bytes that are no UTF-8', signedText(Buffer.from([0x7b, 0xff, 0x7d])), {}, 1, 'access.bad_directive'],
  ['a repeated key', signedText(text.replace('{', '{"fleet":"other",')), {}, 1, 'access.bad_directive'],
  ['__proto__', signedText(text.replace('{', '{"__proto__":{},')), {}, 1, 'access.bad_directive'],
  [
    'too deep',
    signedText(text.replace('"body":{}', `"body":${'['.repeat(40)}${']'.repeat(40)}`)),
    {},
    1,
    'access.bad_directive',
  ],
  ['an unknown field', signed({ extra: 1 }), {}, 1, 'access.bad_directive'],
  ['a missing field', signed({ expires_at: undefined }), {}, 1, 'access.bad_directive'],
  ['an unknown kind', signed({ kind: 'nodes.settings' }), {}, 1, 'access.bad_directive'],
  ['a time that does not exist', signed({ issued_at: '2026-02-31T25:00:00Z' }), {}, 1, 'access.bad_directive'],
  ['another fleet', signed({ fleet: 'other' }), {}, 1, 'access.wrong_target'],
  ['another node', signed({ targets: { node_keys: ['e'.repeat(64)] } }), {}, 1, 'access.wrong_target'],
  ['a selector', signed({ targets: { selector: 'all' } }), {}, 1, 'access.wrong_target'],
  ['expired', signed({ expires_at: iso(NOW) }), {}, 1, 'expired'],
  ['issued five minutes ahead', signed({ issued_at: iso(NOW + 300_000) }), {}, 1, 'good'],
  ['issued further ahead', signed({ issued_at: iso(NOW + 300_001) }), {}, 1, 'access.stale_directive'],
  ['at the floor', signed(), { floorMs: NOW - 1000 }, 1, 'access.stale_directive'],
  ['above the floor', signed(), { floorMs: NOW - 1001 }, 1, 'good'],
  ['at the floor, expired too', signed({ expires_at: iso(NOW) }), { floorMs: NOW }, 1, 'access.stale_directive'],
  ['seen', signed(), { seenBefore: true }, 1, 'seen'],
  ['seen, and below the floor since', signed(), { seenBefore: true, floorMs: NOW }, 1, 'seen'],
  ['the last attempt', signed(), {}, 3, 'good'],
  ['one attempt too many', signed(), {}, 4, 'access.bad_directive'],
  ['the clock a day ahead', signed(), { now: NOW + 24 * HOUR }, 1, 'expired'],
  ['the clock a day behind', signed(), { now: NOW - 24 * HOUR }, 1, 'access.stale_directive'],
])('%s', (_, envelope, options, attempt, expected) => {
  expect(outcome(envelope, options, attempt)).toBe(expected);
});

test('refusals are reported with a sentence, touch nothing that is known, and end unreadable offers', async () => {
  await using server = await startContractServer();
  await using node = testNode(server);
  const daemon = await node.start();
  const offerOf = (
    directive: Directive,
    execution: { id: string; commandId: string },
    key = server.serverKey,
    kind: 'command.run' | 'command.cancel' = 'command.run',
  ) => ({
    kind,
    command_id: execution.commandId,
    execution_id: execution.id,
    attempt: 1,
    directive: signDirective(directive, key),
  });
  const bad = server.runDirective({ cmd: 'touch /tmp/aegis-must-not-exist' });
  const forged = server.know(bad.id);
  server.offer(offerOf(bad, forged, stranger));
  expect(await waitFor('the refusal', () => forged.reports[0])).toMatchObject({
    state: 'refused',
    error: { code: 'access.bad_signature' },
  });

  const wrong = server.submit({ cmd: 'true', timeout_sec: 'soon' });
  expect(await waitFor('the refusal', () => wrong.reports[0])).toMatchObject({
    state: 'refused',
    error: { code: 'commands.invalid_payload', message: expect.stringContaining('timeout_sec') },
  });
  const alien = server.submit({}, {}, { command_type: 'LaunchRockets' });
  expect(await waitFor('the refusal', () => alien.reports[0])).toMatchObject({
    state: 'refused',
    error: { code: 'commands.unsupported_type' },
  });

  const running = server.submit({ cmd: 'sleep 300' });
  await waitFor('it to run', () => running.state === 'running');
  // A forged directive and a forged cancel under the id of one that runs: nothing happens to it.
  server.offer(offerOf({ ...bad, id: running.commandId }, running, stranger));
  server.offer(
    offerOf(
      { ...bad, kind: 'command.cancel', body: { command_id: running.commandId } },
      running,
      stranger,
      'command.cancel',
    ),
  );
  const unreadable = server.know(randomUUID());
  server.offer({ execution_id: unreadable.id } as never);
  await waitFor('the unreadable offer to be acknowledged', () => unreadable.acknowledged > 0);
  const named = server.know(randomUUID());
  const frame = { kind: 'command.new', execution_id: named.id, command_id: named.commandId, attempt: 1 };
  server.offer({ ...frame, directive: 'x'.repeat(9_000_000) } as never);
  expect(await waitFor('the refusal', () => named.reports[0])).toMatchObject({
    state: 'refused',
    error: { code: 'access.bad_directive' },
  });
  await waitFor('the forgeries to be acknowledged', () => running.acknowledged > 1);
  expect(running.reports.map((report) => report.state)).toEqual(['running']);
  expect(daemon.status()).toMatchObject({ running: 1, queued: 0 });
  server.cancel(running);
  await waitFor('the end', () => running.state === 'cancelled');
});

test('time jumps a day forward and back: nothing runs twice, everything ends', async () => {
  let offset = 0;
  const clock: Clock = { now: () => Date.now() + offset, monotonic: () => performance.now() };
  await using server = await startContractServer();
  await using node = testNode(server);
  await node.start({ clock });
  const held = heldCommand(node.dataDir, { before: 'echo x', after: 'echo y' });
  const running = server.submit({ cmd: held.cmd });
  await waitFor('it to run', () => running.state === 'running');
  offset = 24 * HOUR;
  const late = server.submit({ cmd: 'echo late' });
  expect(await waitFor('the report', () => late.reports[0])).toMatchObject({
    state: 'expired',
    error: { code: 'commands.expired' },
  });
  offset = -24 * HOUR;
  const early = server.submit({ cmd: 'echo early' });
  expect(await waitFor('the report', () => early.reports[0])).toMatchObject({
    state: 'refused',
    error: { code: 'access.stale_directive' },
  });
  held.go();
  await waitFor('the first to end', () => running.state === 'succeeded');
  expect(server.output(running).toString()).toBe('x\ny\n');
  offset = 0;
  const after = server.submit({ cmd: 'echo after' });
  await waitFor('it to end', () => after.state === 'succeeded');
});
