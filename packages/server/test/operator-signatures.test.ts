import { randomUUID } from 'node:crypto';
import { listAudit } from '@aegis/protocol/access/audit-endpoints';
import type { Directive } from '@aegis/protocol/access/directive';
import { type Envelope, PAYLOAD_TYPES, signEnvelope } from '@aegis/protocol/access/dsse';
import { addKey, revokeKey } from '@aegis/protocol/access/endpoints';
import { generateKeyPair, type KeyPair } from '@aegis/protocol/access/keys';
import { assignMany } from '@aegis/protocol/artifacts/endpoints';
import { cancelCommand, submitCommand } from '@aegis/protocol/commands/endpoints';
import { directiveOf } from '@aegis/protocol/commands/signed';
import type { Submission } from '@aegis/protocol/commands/submission';
import { nodeDesired, showWishes, signWishes } from '@aegis/protocol/nodes/endpoints';
import { describe, expect, test } from 'vitest';
import { registry } from './artifacts-support.ts';
import { ack, commandOf, executionsOf, finish, poll, refusal, STORAGES } from './commands-support.ts';
import { handClock, startTestServer, type TestServer } from './start-test-server.ts';

/** The server carries operators' own directives that are genuine and say what the request says, and no others. */

const HOUR = 3_600_000;
const by = (directive: unknown, ...keys: KeyPair[]): Envelope =>
  signEnvelope(PAYLOAD_TYPES.directive, directive, ...keys);
const operator = async (server: TestServer, more: object = {}): Promise<KeyPair> => {
  const key = generateKeyPair();
  const body = { public_key: key.publicRaw.toString('base64'), name: 'op', usage: ['operate' as const], ...more };
  await server.as('admin').call(addKey, { body });
  return key;
};
/** What every directive says, of this fleet and for an hour. */
const anHour = (server: TestServer, now: number) => ({
  fleet: server.running.fleet,
  id: randomUUID(),
  issued_at: new Date(now).toISOString(),
  expires_at: new Date(now + HOUR).toISOString(),
  max_attempts: 1,
});
const ASKED = { command_type: 'exec', payload: { argv: ['id'] }, targets: ['web-1'] } satisfies Partial<Submission>;

describe.each(STORAGES)('%s', (storage) => {
  test('a signed command is carried as it was signed, under the id that it names, once', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock });
    const key = await operator(server);
    const narrow = await operator(server, { scope: { kinds: ['artifacts.assign'] } });
    const gone = await operator(server);
    await server.as('admin').call(revokeKey, { params: { id: gone.keyId } });
    const node = await server.enrol('web-1');
    const fleet = server.running.fleet;
    const make = (change: Partial<Directive> = {}, asked: Partial<Submission> = ASKED): Directive => ({
      ...directiveOf(asked, { fleet, id: randomUUID(), now: clock.now() }),
      ...change,
    });
    const submit = (directive: Envelope, asked: Partial<Submission> = ASKED) =>
      server.as('operator').call(submitCommand, { body: { ...asked, directive } });
    const iso = (ms: number) => new Date(clock.now() + ms).toISOString();
    const good = by(make(), key);
    const refused: [string, Envelope, Partial<Submission>, string][] = [
      ['an unknown key', by(make(), generateKeyPair()), ASKED, 'access.bad_signature'],
      ['a revoked key', by(make(), gone), ASKED, 'access.bad_signature'],
      ['one good signature and one that is not', by(make(), key, generateKeyPair()), ASKED, 'access.bad_signature'],
      ['another payload', { ...good, payload: by(make(), key).payload }, ASKED, 'access.bad_signature'],
      ['a key without the kind', by(make(), narrow), ASKED, 'access.bad_directive'],
      ['no directive', by({ hello: 'world' }, key), ASKED, 'access.bad_directive'],
      ['another fleet', by(make({ fleet: 'other' }), key), ASKED, 'access.bad_directive'],
      ['another kind', by(make({ kind: 'command.cancel' }), key), ASKED, 'access.bad_directive'],
      ['other targets', by(make({ targets: { selector: 'all' } }), key), ASKED, 'access.bad_directive'],
      ['targets by key', by(make({ targets: { node_keys: [node.keys.keyId] } }), key), ASKED, 'access.bad_directive'],
      ['another command', good, { ...ASKED, payload: { argv: ['reboot'] } }, 'access.bad_directive'],
      ['another user', good, { ...ASKED, payload: { argv: ['id'], user: 'root' } }, 'access.bad_directive'],
      ['another priority', good, { ...ASKED, priority: 'critical' }, 'access.bad_directive'],
      ['more attempts', good, { ...ASKED, max_retries: 1 }, 'access.bad_directive'],
      ['another start', good, { ...ASKED, scheduled_at: iso(HOUR) }, 'access.bad_directive'],
      ['expired', by(make({ expires_at: iso(0) }), key), ASKED, 'access.stale_directive'],
      ['from the future', by(make({ issued_at: iso(HOUR) }), key), ASKED, 'access.stale_directive'],
      ['for longer than seven days', by(make({ expires_at: iso(169 * HOUR) }), key), ASKED, 'access.stale_directive'],
    ];
    for (const [why, envelope, asked, code] of refused)
      expect([why, ...(await refusal(submit(envelope, asked)))]).toEqual([why, 403, code]);
    expect((await poll(node)).commands).toEqual([]);

    const directive = make({ expires_at: iso(2 * HOUR) });
    const envelope = by(directive, key);
    const answer = await submit(envelope);
    expect([answer.command_id, answer.expires_at]).toEqual([directive.id, directive.expires_at]);
    const [offer] = (await poll(node)).commands;
    expect([offer?.command_id, offer?.operator_directive]).toEqual([directive.id, envelope]);
    expect(await refusal(submit(envelope))).toEqual([409, 'commands.idempotency_conflict']);
    const [unsigned] = [await server.as('operator').call(submitCommand, { body: ASKED })];
    const next = (await poll(node)).commands.find(({ command_id }) => command_id === unsigned.command_id);
    expect(next?.operator_directive).toBeUndefined();
  });

  test('the audit says by whose keys it was signed', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock });
    const [one, two] = [await operator(server), await operator(server)];
    await server.enrol('web-1');
    const stranger = generateKeyPair();
    const submit = (...keys: KeyPair[]) => {
      const asked = directiveOf(ASKED, { fleet: server.running.fleet, id: randomUUID(), now: clock.now() });
      return server.as('operator').call(submitCommand, { body: { ...ASKED, directive: by(asked, ...keys) } });
    };
    await submit(one, two);
    expect(await refusal(submit(stranger))).toEqual([403, 'access.bad_signature']);
    await server.as('operator').call(submitCommand, { body: ASKED });
    const { items } = await server.as('admin').call(listAudit, { query: { action: 'submitCommand' } });
    const signers = (summary: readonly string[]) => summary.filter((text) => text.startsWith('signed_by='));
    const both = [one, two].map(({ keyId }) => `signed_by=${keyId}`);
    expect(items.toReversed().map(({ outcome, summary }) => [outcome, ...signers(summary)])).toEqual([
      ['begun', ...both],
      ['ok', ...both],
      ['begun', `signed_by=${stranger.keyId}`],
      ['refused', `signed_by=${stranger.keyId}`],
      ['begun'],
      ['ok'],
    ]);
    expect(JSON.stringify(items)).not.toContain('"sig"');
  });

  test('a signed cancel goes along, also after one that was not signed', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock });
    const key = await operator(server);
    const node = await server.enrol('web-1');
    const answer = await server.as('operator').call(submitCommand, { body: ASKED });
    const id = answer.command_id ?? '';
    const executionId = answer.targets[0]?.execution_id ?? '';
    await poll(node);
    await ack(node, executionId);
    const cancel = (directive?: Envelope, more: { node?: string } = {}) =>
      server
        .as('operator')
        .call(cancelCommand, { params: { id }, body: { ...more, ...(directive ? { directive } : {}) } });
    const wish = (change: Partial<Directive> = {}): Directive => ({
      ...anHour(server, clock.now()),
      kind: 'command.cancel',
      targets: { selector: 'all' },
      body: { command_id: id },
      ...change,
    });
    expect(await refusal(cancel(by(wish({ body: { command_id: randomUUID() } }), key)))).toEqual([
      403,
      'access.bad_directive',
    ]);
    expect(await refusal(cancel(by(wish(), key), { node: 'web-1' }))).toEqual([403, 'access.bad_directive']);
    await cancel();
    const [first] = (await poll(node)).commands;
    expect([first?.kind, first?.operator_directive]).toEqual(['command.cancel', undefined]);
    await ack(node, executionId);
    expect((await executionsOf(server, id)).map(({ state, presumed }) => [state, presumed])).toEqual([
      ['cancelled', true],
    ]);
    expect(await refusal(cancel())).toEqual([409, 'commands.not_cancellable']);
    const envelope = by(wish({ targets: { selector: 'name=web-1' } }), key);
    await cancel(envelope, { node: 'web-1' });
    const [second] = (await poll(node)).commands;
    expect([second?.kind, second?.operator_directive]).toEqual(['command.cancel', envelope]);
    await finish(node, { commandId: id, executionId }, { state: 'cancelled', exit_code: null, signal: 'SIGTERM' });
    expect(await refusal(cancel(by(wish(), key)))).toEqual([409, 'commands.not_cancellable']);
    expect((await commandOf(server, id)).state).toBe('cancelled');
  });

  test('each node is offered the cancel that was meant for it, however many there are', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock });
    const key = await operator(server);
    const names = Array.from({ length: 10 }, (_, nth) => `web-${nth}`);
    const nodes = await Promise.all(names.map((name) => server.enrol(name)));
    const asked = { ...ASKED, targets: names };
    const answer = await server.as('operator').call(submitCommand, { body: asked });
    const id = answer.command_id ?? '';
    for (const node of nodes) {
      const [offer] = (await poll(node)).commands;
      await ack(node, offer?.execution_id ?? '');
    }
    const signed = (node?: string): Envelope =>
      by(
        {
          ...directiveOf(asked, { fleet: server.running.fleet, id: randomUUID(), now: clock.now() }),
          kind: 'command.cancel',
          targets: { selector: node === undefined ? 'all' : `name=${node}` },
          body: { command_id: id },
        },
        key,
      );
    const cancel = (directive: Envelope, node?: string) =>
      server.as('operator').call(cancelCommand, { params: { id }, body: { ...(node ? { node } : {}), directive } });
    expect(await refusal(cancel(signed('web-99'), 'web-99'))).toEqual([404, 'commands.unknown_execution']);
    const own = names.map((name) => signed(name));
    for (const [nth, name] of names.entries()) await cancel(own[nth] ?? signed(), name);
    const offers = [];
    for (const node of nodes) offers.push(...(await poll(node)).commands);
    expect(offers.map((offer) => offer.operator_directive)).toEqual(own);
  });

  test('signatures of desired state are kept while the wish stands, and wake the node', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock });
    const key = await operator(server);
    const { publish } = await registry(server);
    await publish('probe', '1.0.0');
    await publish('probe', '2.0.0');
    const node = await server.enrol('web-1');
    const assign = (artifact: string) =>
      server.as('operator').call(assignMany, { body: { artifact, targets: ['web-1'] } });
    const wishes = () => server.as('operator').call(showWishes, { params: { id: 'web-1' } });
    await assign('probe@1.0.0');
    const [wish] = (await wishes()).wishes;
    const make = (change: Partial<Directive> = {}): Directive => ({
      ...anHour(server, clock.now()),
      kind: 'artifacts.assign',
      targets: { selector: 'site=fra' },
      object_id: 'probe',
      generation: 1,
      body: wish?.body,
      ...change,
    });
    const sign = (...directives: Envelope[]) =>
      server.as('operator').call(signWishes, { params: { id: 'web-1' }, body: { directives } });
    const good = by(make(), key);
    for (const [why, envelope, code] of [
      ['an unknown key', by(make(), generateKeyPair()), 'access.bad_signature'],
      ['another fleet', by(make({ fleet: 'other' }), key), 'access.bad_directive'],
      ['another generation', by(make({ generation: 2 }), key), 'access.bad_directive'],
      ['another object', by(make({ object_id: 'other' }), key), 'access.bad_directive'],
      ['another kind', by(make({ kind: 'backups.config' }), key), 'access.bad_directive'],
      ['another body', by(make({ body: { state: 'absent', name: 'probe' } }), key), 'access.bad_directive'],
      ['an old one', by(make({ expires_at: new Date(clock.now()).toISOString() }), key), 'access.stale_directive'],
    ] as const)
      expect([why, ...(await refusal(sign(good, envelope)))]).toEqual([why, 403, code]);
    const before = await node.call(nodeDesired);
    expect([before.directives.length, before.operator_directives]).toEqual([1, []]);
    expect(await sign(good)).toEqual({ signed: 1 });
    const after = await node.call(nodeDesired);
    expect([after.operator_directives, after.revision > before.revision]).toEqual([[good], true]);
    expect((await wishes()).wishes[0]?.operator_directive).toEqual(good);
    await assign('probe@2.0.0');
    expect((await node.call(nodeDesired)).operator_directives).toEqual([]);
    expect(
      (await wishes()).wishes.map(({ generation, operator_directive }) => [generation, operator_directive]),
    ).toEqual([[2, null]]);
  });
});
