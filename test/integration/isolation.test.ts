import { randomBytes, randomUUID, sign } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Directive, signDirective } from '@aegis/protocol/access/directive';
import { type Envelope, PAYLOAD_TYPES, signEnvelope } from '@aegis/protocol/access/dsse';
import { generateKeyPair } from '@aegis/protocol/access/keys';
import { type ConfigReports, putConfigReports } from '@aegis/protocol/backups/node-endpoints';
import type { OfferedCommand, Report } from '@aegis/protocol/commands/carrier';
import {
  ackCommands,
  cancelCommand,
  pollCommands,
  pushLogs,
  pushStatus,
  submitCommand,
} from '@aegis/protocol/commands/endpoints';
import type { Endpoint } from '@aegis/protocol/endpoint';
import { apiListNodes, apiRetireNode, nodeDesired, registerKeyless, renewToken } from '@aegis/protocol/nodes/endpoints';
import { tokenRequestTranscript } from '@aegis/protocol/nodes/enrolment';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { issueToken } from '../../packages/server/src/offline.ts';
import { startTestServer, type TestServer } from '../../packages/server/test/start-test-server.ts';
import { waitFor } from '../faults/wait.ts';
import { dump, faultsIn } from '../fleet/database.ts';
import { codeOf, type Exchange, exchangeWith, formFault } from '../fleet/exchange.ts';
import { type HeldNode, startHeldFleet } from '../fleet/in-process.ts';
import { allEndpoints, requestOf, type Staged, type StagedNode, stage } from '../fleet/samples.ts';

/** A node can read or report nothing of another node's, whatever it sends; and obeys nothing that names another node, whoever
 *  hands it over. */

const endpoints = await allEndpoints();
let server: TestServer;
let staged: Staged;
let exchange: Exchange;
beforeAll(async () => {
  server = await startTestServer();
  staged = await stage(server.url, await issueToken({ dataDir: server.dataDir, role: 'admin', name: 'stage' }));
  exchange = exchangeWith(server.url);
});
afterAll(async () => {
  exchange[Symbol.dispose]();
  expect(faultsIn(server.dataDir)).toEqual([]);
  await server.close();
});

/** Without any change to what the server holds, beside the record of what it refused. */
const untouched = async <T>(work: () => Promise<T>): Promise<T> => {
  const held = () => ({ ...dump(server.dataDir), backups_audit: [] });
  const before = held();
  const result = await work();
  expect(held()).toEqual(before);
  return result;
};
const ofNodes = endpoints.filter(({ caller }) => caller === 'node');
const keyless = () => server.withToken(staged.bearers.keyless);

describe('what a node sends about another node', () => {
  // The samples are good requests of one node: sent by another they must reach nothing. These name nobody, or only what whoever sends them
  // has itself.
  const ofWhoeverSends = [
    'pollCommands',
    'pollMessages',
    'putKernelReport',
    'nodeDesired',
    'putBackupConfigReports',
    'backupAgentHeartbeat',
    'backupAgentConfigs',
    'backupAgentLog',
  ];
  type Refusal = readonly [status: number, code: string];
  const notAssigned: Refusal = [403, 'backups.not_assigned'];
  const unsupported: Refusal = [422, 'backups.unsupported']; // a run of the one kind of node on the door of the other
  const refusals: Readonly<Record<string, { withKey: Refusal; keyless: Refusal }>> = {
    postArtifactStatus: { withKey: [404, 'artifacts.not_assigned'], keyless: [404, 'artifacts.not_assigned'] },
    answerMessage: { withKey: [404, 'messages.unknown_message'], keyless: [404, 'messages.unknown_message'] },
    startBackupRun: { withKey: notAssigned, keyless: unsupported },
    backupAgentStart: { withKey: unsupported, keyless: notAssigned },
  };
  const refusalOf = ({ id, tag }: Endpoint, isKeyless: boolean): Refusal =>
    refusals[id]?.[isKeyless ? 'keyless' : 'withKey'] ?? [
      404,
      tag === 'backups' ? 'backups.unknown_run' : 'commands.unknown_execution',
    ];
  test.each(
    ofNodes.filter(({ id }) => !ofWhoeverSends.includes(id)).map((endpoint) => [endpoint.id, endpoint] as const),
  )('%s: refused, for a node with a key and one without, and nothing is told', async (_, endpoint) => {
    for (const bearer of [staged.bearers.other, staged.bearers.keyless]) {
      const asked = requestOf(staged, endpoint);
      const told = await untouched(() =>
        exchange({ ...asked, headers: { ...asked.headers, authorization: `Bearer ${bearer}` } }),
      );
      if (endpoint.id === 'pushStatus') {
        const { results } = JSON.parse(told.text) as { results: { error?: { code: string }; next: unknown }[] };
        const code = bearer === staged.bearers.keyless ? 'commands.unknown_execution' : 'access.bad_signature';
        expect(results).toMatchObject([{ error: { code }, next: { stdout: 0, stderr: 0 } }]);
      } else {
        expect(codeOf(told)).toEqual(refusalOf(endpoint, bearer === staged.bearers.keyless));
        expect(formFault(told)).toBe(null);
      }
      expect(told.text).not.toContain('secret');
    }
  });

  test('the refusal is the same for what another node has and for what nobody has', async () => {
    const put = endpoints.find(({ id }) => id === 'putOutput') as Endpoint;
    const say = async (id: string) => {
      const told = await exchange(requestOf(staged, put, { params: { id, stream: 'stdout' } }));
      const { error } = JSON.parse(told.text) as { error: unknown };
      return [told.status, error];
    };
    expect(await say(staged.other.running.executionId)).toEqual(await say(randomUUID()));
  });

  test('an acknowledgement that names own and foreign executions counts the own alone', async () => {
    const own = staged.node.running.executionId;
    const foreign = staged.other.queued.executionId;
    const ids = [foreign, own, randomUUID()];
    expect(await staged.node.call(ackCommands, { body: { ids } })).toEqual({ acknowledged: 1 });
    expect(await stateOf(staged.other.queued.executionId)).toBe('queued');
  });

  test('a batch of reports: each is answered for itself, the foreign one is unknown', async () => {
    const report = (node: StagedNode): Report => ({
      command_id: node.running.commandId,
      execution_id: node.running.executionId,
      state: 'running',
    });
    const { results } = await staged.node.call(pushStatus, {
      body: { reports: [report(staged.node), report(staged.other)] },
    });
    expect(results.map(({ error }) => error?.code ?? null)).toEqual([null, 'commands.unknown_execution']);
  });

  test('polls bring each node its own, cancels included', async () => {
    const admin = server.as('admin');
    await admin.call(cancelCommand, { params: { id: staged.other.running.commandId }, body: {} });
    const about = async (client: Pick<StagedNode, 'call'>) =>
      (await client.call(pollCommands, { query: { resume: 'true' } })).commands.map(({ command_id }) => command_id);
    const own = ({ running, queued }: StagedNode) => [running.commandId, queued.commandId].sort();
    expect((await about(staged.node)).sort()).toEqual(own(staged.node));
    expect((await about(staged.other)).sort()).toEqual(own(staged.other));
    expect(await about(keyless())).toEqual([]);
  });

  test('artifacts: a node is told of its own desired state alone, and gets no bytes of another’s', async () => {
    const { artifactsForHost, artifactBinary } = staged.samples;
    const read = async (client: Pick<StagedNode, 'raw'>, path: string) => {
      const { status, json } = await client.raw('GET', path);
      return [status, (json as { error?: { code: string } } | undefined)?.error?.code ?? null];
    };
    const own = `/artifacts/for-host/${artifactsForHost?.params?.host_id}`;
    const bytes = `/artifacts/${artifactBinary?.params?.id}/binary`;
    const outcomes = await untouched(async () => [
      await read(staged.node, own),
      await read(staged.node, bytes),
      await read(staged.other, own),
      await read(staged.other, bytes),
      await read(keyless(), own),
      await read(keyless(), bytes),
    ]);
    const refused = [403, 'access.forbidden'];
    const unknown = [404, 'artifacts.not_assigned'];
    expect(outcomes).toEqual([[200, null], [200, null], refused, unknown, refused, unknown]);
  });

  test('backups: a node is told of its own configurations alone, and reports nothing of another’s', async () => {
    const of = async (client: Pick<StagedNode, 'call'>) => (await client.call(nodeDesired)).directives.length;
    const counts = await untouched(async () => [await of(staged.node), await of(staged.other), await of(keyless())]);
    expect(counts).toEqual([3, 0, 0]); // one artifact, two configurations
    const body = staged.samples.putBackupConfigReports?.body as ConfigReports;
    const { read } = server.running.storage;
    expect(await read.selectFrom('backups_audit').select(['action', 'node_uid']).execute()).toContainEqual({
      action: 'sign',
      node_uid: staged.other.uid,
    });
    for (const client of [staged.other, keyless()])
      expect(await untouched(() => client.call(putConfigReports, { body }))).toEqual({ stored: false });
    expect(await staged.node.call(putConfigReports, { body })).toEqual({ stored: true });
  });

  test('no operator door opens to a node', async () => {
    const outcomes = await untouched(() =>
      Promise.all(
        endpoints
          .filter(({ caller }) => !['node', 'viewer-or-node', 'anyone'].includes(caller))
          .map(async (endpoint) => {
            const asked = requestOf(staged, endpoint);
            const told = await exchange({
              ...asked,
              headers: { ...asked.headers, authorization: `Bearer ${staged.bearers.node}` },
            });
            return [endpoint.id, ...codeOf(told)];
          }),
      ),
    );
    expect(outcomes.length).toBeGreaterThan(15);
    expect(outcomes.filter(([, status, code]) => status !== 403 || code !== 'access.forbidden')).toEqual([]);
  });
});

const stateOf = async (executionId: string): Promise<string | undefined> =>
  (
    await server.running.storage.read
      .selectFrom('commands_executions')
      .select('state')
      .where('id', '=', executionId)
      .executeTakeFirst()
  )?.state;

describe('whose signature', () => {
  const final = (node: StagedNode, more: Partial<Report> = {}): Report => ({
    command_id: node.running.commandId,
    execution_id: node.running.executionId,
    attempt: 1,
    state: 'failed',
    exit_code: 1,
    ...more,
  });
  const post = async (as: StagedNode, fields: Report, envelope: Envelope | undefined) => {
    const body = { reports: [{ ...fields, ...(envelope ? { report: envelope } : {}) }] };
    const [result] = (await as.call(pushStatus, { body })).results;
    return result?.error?.code ?? result?.state;
  };
  const sealed = (fields: Report, ...keys: Parameters<typeof signEnvelope>[2][]) =>
    signEnvelope(PAYLOAD_TYPES.report, fields, ...keys);

  test.each<[string, (a: StagedNode, b: StagedNode) => [Report, Envelope | undefined], string]>([
    ['none', (a) => [final(a), undefined], 'access.bad_signature'],
    ["another node's", (a, b) => [final(a), sealed(final(a), b.keys)], 'access.bad_signature'],
    [
      "another node's under the own key id",
      (a, b) => [final(a), sealed(final(a), { ...b.keys, keyId: a.keys.keyId })],
      'access.bad_signature',
    ],
    ['of nobody', (a) => [final(a), sealed(final(a), generateKeyPair())], 'access.bad_signature'],
    [
      'of another type',
      (a) => [final(a), signEnvelope(PAYLOAD_TYPES.directive, final(a), a.keys)],
      'access.bad_signature',
    ],
    [
      'over other bytes',
      (a) => [final(a), { ...sealed(final(a), a.keys), payload: sealed(final(a, { exit_code: 0 }), a.keys).payload }],
      'access.bad_signature',
    ],
    [
      'over another state',
      (a) => [final(a, { state: 'succeeded' }), sealed(final(a), a.keys)],
      'commands.report_mismatch',
    ],
    ['over another execution', (a, b) => [final(a), sealed(final(b), a.keys)], 'commands.report_mismatch'],
    [
      "over another node's execution, posted alike",
      (a, b) => [final(b), sealed(final(b), a.keys)],
      'commands.unknown_execution',
    ],
  ])('%s: refused', async (_, make, code) => {
    const [fields, envelope] = make(staged.node, staged.other);
    expect(await untouched(() => post(staged.node, fields, envelope))).toBe(code);
  });

  test('what was signed counts, whatever was posted beside it', async () => {
    const signedFields = final(staged.node, { exit_code: 7, error: { code: 'x', message: 'signed' } });
    const posted = { ...signedFields, exit_code: 0, error: { code: 'x', message: 'posted' } };
    expect(await post(staged.node, posted, sealed(signedFields, staged.node.keys))).toBe('failed');
    const row = await server.running.storage.read
      .selectFrom('commands_executions')
      .select(['exit_code', 'error_message', 'report_signed'])
      .where('id', '=', staged.node.running.executionId)
      .executeTakeFirstOrThrow();
    expect(row).toEqual({ exit_code: 7, error_message: 'signed', report_signed: 1 });
  });

  test('a token is renewed for the key that belongs to the uid alone', async () => {
    const renewal = (uid: string) => ({
      agent_uid: uid,
      timestamp: new Date().toISOString(),
      nonce: randomBytes(32).toString('base64'),
    });
    const ask = async (uid: string, by: StagedNode, asked = renewal(uid)) => {
      const signature = sign(null, tokenRequestTranscript(server.running.fleet, asked), by.keys.privateKey).toString(
        'base64',
      );
      const told = await server.as('anyone').send(renewToken, { body: { ...asked, signature } });
      return told.status === 200 ? 200 : (told.json as { error: { code: string } }).error.code;
    };
    expect(await untouched(() => ask(staged.other.uid, staged.node))).toBe('nodes.bad_proof');
    const once = renewal(staged.node.uid);
    expect(await ask(staged.node.uid, staged.node, once)).toBe(200);
    expect(await untouched(() => ask(staged.node.uid, staged.node, once))).not.toBe(200); // heard on the way, sent again
  });
});

describe('nodes without a key', () => {
  test('nobody gets the name of a node with a key by registering without one', async () => {
    const joining = server.withToken(await server.joinToken());
    const told = await untouched(() => joining.send(registerKeyless, { body: { node_id: staged.node.name } }));
    expect([told.status, (told.json as { error: { code: string } }).error.code]).toEqual([409, 'nodes.name_taken']);
  });

  test('they are marked, their reports are unsigned, and they reach only their own', async () => {
    const poller = await server.keyless('poller');
    const run = await server.as('operator').raw('POST', '/api/v1/commands', {
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ targets: 'poller', command_type: 'exec', payload: { argv: ['true'] } }),
    });
    const { command_id } = run.json as { command_id: string };
    const { commands } = await poller.call(pollCommands);
    expect(commands.map((one) => one.command_id)).toEqual([command_id]);
    const told = await staged.other.send(pushLogs, {
      body: { command_id, chunks: [{ stream: 'stdout', offset: 0, data: 'forged' }] },
    });
    expect(told.status).toBe(404);
    await poller.call(pushStatus, { body: { command_id, state: 'succeeded', exit_code: 0 } });
    const row = await server.running.storage.read
      .selectFrom('commands_executions')
      .select(['state', 'report_signed', 'stdout_next'])
      .where('command_id', '=', command_id)
      .executeTakeFirstOrThrow();
    expect(row).toEqual({ state: 'succeeded', report_signed: 0, stdout_next: 0 });
    const { agents } = await server.as('viewer').call(apiListNodes, { query: { limit: 1000 } });
    expect(agents.filter((node) => node.keyless).map(({ key_id }) => key_id)).toEqual([null, null]);
  });

  test('a retired node is out at once, with its key and its token', async () => {
    const leaving = await server.enrol('leaving');
    await server.as('admin').call(apiRetireNode, { params: { id: 'leaving' } });
    expect((await untouched(() => leaving.send(pollCommands))).status).toBe(403);
    const asked = {
      agent_uid: leaving.uid,
      timestamp: new Date().toISOString(),
      nonce: randomBytes(32).toString('base64'),
    };
    const signature = sign(null, tokenRequestTranscript(server.running.fleet, asked), leaving.keys.privateKey).toString(
      'base64',
    );
    expect(
      (await untouched(() => server.as('anyone').send(renewToken, { body: { ...asked, signature } }))).status,
    ).toBe(403);
  });
});

describe('a server (or who sits between) that lies to a daemon', () => {
  /** The daemon's polls get these offers first; the reports that it wants to send about them are kept. */
  const lyingDoor = (node: HeldNode) => {
    const offers: OfferedCommand[] = [];
    const seen: OfferedCommand[] = [];
    const told: Report[] = [];
    node.intercept = async (asked, send) => {
      const { pathname } = new URL(asked.url);
      if (pathname === '/v1/commands/status' && asked.body)
        told.push(...(JSON.parse(Buffer.from(asked.body).toString()) as { reports: Report[] }).reports);
      if (pathname !== '/v1/commands/poll') return send(asked);
      const answer = await send({ ...asked, url: asked.url.replace(/wait=\d+/, 'wait=0') });
      const body = JSON.parse(answer.body.toString()) as { commands: OfferedCommand[] };
      seen.push(...body.commands);
      if (body.commands.length + offers.length === 0) await new Promise((resolve) => setTimeout(resolve, 20));
      return {
        ...answer,
        body: Buffer.from(JSON.stringify({ ...body, commands: [...offers.splice(0), ...body.commands] })),
      };
    };
    return { offers, seen, told };
  };

  test('what names another node, another fleet or a selector never runs, nor what comes again', async () => {
    await using fleet = await startHeldFleet();
    await using foreign = await startTestServer();
    const [a, b] = [fleet.node('a'), fleet.node('b')];
    const lies = lyingDoor(a);
    const overheard = lyingDoor(b);
    await a.start();
    await b.start();
    const marker = (name: string) => join(fleet.folder, name);
    const submit = (targets: string, name: string) =>
      fleet.api.submit({ targets, command_type: 'RunCommand', payload: { cmd: `echo x >> ${marker(name)}` } });

    // One of b's, as it was really signed, replayed to a.
    await (await submit('b', 'of-b')).finished();
    const ofB = overheard.seen[0];
    // One of a's own, which has run.
    await (await submit('a', 'of-a')).finished();
    const ofA = lies.seen[0];
    // One for a poller without a key, which names its node by selector, in a's own name.
    const poller = await fleet.server.keyless('k');
    await submit('k', 'of-k');
    const ofK = (await poller.call(pollCommands)).commands[0];
    if (!ofA || !ofB || !ofK) throw new Error('nothing was overheard');
    const payloadOf = (offer: OfferedCommand) =>
      JSON.parse(Buffer.from(offer.directive.payload, 'base64').toString()) as Directive;
    const stranger = generateKeyPair();
    // Another fleet's server gives an order to its own node of the same name.
    const alien = await foreign.enrol('a');
    await foreign.as('operator').call(submitCommand, {
      body: { targets: ['a'], command_type: 'RunCommand', payload: { cmd: `echo x >> ${marker('of-alien')}` } },
    });
    const ofAlien = (await alien.call(pollCommands)).commands[0];
    if (!ofAlien) throw new Error('nothing was offered');
    const fresh = (): OfferedCommand => ({ ...ofA, execution_id: randomUUID(), command_id: randomUUID() });
    const forged = (change: Partial<Directive>): OfferedCommand => {
      const offer = fresh();
      return { ...offer, directive: signDirective({ ...payloadOf(ofA), id: offer.command_id, ...change }, stranger) };
    };
    const before = lines(marker('of-a'));
    const expected: [OfferedCommand, string, string][] = [
      [{ ...ofB }, 'refused', 'access.wrong_target'],
      [{ ...ofB, execution_id: randomUUID() }, 'refused', 'access.wrong_target'],
      [{ ...ofB, execution_id: randomUUID(), command_id: randomUUID() }, 'refused', 'access.wrong_target'],
      [ofK, 'refused', 'access.wrong_target'],
      [ofAlien, 'refused', 'access.bad_signature'],
      [{ ...ofA, execution_id: randomUUID() }, 'lost', 'commands.lost'], // carried out before: not again under another name
      [{ ...ofA, execution_id: randomUUID(), attempt: 2 }, 'refused', 'access.bad_directive'], // more than it may have
      [{ ...ofA, execution_id: randomUUID(), command_id: randomUUID() }, 'refused', 'access.bad_directive'],
      [forged({}), 'refused', 'access.bad_signature'],
      [forged({ targets: { selector: 'name=a' } }), 'refused', 'access.bad_signature'],
    ];
    lies.offers.push(...expected.map(([offer]) => offer));
    for (const [offer, state, code] of expected) {
      await waitFor(
        `the daemon's word on ${offer.execution_id}`,
        () => lies.told.some((one) => one.execution_id === offer.execution_id),
        10_000,
        () => `${state} ${code}: ${JSON.stringify(lies.told)} ${JSON.stringify(a.daemon?.status())}`,
      );
      const report = lies.told.find((one) => one.execution_id === offer.execution_id);
      expect({ state: report?.state, code: report?.error?.code }).toEqual({ state, code });
    }
    expect([lines(marker('of-a')), lines(marker('of-b')), existsSync(marker('of-k'))]).toEqual([before, 1, false]);
    // Nothing of what a said about b's execution counts.
    const told = await fleet.api.call('GET', `/api/v1/commands/${ofB.command_id}/executions`);
    expect((told.body as { items: { state: string }[] }).items.map(({ state }) => state)).toEqual(['succeeded']);
    // And it still works.
    await (await submit('a', 'of-a')).finished();
    expect(lines(marker('of-a'))).toBe(2);
    expect(faultsIn(fleet.server.dataDir)).toEqual([]);
  });
});

const lines = (path: string): number => readFileSync(path, 'utf8').split('\n').length - 1;
