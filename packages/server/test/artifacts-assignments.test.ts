import { addKey, revokeKey } from '@aegis/protocol/access/endpoints';
import {
  artifactsForHost,
  assignMany,
  listArtifacts,
  putHosts,
  unassignMany,
} from '@aegis/protocol/artifacts/endpoints';
import { pollCommands } from '@aegis/protocol/commands/endpoints';
import { apiRetireNode } from '@aegis/protocol/nodes/endpoints';
import { describe, expect, test } from 'vitest';
import {
  assign,
  directivesOf,
  drift,
  forHost,
  registry,
  renewToken,
  sentence,
  signatory,
  unassign,
} from './artifacts-support.ts';
import { refusal, STORAGES, submitTo, until } from './commands-support.ts';
import { type EnrolledNode, handClock, startTestServer } from './start-test-server.ts';

/** Desired state: who is to run what, as generations, directives and revisions. */

const DAY_MS = 86_400_000;
const detached = (node: EnrolledNode, artifactId: string, name: string, generation: number, at: number) =>
  node.raw('POST', `/artifacts/${artifactId}/status`, {
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ name, generation, state: 'detached', at: new Date(at).toISOString() }),
  });
const poll = async (node: EnrolledNode, desired: number, wait = 0) => {
  const { server_time: _, ...answer } = await node.call(pollCommands, { query: { wait, desired } });
  return answer;
};

describe.each(STORAGES)('%s', (storage) => {
  test('an assignment’s whole life: assigned, the same again, upgraded, rolled back, taken off, assigned anew', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock });
    const at = await registry(server);
    const node = await server.enrol('192.168.193.129');
    const v1 = await at.publish('block-icmp', '1.0.0');
    const v2 = await at.publish('block-icmp', '2.0.0');
    const empty = { artifacts: [], total: 0, directives: [], revision: 0, trust_version: 2 };
    const seen = (host_id: string) => server.as('viewer').call(artifactsForHost, { params: { host_id } });
    expect([await seen(node.name), await seen('nobody'), await forHost(node)]).toEqual([empty, empty, empty]);

    const first = await assign(server, v1.artifact_id, '192.168.193.129');
    const assignment = {
      artifact_id: v1.artifact_id,
      name: 'block-icmp',
      version: '1.0.0',
      host_id: node.uid,
      host: '192.168.193.129',
      generation: 1,
      constants: {},
      assigned_at: new Date(clock.now()).toISOString(),
      assigned_by: 'test-operator',
    };
    expect(first).toEqual({ ...assignment, changed: true });
    clock.advance(1000);
    expect(await assign(server, v1.artifact_id, node.uid)).toEqual({ ...assignment, changed: false });
    const told = await forHost(node);
    expect({ ...told, directives: [] }).toEqual({
      artifacts: [{ ...v1, assigned: 1 }],
      total: 1,
      directives: [],
      revision: 1,
      trust_version: 2,
    });
    expect(await seen(node.uid)).toEqual({ ...told, directives: [] }); // directives are for the node alone
    const [directive] = await directivesOf(server, node);
    expect(directive).toEqual({
      fleet: server.running.fleet,
      id: expect.any(String),
      kind: 'artifacts.assign',
      targets: { node_keys: [node.keys.keyId] },
      issued_at: assignment.assigned_at,
      expires_at: new Date(clock.now() - 1000 + 7 * DAY_MS).toISOString(),
      max_attempts: 1,
      object_id: 'block-icmp',
      generation: 1,
      body: {
        state: 'present',
        artifact_id: v1.artifact_id,
        name: 'block-icmp',
        version: '1.0.0',
        sha256: v1.checksum,
        size: v1.size,
        signature: v1.signature,
        constants: { fixed: 7, target_ip: '192.0.2.1' },
        programs: [{ name: 'drop', attach: { kind: 'cgroup_skb', cgroup: '/', direction: 'egress' } }],
        maps: [{ name: 'counters', keep: true }],
      },
    });

    // Other constants, another version, and back: each is a generation.
    const life = [];
    const step = async (work: Promise<{ generation: number; version: string }>) => {
      const { generation, version } = await work;
      const [now] = await directivesOf(server, node);
      const body = now?.body as { state: string; version?: string; constants?: { target_ip: string } };
      life.push([generation, version, now?.generation, body.state, body.version, body.constants?.target_ip]);
    };
    await step(assign(server, v1.artifact_id, node.uid, { target_ip: '192.0.2.9' }));
    await step(assign(server, v2.artifact_id, node.uid));
    await step(assign(server, v1.artifact_id, node.uid));
    await step(unassign(server, v1.artifact_id, node.uid));
    await step(unassign(server, v1.artifact_id, node.uid)); // off already: stays so
    life.push((await forHost(node)).revision);
    expect((await detached(node, v1.artifact_id, 'block-icmp', 4, clock.now())).json).toEqual({ stored: false });
    expect((await forHost(node)).directives.length).toBe(1);
    expect((await detached(node, v1.artifact_id, 'block-icmp', 5, clock.now())).json).toEqual({ stored: true });
    expect((await forHost(node)).directives).toEqual([]);
    await step(assign(server, v2.artifact_id, node.uid));
    expect(life).toEqual([
      [2, '1.0.0', 2, 'present', '1.0.0', '192.0.2.9'],
      [3, '2.0.0', 3, 'present', '2.0.0', '192.0.2.1'],
      [4, '1.0.0', 4, 'present', '1.0.0', '192.0.2.1'],
      [5, '1.0.0', 5, 'absent', undefined, undefined],
      [5, '1.0.0', 5, 'absent', undefined, undefined],
      5,
      [6, '2.0.0', 6, 'present', '2.0.0', '192.0.2.1'],
    ]);
    expect(await drift(server)).toEqual([]);
  });

  test('a directive is the same bytes each time, and after a day a fresh one of the same generation and body', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock });
    const at = await registry(server);
    const node = await server.enrol('n');
    const v1 = await at.publish('a', '1.0.0');
    const off = await at.publish('off', '1.0.0');
    await assign(server, off.artifact_id, 'n');
    await unassign(server, off.artifact_id, 'n');
    await assign(server, v1.artifact_id, 'n');
    const [first, again] = [await forHost(node), await forHost(node)];
    expect(again).toEqual(first);
    clock.advance(DAY_MS / 2);
    await server.restart();
    // The restart told nodes of the trust bundle once more: a revision, and the same directives.
    expect((await forHost(node)).directives).toEqual(first.directives);
    const before = await directivesOf(server, node);
    clock.advance(DAY_MS / 2);
    const renewed = await server.enrol('m'); // the other node's token has expired
    await assign(server, v1.artifact_id, 'm');
    expect((await directivesOf(server, renewed)).length).toBe(1);
    const { token } = await renewToken(server, node, clock.now());
    const later = { ...node, ...server.withToken(token) };
    const after = await directivesOf(server, later);
    const sorted = (all: typeof before) => all.toSorted((a, b) => ((a.object_id ?? '') < (b.object_id ?? '') ? -1 : 1));
    expect(sorted(after)).toEqual(
      sorted(before).map((one) => ({
        ...one,
        id: expect.not.stringMatching(one.id),
        issued_at: new Date(clock.now()).toISOString(),
        expires_at: new Date(clock.now() + 7 * DAY_MS).toISOString(),
      })),
    );
    expect(sorted(after).map(({ body }) => JSON.stringify(body))).toEqual(
      sorted(before).map(({ body }) => JSON.stringify(body)),
    );
    expect(await directivesOf(server, later)).toEqual(after);
  });

  test('what is refused, with its sentence, changes nothing', async () => {
    await using server = await startTestServer({ storage, config: { 'artifacts.max_assignments_per_node': 1 } });
    const at = await registry(server);
    const node = await server.enrol('n');
    await server.keyless('poller');
    const gone = await server.enrol('gone');
    await server.as('admin').call(apiRetireNode, { params: { id: gone.uid } });
    const a = await at.publish('a', '1.0.0');
    const a2 = await at.publish('a', '2.0.0');
    const b = await at.publish('b', '1.0.0');
    await assign(server, a.artifact_id, 'n');
    const operator = server.as('operator');
    const many = (artifact: string, ...targets: string[]) =>
      sentence(operator.call(assignMany, { body: { artifact, targets } }));
    const off = (artifact: string, ...targets: string[]) =>
      sentence(operator.call(unassignMany, { body: { artifact, targets } }));
    expect({
      'the seed’s id': await sentence(assign(server, 'artifact_123', 'n')),
      'no such host': await sentence(assign(server, a.artifact_id, 'nobody')),
      'a retired host': await sentence(assign(server, a.artifact_id, gone.uid)),
      'a keyless host': await sentence(assign(server, a.artifact_id, 'poller')),
      'an unknown constant': await sentence(assign(server, a.artifact_id, 'n', { colour: 1 })),
      'a fixed constant': await sentence(assign(server, a.artifact_id, 'n', { fixed: 1 })),
      'a bad constant': await sentence(assign(server, a.artifact_id, 'n', { target_ip: 'x' })),
      'too many': await sentence(assign(server, b.artifact_id, 'n')),
      'off what is not on': await sentence(unassign(server, b.artifact_id, 'n')),
      'off another version': await sentence(unassign(server, a2.artifact_id, 'n')),
      'hosts with one unknown': await sentence(
        operator.call(putHosts, { params: { artifact_id: a2.artifact_id }, body: { hosts: ['n', 'nobody', 'x'] } }),
      ),
      'an unknown name': await many('c', 'n'),
      'an unknown version': await many('a@3.0.0', 'n'),
      'no name': await many('a@latest', 'n'),
      'an unknown target': await many('a', 'nobody'),
      'nobody selected': await many('a', 'site=nowhere'),
      'a broken selector': await many('a', 'site=fra and ('),
      'keyless by name': await many('a', 'poller'),
      'off by name': await off('b', 'n'),
      'off by selector': await off('b', 'all'),
      'off by version': await off('a@2.0.0', 'n'),
    }).toEqual({
      'the seed’s id':
        "404 artifacts.unknown_artifact: There is no artifact 'artifact_123'. See 'aegis artifacts list'.",
      'no such host':
        "404 artifacts.unknown_host: No node named 'nobody': nothing was assigned. See 'aegis nodes list'.",
      'a retired host': `404 artifacts.unknown_host: No node named '${gone.uid}': nothing was assigned. See 'aegis nodes list'.`,
      'a keyless host':
        "422 artifacts.unsupported: 'poller' is a poller without a key and obeys no directive. Enrol with 'aegis register' to run artifacts there.",
      'an unknown constant':
        "422 artifacts.unknown_constant: The artifact has no constant 'colour'. What can be set: target_ip (ipv4).",
      'a fixed constant':
        "422 artifacts.not_settable: The manifest does not let an assignment change 'fixed'. What can be set: target_ip (ipv4).",
      'a bad constant': "422 artifacts.bad_constant: target_ip: 'x' is no ipv4: give an address such as 192.0.2.9.",
      'too many':
        "409 artifacts.limit: 'n' has 1 artifacts already, as many as one node may (artifacts.max_assignments_per_node). Unassign one, or raise that setting.",
      'off what is not on': "404 artifacts.not_assigned: b 1.0.0 is not assigned to 'n'. See 'aegis artifacts status'.",
      'off another version':
        "404 artifacts.not_assigned: a 2.0.0 is not assigned to 'n'. See 'aegis artifacts status'.",
      'hosts with one unknown':
        "404 artifacts.unknown_host: No node named 'nobody', 'x': nothing was assigned. See 'aegis nodes list'.",
      'an unknown name': "404 artifacts.unknown_artifact: There is no artifact 'c'. See 'aegis artifacts list'.",
      'an unknown version': "404 artifacts.unknown_artifact: There is no version 3.0.0 of 'a'. There is 2.0.0, 1.0.0.",
      'no name': "404 artifacts.unknown_artifact: There is no artifact 'a@latest'. See 'aegis artifacts list'.",
      'an unknown target': "422 artifacts.unknown_target: No node named 'nobody'. See 'aegis nodes list'.",
      'nobody selected': "422 artifacts.unknown_target: No node matches 'site=nowhere'. See 'aegis nodes list'.",
      'a broken selector': expect.stringMatching(/^422 commands\.bad_selector: /),
      'keyless by name':
        "422 artifacts.unsupported: 'poller' is a poller without a key and obeys no directive. Enrol with 'aegis register' to run artifacts there.",
      'off by name': "404 artifacts.not_assigned: b is not assigned to 'n'. See 'aegis artifacts status'.",
      'off by selector': "404 artifacts.not_assigned: b is not assigned to 'n'. See 'aegis artifacts status'.",
      'off by version': "404 artifacts.not_assigned: a 2.0.0 is not assigned to 'n'. See 'aegis artifacts status'.",
    });
    expect((await forHost(node)).revision).toBe(1);
    expect(await drift(server)).toEqual([]);
  });

  test('a waiting poll is told of a newer revision at once; commands come along', async () => {
    await using server = await startTestServer({ storage });
    const at = await registry(server);
    const node = await server.enrol('n');
    const { artifact_id } = await at.publish('a', '1.0.0');
    const waits = (count: number) =>
      until(`${count} polls wait`, () => server.running.commands.dispatch.waiting() === count);
    expect(await poll(node, 0)).toEqual({ commands: [], desired: 0 });
    const waiting = poll(node, 0, 30);
    await waits(1);
    await assign(server, artifact_id, 'n');
    expect(await waiting).toEqual({ commands: [], desired: 1 });
    expect(await poll(node, 0, 30)).toEqual({ commands: [], desired: 1 }); // it has not said that it has it
    const held = poll(node, 1, 30);
    await waits(1);
    await assign(server, artifact_id, 'n'); // no change: nobody is woken by it
    const { executionId } = await submitTo(server, 'n');
    expect(await held).toMatchObject({ commands: [{ execution_id: executionId }], desired: 1 });
    const trusted = poll(node, 1, 30);
    await waits(1);
    await server.as('admin').call(addKey, {
      body: { name: 'second', public_key: signatory().publicKey, usage: ['artifacts'] },
    });
    expect(await trusted).toEqual({ commands: [], desired: 2 });
    expect(await forHost(node)).toMatchObject({ revision: 2, trust_version: 3 });
    const plain = await node.call(pollCommands, {}); // who does not ask is not told
    expect(plain).not.toHaveProperty('desired');
  });

  test('a trust bundle that changed just before a crash is told after the restart, once', async () => {
    await using server = await startTestServer({ storage });
    const node = await server.enrol('n');
    const { signer } = await registry(server);
    await server.as('admin').call(revokeKey, { params: { id: signer.minisignId } });
    expect((await forHost(node)).revision).toBe(2);
    await server.running.storage.write('test', async (tx) => {
      await tx.updateTable('artifacts_desired').set({ trust_version: 2 }).execute();
    });
    await server.restart();
    expect((await forHost(node)).revision).toBe(3);
    await server.restart();
    expect((await forHost(node)).revision).toBe(3);
  });

  test('a node that took another’s uid for its name gets nothing of what is meant for that one', async () => {
    await using server = await startTestServer({ storage });
    const at = await registry(server);
    const node = await server.enrol('n');
    const thief = await server.enrol(node.uid);
    const { artifact_id } = await at.publish('a', '1.0.0');
    expect((await assign(server, artifact_id, node.uid)).host).toBe('n');
    const seen = await server.as('viewer').call(artifactsForHost, { params: { host_id: node.uid } });
    expect([seen.total, (await forHost(thief)).total]).toEqual([1, 0]);
    const { assignments } = await server
      .as('operator')
      .call(assignMany, { body: { artifact: 'a', targets: [node.uid], constants: { target_ip: '192.0.2.8' } } });
    expect(assignments.map(({ host }) => host)).toEqual(['n']);
  });

  test('a node asks about itself alone, and a retired one leaves nothing', async () => {
    await using server = await startTestServer({ storage });
    const at = await registry(server);
    const node = await server.enrol('n');
    await server.enrol('m');
    const { artifact_id } = await at.publish('a', '1.0.0');
    await assign(server, artifact_id, 'n');
    await assign(server, artifact_id, 'm');
    await detached(node, artifact_id, 'a', 1, Date.now());
    const ask = (host_id: string) => node.call(artifactsForHost, { params: { host_id } });
    expect(await ask('n')).toEqual(await ask(node.uid));
    expect(await refusal(ask('m'))).toEqual([403, 'access.forbidden']);
    expect(await refusal(ask('nobody'))).toEqual([403, 'access.forbidden']);
    await server.as('admin').call(apiRetireNode, { params: { id: 'n' } });
    const { read } = server.running.storage;
    const left = async (table: 'artifacts_assignments' | 'artifacts_desired' | 'artifacts_reports') =>
      (await read.selectFrom(table).select('node_uid').where('node_uid', '=', node.uid).execute()).length;
    expect([
      await left('artifacts_assignments'),
      await left('artifacts_desired'),
      await left('artifacts_reports'),
    ]).toEqual([0, 0, 0]);
    expect((await server.as('viewer').call(listArtifacts)).artifacts[0]?.assigned).toBe(1);
  });
});
