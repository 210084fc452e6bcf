import { randomUUID } from 'node:crypto';
import { chmodSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Directive, MAX_LIFETIME_MS } from '@aegis/protocol/access/directive';
import { type Envelope, PAYLOAD_TYPES, signEnvelope } from '@aegis/protocol/access/dsse';
import { addKey } from '@aegis/protocol/access/endpoints';
import { generateKeyPair, type KeyPair } from '@aegis/protocol/access/keys';
import { readDirective } from '@aegis/protocol/access/operators';
import { signTrustBundle, type TrustBundle } from '@aegis/protocol/access/trust-bundle';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { fakeKernel } from '../../packages/daemon/test/fake-kernel.ts';
import { loadFleetKeys } from '../../packages/server/src/access/fleet-keys.ts';
import { registry } from '../../packages/server/test/artifacts-support.ts';
import { type Offer, offerTo, withTrust } from '../faults/lying-server.ts';
import { waitFor } from '../faults/wait.ts';
import { type HeldFleet, type HeldNode, startHeldFleet } from '../fleet/in-process.ts';

/** A server that was stolen whole: the real code, its database and its keys, changed to lie in what it hands to a node. Whatever it tries, a
 *  node that obeys operators alone runs, loads, uploads and reveals nothing. A default node shows beside it what such a server can do. */

let fleet: HeldFleet;
let strict: HeldNode;
let plain: HeldNode;
let folder: string;
let server: KeyPair;
let name: string;
const alice = generateKeyPair();
const bob = generateKeyPair();
const elsewhere = generateKeyPair();
const carol = generateKeyPair();

beforeAll(async () => {
  fleet = await startHeldFleet();
  folder = mkdtempSync(join(tmpdir(), 'aegis-malicious-'));
  const policy = join(folder, 'policy.toml');
  writeFileSync(policy, 'obey = "operators"\n[commands.type.exec]\nobey = { threshold = 2 }\n');
  chmodSync(policy, 0o600);
  const admin = fleet.server.as('admin');
  const add = async (key: KeyPair, person: string, more: object = {}) =>
    admin.call(addKey, {
      body: { public_key: key.publicRaw.toString('base64'), name: person, person, usage: ['operate'], ...more },
    });
  await add(alice, 'alice');
  await add(bob, 'bob');
  await add(elsewhere, 'erin', { scope: { selector: 'site=ams' } });
  await add(carol, 'carol', { scope: { kinds: ['artifacts.assign'] } });
  // What a thief has: everything in the data directory.
  const keys = loadFleetKeys(fleet.server.dataDir, Date.now());
  if (!keys) throw new Error('the server has no keys');
  server = keys.server;
  name = keys.fleet;
  const flags = { site: 'fra', labels: { env: 'prod' } };
  strict = fleet.node('strict', { ...flags, policy_file: policy });
  plain = fleet.node('plain', flags);
  await Promise.all([
    strict.start({ kernelEngine: fakeKernel().engine }),
    plain.start({ kernelEngine: fakeKernel().engine }),
  ]);
});
afterAll(async () => {
  await fleet?.[Symbol.asyncDispose]();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

const iso = (ms: number): string => new Date(ms).toISOString();
const keyIdOf = (node: HeldNode): string => node.daemon?.status().key_id ?? '';
/** Runs `touch` on what is looked for afterwards. */
const run = (marker: string, change: Partial<Directive> = {}, type = 'RunCommand'): Directive => ({
  fleet: name,
  id: randomUUID(),
  kind: 'command.run',
  targets: { selector: 'all' },
  issued_at: iso(Date.now() - 1000),
  expires_at: iso(Date.now() + 3_600_000),
  max_attempts: 1,
  body: {
    command_type: type,
    payload: { argv: ['touch', marker], timeout_sec: 60 },
    priority: 'critical',
    delivery: 'at-most-once',
    output_limit_bytes: 0,
  },
  ...change,
});
const by = (directive: Directive, ...keys: KeyPair[]): Envelope =>
  signEnvelope(PAYLOAD_TYPES.directive, directive, ...keys);
const edited = (envelope: Envelope, from: string, to: string): Envelope => ({
  ...envelope,
  payload: Buffer.from(Buffer.from(envelope.payload, 'base64').toString().replace(from, to)).toString('base64'),
});
const offer = (node: HeldNode, offers: readonly Offer[]) => offerTo(fleet, node, offers);

const marker = (): string => join(folder, randomUUID());
/** Nothing is queued, started or running there any more. */
const settled = (node: HeldNode) =>
  waitFor(`${node.name} to be idle`, () => {
    const status = node.daemon?.status();
    return status?.queued === 0 && status.running === 0 && status.unreported === 0;
  });

type Way = (marker: string, node: HeldNode) => Offer[];
const one = (directive: Directive, operator?: Envelope, servers?: Envelope): Offer[] => [
  {
    command_id: directive.id,
    directive: servers ?? by({ ...directive, targets: { node_keys: [keyIdOf(strict), keyIdOf(plain)] } }, server),
    ...(operator ? { operator_directive: operator } : {}),
  },
];

/** Ways to make a node run something that no operator signed for it. */
const COMMANDS: [string, Way][] = [
  ['its own command', (m) => one(run(m))],
  ['its own command in the operators’ place', (m) => one(run(m), by(run(m), server))],
  [
    'its own command for this node’s key, there',
    (m, node) => one(run(m), by(run(m, { targets: { node_keys: [keyIdOf(node)] } }), server)),
  ],
  [
    'an altered payload under an operator’s signature',
    (m) => one(run(m), edited(by(run('/nowhere/at/all'), alice), '/nowhere/at/all', m)),
  ],
  [
    'widened targets under an operator’s signature',
    (m) => one(run(m), edited(by(run(m, { targets: { selector: 'name=db-1' } }), alice), 'name=db-1', 'name=*')),
  ],
  ['another node’s directive', (m) => one(run(m), by(run(m, { targets: { selector: 'name=db-1' } }), alice))],
  [
    'a directive for labels that only the database has',
    (m) => one(run(m), by(run(m, { targets: { selector: 'label.env=test' } }), alice)),
  ],
  [
    'a directive for a site that only the database has',
    (m) => one(run(m), by(run(m, { targets: { selector: 'site=ams' } }), alice)),
  ],
  [
    'a directive that leaves the judgement to the server',
    (m) => one(run(m), by(run(m, { targets: { selector: 'status=online' } }), alice)),
  ],
  ['another fleet’s directive', (m) => one(run(m), by(run(m, { fleet: 'other' }), alice))],
  ['an operator’s directive that expired', (m) => one(run(m), by(run(m, { expires_at: iso(Date.now() - 1) }), alice))],
  [
    'one that holds for ever',
    (m) => one(run(m), by(run(m, { expires_at: iso(Date.now() + 2 * MAX_LIFETIME_MS) }), alice)),
  ],
  ['one from the future', (m) => one(run(m), by(run(m, { issued_at: iso(Date.now() + 3_600_000) }), alice))],
  [
    'more attempts than were signed',
    (m) => {
      const signed = run(m);
      return [{ ...(one(signed, by(signed, alice))[0] as Offer), attempt: 2 }];
    },
  ],
  ['a key of another scope', (m) => one(run(m), by(run(m), elsewhere))],
  ['a key for assignments alone', (m) => one(run(m), by(run(m), carol))],
  ['a key that nobody lists', (m) => one(run(m), by(run(m), generateKeyPair()))],
  [
    'an unlisted key under an operator’s id',
    (m) => one(run(m), by(run(m), { ...generateKeyPair(), keyId: alice.keyId })),
  ],
  [
    'an assignment’s signature as a command',
    (m) => one(run(m), by(run(m, { kind: 'artifacts.assign', object_id: 'x', generation: 1 }), carol)),
  ],
  ['a cancel’s signature as a command', (m) => one(run(m), by(run(m, { kind: 'command.cancel' }), alice))],
  ['a report’s type under a command', (m) => one(run(m), signEnvelope(PAYLOAD_TYPES.report, run(m), alice))],
  ['a trust bundle’s type under a command', (m) => one(run(m), signEnvelope(PAYLOAD_TYPES.trust, run(m), alice))],
  ['one command’s directive under another’s id', (m) => one(run(m), by(run(m), alice))],
  [
    'one signature where two persons are needed',
    (m) => {
      const signed = run(m, {}, 'exec');
      return one(signed, by(signed, alice));
    },
  ],
  [
    'one person’s signature twice',
    (m) => {
      const signed = run(m, {}, 'exec');
      const envelope = by(signed, alice);
      return one(signed, { ...envelope, signatures: [...envelope.signatures, ...envelope.signatures] });
    },
  ],
  [
    'the server as the second person',
    (m) => {
      const signed = run(m, {}, 'exec');
      return one(signed, by(signed, alice, server));
    },
  ],
  [
    'a signature dropped from one envelope into another',
    (m) => {
      const signed = run(m, {}, 'exec');
      const [theirs] = by(run(m, {}, 'exec'), bob).signatures;
      const envelope = by(signed, alice);
      return one(signed, { ...envelope, signatures: theirs ? [...envelope.signatures, theirs] : [] });
    },
  ],
  [
    'its own restore',
    (m) =>
      one(
        run(m, {
          body: {
            command_type: 'backups.restore',
            payload: { run_id: randomUUID(), target: m },
            priority: 'normal',
            delivery: 'at-most-once',
            output_limit_bytes: 0,
          },
        }),
      ),
  ],
  [
    'its own run of a backup',
    (m) =>
      one(
        run(m, {
          body: {
            command_type: 'backups.run',
            payload: { config: 'etc' },
            priority: 'normal',
            delivery: 'at-most-once',
            output_limit_bytes: 0,
          },
        }),
      ),
  ],
  [
    'its own look at containers',
    (m) =>
      one(
        run(m, {
          body: {
            command_type: 'docker.ps',
            payload: {},
            priority: 'normal',
            delivery: 'at-most-once',
            output_limit_bytes: 0,
          },
        }),
      ),
  ],
];

describe('a stolen server and a strict node', () => {
  test('none of its ways makes the node run anything', async () => {
    const tried = COMMANDS.map(([way, make]) => {
      const m = marker();
      return { way, m, offers: make(m, strict) };
    });
    await offer(
      strict,
      tried.flatMap(({ offers }) => offers),
    );
    await settled(strict);
    expect(tried.filter(({ m }) => existsSync(m)).map(({ way }) => way)).toEqual([]);
    // The same door, and a signature that counts: so it was not the door that refused.
    const m = marker();
    const signed = run(m);
    await offer(strict, one(signed, by(signed, alice)));
    await waitFor('what an operator signed to run', () => existsSync(m));
    await settled(strict);
    // A replay, also under another execution and attempt, and after a restart.
    rmSync(m);
    await offer(strict, one(signed, by(signed, alice)));
    await strict.stop();
    await strict.start({ kernelEngine: fakeKernel().engine });
    await offer(strict, [
      ...one(signed, by(signed, alice)),
      ...one(signed, by(signed, alice)).map((again) => ({ ...again, attempt: 2 })),
    ]);
    await settled(strict);
    expect(existsSync(m)).toBe(false);
  });

  test('it cannot stop what runs', async () => {
    const m = marker();
    const signed = run(m, {
      body: {
        command_type: 'RunCommand',
        payload: { cmd: `touch ${m}; exec sleep 600`, timeout_sec: 600 },
        priority: 'normal',
        delivery: 'at-most-once',
        output_limit_bytes: 0,
      },
    });
    await offer(strict, one(signed, by(signed, alice)));
    await waitFor('it to run', () => existsSync(m));
    const cancel = (change: Partial<Directive>, ...keys: KeyPair[]): Offer => {
      const directive = { ...run(m), kind: 'command.cancel' as const, body: { command_id: signed.id }, ...change };
      const own = by({ ...directive, targets: { node_keys: [keyIdOf(strict)] } }, server);
      return {
        kind: 'command.cancel',
        command_id: signed.id,
        directive: own,
        ...(keys.length > 0 ? { operator_directive: by(directive, ...keys) } : {}),
      };
    };
    await offer(strict, [
      cancel({}),
      cancel({}, server),
      cancel({}, carol),
      cancel({ targets: { selector: 'name=db-1' } }, alice),
      cancel({ body: { command_id: randomUUID() } }, alice),
    ]);
    // By the time that another command has come and gone, what was told to end would have ended.
    const later = marker();
    const other = run(later);
    await offer(strict, one(other, by(other, alice)));
    await waitFor('the other to have ended', () => existsSync(later) && strict.daemon?.status().unreported === 0);
    await waitFor('one to run at most', () => (strict.daemon?.status().running ?? 0) <= 1);
    expect(strict.daemon?.status().running).toBe(1);
    await offer(strict, [cancel({}, alice)]);
    await settled(strict);
  });

  test('it brings no program into the kernel, and has nothing backed up', async () => {
    const { publish } = await registry(fleet.server);
    await publish('probe', '1.0.0');
    const assigned = () => strict.daemon?.attachments().filter(({ state }) => state === 'attached') ?? [];
    type Lie = (wishes: readonly Directive[]) => Envelope[];
    /** The node's next answer has these in the operators' place; resolves when it has taken it. */
    const desired = async (lie: Lie, change: () => Promise<unknown>): Promise<void> => {
      let revision = -1;
      strict.intercept = async (asked, send) => {
        const answer = await send(asked);
        if (!new URL(asked.url).pathname.endsWith('/v1/desired')) return answer;
        const truth = JSON.parse(String(answer.body)) as { revision: number; directives: Envelope[] };
        revision = truth.revision;
        const operator_directives = lie(truth.directives.map(readDirective));
        return { ...answer, body: Buffer.from(JSON.stringify({ ...truth, operator_directives })) };
      };
      await change();
      await waitFor('the node to have taken it', () => strict.daemon?.desiredRevision() === revision, 20_000);
      strict.intercept = null;
    };
    const all = { targets: { selector: 'all' } };
    const anew = ({ generation = 0 }: Directive) => ({ id: randomUUID(), generation: generation + 1000, ...all });
    const lies: Lie = (wishes) =>
      wishes.flatMap((wish) => [
        by(wish, server),
        by({ ...wish, ...all }, server),
        by({ ...wish, ...anew(wish), targets: { selector: 'name=db-1' } }, alice),
        by({ ...wish, ...anew(wish), expires_at: iso(Date.now() - 1) }, alice),
        by({ ...wish, ...anew(wish), fleet: 'other' }, alice),
        by({ ...wish, ...anew(wish) }, elsewhere),
        by({ ...wish, ...anew(wish) }, generateKeyPair()),
        by({ ...wish, ...all, kind: 'command.run' }, alice),
        edited(by({ ...wish, ...all, generation: 1 }, alice), '"generation":1', '"generation":1001'),
        edited(
          by({ ...wish, ...anew(wish), body: { state: 'absent' } }, alice),
          '{"state":"absent"}',
          JSON.stringify(wish.body),
        ),
        signEnvelope(PAYLOAD_TYPES.trust, { ...wish, ...anew(wish) }, alice),
        // For assignments alone: good for no configuration.
        ...(wish.kind === 'backups.config' ? [by({ ...wish, ...anew(wish) }, carol)] : []),
      ]);
    const put = (artifact: string) =>
      fleet.api.call('POST', '/api/v1/assignments', { artifact, targets: ['strict', 'plain'] });
    await desired(lies, () => put('probe@1.0.0'));
    const spec = {
      name: 'etc',
      sources: ['/etc/hostname'],
      destination: { kind: 'file', path: folder },
      nodes: ['strict', 'plain'],
    };
    let made = 0;
    await desired(lies, async () => {
      made = (await fleet.api.call('POST', '/api/v1/backups/configs', { spec, probe: false })).status;
    });
    expect([made, assigned(), strict.daemon?.status().backups.configs]).toEqual([201, [], 0]);
    await waitFor('the default node to obey', () => plain.daemon?.status().backups.configs === 1);
    await waitFor('the default node to load it', () => plain.daemon?.attachments()[0]?.state === 'attached');

    // The same door, and signatures that count.
    await desired(
      (wishes) => wishes.map((wish) => by({ ...wish, ...anew(wish) }, alice)),
      () =>
        put('probe@1.0.0')
          .then(() =>
            fleet.api.call('POST', '/api/v1/unassignments', { artifact: 'probe', targets: ['plain', 'strict'] }),
          )
          .then(() => put('probe@1.0.0')),
    );
    await waitFor('what an operator signed to be loaded', () => assigned().length === 1);
    expect(strict.daemon?.status().backups.configs).toBe(1);
    // What they signed before, and it kept back, is older than what they signed last, whatever number it had signed.
    const keptBack: Lie = (wishes) =>
      wishes.map((wish) => {
        const gone = {
          state: 'absent',
          ...(wish.kind === 'artifacts.assign' ? { name: 'probe' } : { config_id: wish.object_id }),
        };
        const issued_at = iso(Date.parse(wish.issued_at) - 600_000);
        const expires_at = iso(Date.now() + 3_600_000);
        return by({ ...wish, ...anew(wish), generation: 9000, issued_at, expires_at, body: gone }, alice);
      });
    const artifact = { artifact: 'probe', targets: ['strict'] };
    await desired(keptBack, () => fleet.api.call('POST', '/api/v1/unassignments', artifact));
    expect([assigned().length, strict.daemon?.status().backups.configs]).toEqual([1, 1]);
    // And the server takes nothing of it off.
    await desired(
      () => [],
      () => put('probe@1.0.0').then(() => fleet.api.call('POST', '/api/v1/unassignments', artifact)),
    );
    expect(assigned()).toHaveLength(1);
  });

  test('it brings in no keys of its own', async () => {
    const thief = generateKeyPair();
    const { body } = await fleet.api.call('GET', '/api/v1/trust');
    const { trust_bundle } = body as { trust_bundle: Envelope };
    const bundle = JSON.parse(Buffer.from(trust_bundle.payload, 'base64').toString()) as TrustBundle;
    const entry = {
      keyid: thief.keyId,
      public_key: thief.publicRaw.toString('base64'),
      name: 'alice',
      person: 'alice',
      usage: ['operate' as const],
      state: 'active' as const,
    };
    const forged: TrustBundle = { ...bundle, version: bundle.version + 1, keys: [...bundle.keys, entry] };
    const lies: Envelope[] = [
      signTrustBundle(forged, server),
      signTrustBundle(forged, thief),
      { ...trust_bundle, payload: Buffer.from(JSON.stringify(forged)).toString('base64') },
      signTrustBundle({ ...forged, root: { threshold: 1, keys: [thief.publicRaw.toString('base64')] } }, thief),
    ];
    for (const lie of lies) {
      const m = marker();
      const signed = run(m);
      let shown = 0;
      await withTrust(
        strict,
        lie,
        () => void shown++,
        () => offer(strict, one(signed, by(signed, thief))),
      );
      await settled(strict);
      expect([existsSync(m), shown > 0]).toEqual([false, true]);
    }
  });
});

test('a trust bundle that is withheld is noticed by its age, and then nobody is obeyed', async () => {
  const state = () => strict.daemon?.status().trust.state;
  const left = Date.parse(strict.daemon?.status().trust.expires_at ?? '') - Date.now();
  expect([left > 0, state()]).toEqual([true, 'good']);
  strict.clock.offsetMs = left - 86_400_000;
  expect(state()).toBe('expiring');
  strict.clock.offsetMs = left + 1000;
  expect(state()).toBe('expired');
  const m = marker();
  const late = { issued_at: iso(Date.now() + left), expires_at: iso(Date.now() + left + 3_600_000) };
  const signed = run(m, late);
  await offer(strict, one(signed, by(signed, alice)));
  await settled(strict);
  expect(existsSync(m)).toBe(false);
  strict.clock.offsetMs = 0;
});

test('what the same server can do to a node that obeys it: its own commands, and nothing that is not its own', async () => {
  const tried = COMMANDS.map(([way, make]) => {
    const m = marker();
    return { way, m, offers: make(m, plain) };
  });
  await offer(
    plain,
    tried.flatMap(({ offers }) => offers),
  );
  await settled(plain);
  const ran = tried.filter(({ m }) => existsSync(m)).map(({ way }) => way);
  // Each of these the server signed itself beside what it forged: a default node takes its word, and needs no operator's.
  expect(ran).toHaveLength(COMMANDS.length - 4);
  expect(COMMANDS.map(([way]) => way).filter((way) => !ran.includes(way))).toEqual([
    'more attempts than were signed',
    'its own restore',
    'its own run of a backup',
    'its own look at containers',
  ]);
});
