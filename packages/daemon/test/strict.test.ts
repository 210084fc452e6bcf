import { randomUUID } from 'node:crypto';
import { type Directive, signDirective } from '@aegis/protocol/access/directive';
import { type Envelope, PAYLOAD_TYPES, signEnvelope } from '@aegis/protocol/access/dsse';
import { generateKeyPair, type KeyPair } from '@aegis/protocol/access/keys';
import { operatorKeysOf, selectorOfTargets } from '@aegis/protocol/access/operators';
import { type KeyScope, keysFor, TrustBundle } from '@aegis/protocol/access/trust-bundle';
import { describe, expect, test } from 'vitest';
import * as z from 'zod/mini';
import { type Policy, readPolicy } from '../src/access/policy.ts';
import { directiveVerifier, type Offered } from '../src/access/verify-directive.ts';
import { commandFacts } from '../src/commands/process-spec.ts';

/** A node's own policy: every refusal of what a server, or an operator who may not, could send. */

const NOW = Date.parse('2026-06-01T12:00:00Z');
const HOUR = 3_600_000;
const iso = (ms: number): string => new Date(ms).toISOString();
const server = generateKeyPair();
const [alice, alices2nd, bob, nobodys, released, gone, scoped, elsewhere] = Array.from({ length: 8 }, () =>
  generateKeyPair(),
) as [KeyPair, KeyPair, KeyPair, KeyPair, KeyPair, KeyPair, KeyPair, KeyPair];
const own = generateKeyPair().keyId;
const entry = (key: KeyPair, name: string, more: Partial<TrustBundle['keys'][number]> = {}) => ({
  keyid: key.keyId,
  public_key: key.publicRaw.toString('base64'),
  name,
  usage: ['operate' as const],
  state: 'active' as const,
  ...more,
});
const scope = (of: KeyScope): KeyScope => of;
const bundle = z.parse(TrustBundle, {
  fleet: 'test',
  version: 1,
  previous: null,
  issued_at: iso(NOW - HOUR),
  expires_at: iso(NOW + 1e12),
  root: { threshold: 1, keys: [generateKeyPair().publicRaw.toString('base64')] },
  keys: [
    entry(server, 'server', { usage: ['serve'] }),
    entry(alice, 'alice', { person: 'alice' }),
    entry(alices2nd, 'alice-laptop', { person: 'alice' }),
    entry(bob, 'bob', { person: 'bob' }),
    entry(nobodys, 'robot'),
    entry(released, 'release', { usage: ['artifacts'] }),
    entry(gone, 'carol', { person: 'carol', state: 'revoked' }),
    entry(scoped, 'dave', { person: 'dave', scope: scope({ kinds: ['artifacts.assign'] }) }),
    entry(elsewhere, 'erin', { person: 'erin', scope: scope({ selector: 'site=ams' }) }),
  ],
});
const servers = keysFor(bundle, 'serve');
const operators = operatorKeysOf(bundle);

const run = (change: Partial<Directive> = {}): Directive => ({
  fleet: 'test',
  id: randomUUID(),
  kind: 'command.run',
  targets: { selector: 'name=web-1' },
  issued_at: iso(NOW - 1000),
  expires_at: iso(NOW + HOUR),
  max_attempts: 2,
  body: {
    command_type: 'RunCommand',
    payload: { argv: ['id'], timeout_sec: 60 },
    priority: 'normal',
    delivery: 'at-most-once',
    output_limit_bytes: 0,
  },
  ...change,
});
const payload = (command_type: string, of: object): Partial<Directive> => ({
  body: { command_type, payload: of, priority: 'normal', delivery: 'at-most-once', output_limit_bytes: 0 },
});
const toKey = { targets: { node_keys: [own] } };
const by = (directive: Directive, ...keys: KeyPair[]): Envelope =>
  signEnvelope(PAYLOAD_TYPES.directive, directive, ...keys);

const STRICT: Policy = { obey: 'operators' };
const PAIRS: Policy = { obey: { threshold: 2 } };
const verifierOf = (policy: Policy) =>
  directiveVerifier({
    fleet: 'test',
    ownKeyId: own,
    servers: () => servers,
    operators: () => operators,
    policy: () => policy,
    self: {
      name: 'web-1',
      uid: '0197d0c8-0000-7000-8000-000000000001',
      site: 'fra',
      labels: { env: 'prod' },
      capabilities: ['commands'],
      os: 'Debian GNU/Linux 13',
      container_engine: null,
      status: '',
    },
    factsOf: (body) =>
      commandFacts(body, {
        tools: { packageManager: 'apt', compose: [], aegis: null },
        accountOf: (user) => ({ name: user === null || user === '0' ? 'root' : user, home: '/', shell: '/bin/sh' }),
      }),
    seen: { has: (id, attempt) => id === SEEN && attempt === 1, floorMs: () => NOW - 48 * HOUR },
    clock: { now: () => NOW, monotonic: () => 0 },
  });
const SEEN = randomUUID();
const verdict = (offered: Offered, policy: Policy = STRICT, attempt = 1): string => {
  const found = verifierOf(policy).verify(offered, attempt);
  return found.kind === 'refused' ? found.code : found.kind;
};

const servers1 = by(run(toKey), server);
const offer = (operator_directive: Envelope, directive = servers1): Offered => ({ directive, operator_directive });

describe('a strict node', () => {
  const directive = run();
  test.each<[string, Offered, string]>([
    ["refuses the server's own", { directive: servers1 }, 'access.policy'],
    ["refuses the server's own under an operator's place", offer(servers1), 'access.policy'],
    ["obeys an operator's, whatever the server's says", offer(by(directive, alice)), 'good'],
    ["obeys an operator's beside a server's that is none", offer(by(directive, alice), by(run(), bob)), 'good'],
    ['obeys a key that names no person', offer(by(directive, nobodys)), 'good'],
    ['refuses a key of another usage', offer(by(directive, released)), 'access.bad_signature'],
    ['refuses a revoked key', offer(by(directive, gone)), 'access.bad_signature'],
    ['refuses an unknown key', offer(by(directive, generateKeyPair())), 'access.bad_signature'],
    [
      "refuses an operator's signature under another payload",
      offer({ ...by(directive, alice), payload: by(run({ max_attempts: 9 }), alice).payload }),
      'access.bad_signature',
    ],
    [
      'refuses a report in the place of a directive',
      offer(signEnvelope(PAYLOAD_TYPES.report, directive, alice)),
      'access.bad_signature',
    ],
    [
      'refuses a command that was signed as a wish, with an object and a generation',
      offer(by(run({ object_id: 'probe', generation: 1 }), alice)),
      'access.bad_directive',
    ],
    ['refuses a key whose scope has not the kind', offer(by(directive, scoped)), 'access.wrong_target'],
    ['refuses it also where the node is named by its key', offer(by(run(toKey), scoped)), 'access.policy'],
    ['refuses a key whose scope is another site', offer(by(run(toKey), elsewhere)), 'access.policy'],
    [
      'refuses targets that do not mean it',
      offer(by(run({ targets: { selector: 'name=web-2' } }), alice)),
      'access.wrong_target',
    ],
    [
      'refuses labels that its own files do not have',
      offer(by(run({ targets: { selector: 'label.env=test' } }), alice)),
      'access.wrong_target',
    ],
    [
      'obeys labels that they have',
      offer(by(run({ targets: { selector: 'site=fra and label.env=prod' } }), alice)),
      'good',
    ],
    [
      'refuses what only a server could say',
      offer(by(run({ targets: { selector: 'not status=offline' } }), alice)),
      'access.wrong_target',
    ],
    [
      'refuses a selector that nobody understands',
      offer(by(run({ targets: { selector: 'color=red' } }), alice)),
      'access.wrong_target',
    ],
    [
      'obeys its uid',
      offer(
        by(run({ targets: { selector: selectorOfTargets(['db-1', '0197D0C8-0000-7000-8000-000000000001']) } }), alice),
      ),
      'good',
    ],
    ['refuses another fleet', offer(by(run({ fleet: 'other' }), alice)), 'access.wrong_target'],
    ['refuses what it obeyed before', offer(by(run({ id: SEEN }), alice)), 'seen'],
    [
      'refuses what is older than it remembers',
      offer(by(run({ issued_at: iso(NOW - 49 * HOUR) }), alice)),
      'access.stale_directive',
    ],
    [
      'refuses what is issued in the future',
      offer(by(run({ issued_at: iso(NOW + HOUR) }), alice)),
      'access.stale_directive',
    ],
    ['ends what expired', offer(by(run({ expires_at: iso(NOW) }), alice)), 'expired'],
    [
      'refuses what binds for longer than seven days',
      offer(by(run({ expires_at: iso(NOW + 169 * HOUR) }), alice)),
      'access.bad_directive',
    ],
    [
      "refuses a cancel of the server's",
      { directive: by(run({ ...toKey, kind: 'command.cancel', body: { command_id: SEEN } }), server) },
      'access.policy',
    ],
    [
      "obeys an operator's cancel",
      offer(by(run({ kind: 'command.cancel', body: { command_id: SEEN } }), alice)),
      'good',
    ],
  ])('%s', (_, offered, expected) => {
    expect(verdict(offered)).toBe(expected);
  });

  test('obeys each attempt once, and no more than were signed', () => {
    const signed = by(run({ id: SEEN }), alice);
    expect([1, 2, 3].map((attempt) => verdict(offer(signed), STRICT, attempt))).toEqual([
      'seen',
      'good',
      'access.bad_directive',
    ]);
  });

  test('says what to do', () => {
    const told = (offered: Offered, policy: Policy) => {
      const found = verifierOf(policy).verify(offered, 1);
      return found.kind === 'refused' ? found.message : found.kind;
    };
    expect([
      told({ directive: servers1 }, STRICT),
      told(offer(by(run(), alice, alices2nd)), PAIRS),
      told(offer(by(run(toKey), elsewhere)), STRICT),
    ]).toEqual([
      "This node's own policy (obey) refuses it: for RunCommand it takes an operator's own signature. Sign it with an operator's key that may order this here (--key FILE, AEGIS_KEY or the context); see docs/signing.md.",
      "This node's own policy (obey) refuses it: for RunCommand it takes the own signatures of 2 persons. It carries that of alice's 'alice', alice's 'alice-laptop': have others sign it too ('aegis submit --sign-only', 'aegis access sign'); see docs/signing.md.",
      "This node's own policy (obey) refuses it: for RunCommand it takes an operator's own signature. Beyond their scope here: erin's 'erin'. Sign it with an operator's key that may order this here (--key FILE, AEGIS_KEY or the context); see docs/signing.md.",
    ]);
  });
});

test.each<[string, KeyPair[], string]>([
  ['one person', [alice], 'access.policy'],
  ['one person with two keys', [alice, alices2nd], 'access.policy'],
  ['a person and a key of nobody', [alice, nobodys], 'access.policy'],
  ['two keys of nobody', [nobodys, nobodys], 'access.policy'],
  ['a person and the server', [alice, server], 'access.policy'],
  ['a person and one who was revoked', [alice, gone], 'access.policy'],
  ['a person and one whose scope is elsewhere', [alice, elsewhere], 'access.policy'],
  ['a person twice', [alice, alice], 'access.policy'],
  ['two persons', [alice, bob], 'good'],
  ['two persons, the server and a stranger', [server, generateKeyPair(), bob, alices2nd], 'good'],
])('a threshold of two persons and %s', (_, keys, expected) => {
  expect(verdict(offer(by(run(), ...keys)), PAIRS)).toBe(expected);
});

test.each<[string, Policy, KeyPair[], string]>([
  ['the general threshold of two: an operator', PAIRS, [alice], 'good'],
  ['the general threshold of two: not the server', PAIRS, [server], 'access.policy'],
  [
    'a threshold of its own: not one person',
    { obey: 'operators', cancel: { obey: { threshold: 2 } } },
    [alice],
    'access.policy',
  ],
  ['a threshold of its own: two persons', { obey: 'server', cancel: { obey: { threshold: 2 } } }, [alice, bob], 'good'],
  ['the server, where that is obeyed', { obey: 'server' }, [server], 'good'],
])('stopping, under %s', (_, policy, keys, expected) => {
  const cancel = run({ ...(keys.includes(server) ? toKey : {}), kind: 'command.cancel', body: { command_id: SEEN } });
  expect(verdict({ directive: by(cancel, ...keys) }, policy)).toBe(expected);
});

describe('what a policy allows', () => {
  const policy = readPolicy(
    {
      obey: 'operators',
      cancel: { obey: 'server' },
      commands: {
        types: ['RunCommand', 'docker.*', 'UpdatePackage'],
        users: ['deploy'],
        max_timeout_sec: 600,
        type: {
          'docker.*': { obey: 'server', users: ['root'] },
          'docker.exec': { obey: { threshold: 2 }, users: ['root'] },
          UpdatePackage: { users: ['root'], max_timeout_sec: 7200 },
        },
      },
    },
    'policy.toml',
  );
  const runAs = (user: string | undefined, timeout_sec = 60) =>
    payload('RunCommand', { argv: ['id'], timeout_sec, ...(user === undefined ? {} : { user }) });
  const container = { container: 'web', argv: ['id'], timeout_sec: 60 };
  test.each<[string, Partial<Directive>, KeyPair[], string]>([
    ['an allowed user', runAs('deploy'), [alice], 'good'],
    ['another user', runAs('postgres'), [alice], 'access.policy'],
    ["the daemon's own user, unnamed", runAs(undefined), [alice], 'access.policy'],
    ['root by number', runAs('0'), [alice], 'access.policy'],
    ['too long', runAs('deploy', 601), [alice], 'access.policy'],
    ['without end', runAs('deploy', 0), [alice], 'access.policy'],
    ['another type', payload('exec', { argv: ['id'], user: 'deploy' }), [alice], 'access.policy'],
    [
      'a type with bounds of its own',
      payload('UpdatePackage', { action: 'upgrade', timeout_sec: 7200 }),
      [alice],
      'good',
    ],
    [
      'and its own are bounds',
      payload('UpdatePackage', { action: 'upgrade', timeout_sec: 7201 }),
      [alice],
      'access.policy',
    ],
    [
      "a type for which the server's word is enough",
      { ...toKey, ...payload('docker.ps', { timeout_sec: 60 }) },
      [server],
      'good',
    ],
    ['but not for all of them', { ...toKey, ...payload('docker.exec', container) }, [server], 'access.policy'],
    ['nor one person there', payload('docker.exec', container), [alice], 'access.policy'],
    ['two persons there', payload('docker.exec', container), [alice, bob], 'good'],
    ["the server's cancel", { ...toKey, kind: 'command.cancel', body: { command_id: SEEN } }, [server], 'good'],
    ["not the server's assignment", { ...toKey, kind: 'artifacts.assign' }, [server], 'access.policy'],
  ])('%s', (_, change, keys, expected) => {
    expect(verdict({ directive: by(run(change), ...keys) }, policy)).toBe(expected);
  });

  test.each([
    [{}, 'policy.obey'],
    [{ commands: {} }, 'policy.obey'],
    [{ obey: 'nobody' }, 'policy.obey: Invalid option: expected one of "server"|"operators"'],
    [{ obey: { threshold: 0 } }, 'obey.threshold: Too small'],
    [{ obey: 'server', obeys: 'operators' }, 'Unrecognized key: "obeys"'],
    [{ obey: 'server', commands: { users: 'root' } }, 'commands.users'],
    [{ obey: 'server', commands: { types: ['*'] } }, 'commands.types'],
    [{ obey: 'server', commands: { max_timeout_sec: 0 } }, 'commands.max_timeout_sec'],
    [{ obey: 'server', commands: { type: { RunCommand: { types: [] } } } }, 'commands.type.RunCommand'],
  ])('%j is no policy', (value, why) => {
    expect(() => readPolicy(value, 'policy.toml')).toThrow(why);
  });
});

describe('desired state', () => {
  const wish = (change: Partial<Directive> = {}) =>
    run({
      kind: 'artifacts.assign',
      object_id: 'probe',
      generation: 7,
      body: { state: 'absent', name: 'probe' },
      ...change,
    });
  const desired = (envelope: Envelope, policy: Policy) => {
    const { kind, ...rest } = verifierOf(policy).verifyDesired(envelope);
    return 'code' in rest ? [rest.code, rest.directive?.generation ?? null] : kind;
  };
  test('of the server is refused, and told', () => {
    expect(desired(signDirective(wish(toKey), server), STRICT)).toEqual(['access.policy', 7]);
    expect(desired(signDirective(wish(toKey), server), { obey: 'server' })).toBe('good');
    expect(desired(by(wish(), alice), STRICT)).toBe('good');
    expect(desired(by(wish({ targets: { selector: 'site=ams' } }), alice), STRICT)).toEqual([
      'access.wrong_target',
      null,
    ]);
    expect(desired(by(wish({ expires_at: iso(NOW + 169 * HOUR) }), alice), STRICT)).toEqual([
      'access.bad_directive',
      7,
    ]);
  });

  test("is chosen by kind: the operators' own in the place of the server's, and never both", () => {
    const [s1, s2, s3] = [
      wish(toKey),
      wish({ ...toKey, object_id: 'other' }),
      wish({ ...toKey, kind: 'backups.config' }),
    ].map((one) => signDirective(one, server)) as [Envelope, Envelope, Envelope];
    const [o1, o3] = [by(wish(), alice), by(wish({ kind: 'backups.config' }), alice)];
    const chosen = (policy: Policy) => verifierOf(policy).chooseDesired([s1, s2, s3, 'rubbish'], [o1, o3, 'rubbish']);
    expect(chosen({ obey: 'server' })).toEqual([s1, s2, s3, 'rubbish']);
    expect(chosen(STRICT)).toEqual([s2, 'rubbish', o1, o3]);
    expect(chosen({ obey: 'operators', backups: { obey: 'server' } })).toEqual([s2, s3, 'rubbish', o1]);
  });
});

test('explains every rule in order', () => {
  const policy: Policy = { obey: 'operators', commands: { types: ['RunCommand'], users: ['deploy'] } };
  const steps = verifierOf(policy).explain(by(run(), alice), 1);
  expect(steps.map(({ rule, good, says }) => `${good ? 'yes' : 'no'} ${rule}: ${says}`)).toEqual([
    "yes signature: good: alice's 'alice'",
    expect.stringContaining('yes form: a command.run, id '),
    'yes fleet: test',
    "yes target: 'name=web-1' means this node",
    "yes obey: obey: for RunCommand it takes an operator's own signature; heard: alice's 'alice'",
    'yes type: [commands] types: RunCommand; this is RunCommand',
    "no user: This node's own policy refuses it: [commands] users: deploy; this is for root. Name another with --user, or have the node's administrator allow this one there; see docs/signing.md.",
  ]);
});
