import {
  allStatus,
  artifactStatus,
  postStatus,
  putKernelReport,
  showKernelReport,
  unassignArtifact,
} from '@aegis/protocol/artifacts/endpoints';
import type { KernelReport, StatusReport } from '@aegis/protocol/artifacts/status';
import { pollCommands } from '@aegis/protocol/commands/endpoints';
import { describe, expect, test } from 'vitest';
import { assign, directivesOf, forHost, registry } from './artifacts-support.ts';
import { refusal, STORAGES, until } from './commands-support.ts';
import { type EnrolledNode, handClock, startTestServer } from './start-test-server.ts';

/** What nodes report of their assignments, and what people see of it. */

const AT = '2026-11-21T00:00:00.000Z';
const report = (node: EnrolledNode, id: string, fields: Partial<StatusReport>) =>
  node.call(postStatus, { params: { id }, body: { name: 'a', generation: 1, state: 'attached', at: AT, ...fields } });

const attachment = {
  program: 'drop',
  hook: 'cgroup_skb egress in /',
  state: 'attached' as const,
  link_id: 7,
  program_id: 9,
};

describe.each(STORAGES)('%s', (storage) => {
  test('all nodes of an artifact side by side, from pending to what each last said of the generation that is wished', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock });
    const at = await registry(server);
    const v1 = await at.publish('a', '1.0.0');
    const v2 = await at.publish('a', '2.0.0');
    const [n, m] = [await server.enrol('n'), await server.enrol('m')];
    await assign(server, v1.artifact_id, 'n');
    await assign(server, v1.artifact_id, 'm');
    const viewer = server.as('viewer');
    const of = async (id: string) =>
      (await viewer.call(artifactStatus, { params: { id } })).items.toSorted((a, b) => (a.node < b.node ? -1 : 1));
    const pending = (node: EnrolledNode) => ({
      node: node.name,
      node_uid: node.uid,
      online: true,
      name: 'a',
      version: '1.0.0',
      generation: 1,
      state: 'pending',
      constants: {},
      report: null,
      reported_at: null,
    });
    expect(await of(v1.artifact_id)).toEqual([pending(m), pending(n)]);
    const verifier_log = 'R1 type=ctx expected=fp\n'.repeat(1000);
    const failed = { code: 'artifacts.load_failed', message: 'R1 type=ctx expected=fp' };
    expect(await report(n, v1.artifact_id, { version: '1.0.0', attachments: [attachment] })).toEqual({ stored: true });
    expect(await report(m, v1.artifact_id, { state: 'loaded' })).toEqual({ stored: true });
    expect(await report(m, v1.artifact_id, { state: 'failed', reason: failed, verifier_log })).toEqual({
      stored: true,
    });
    const blank = { attachments: [], maps: [], drift: [] };
    const reported_at = new Date(clock.now()).toISOString();
    const [ofM, ofN] = await of(v1.artifact_id);
    expect([ofM, ofN]).toEqual([
      {
        ...pending(m),
        state: 'failed',
        report: { name: 'a', generation: 1, state: 'failed', at: AT, ...blank, reason: failed, verifier_log },
        reported_at,
      },
      {
        ...pending(n),
        state: 'attached',
        report: {
          name: 'a',
          version: '1.0.0',
          generation: 1,
          state: 'attached',
          at: AT,
          ...blank,
          attachments: [attachment],
        },
        reported_at,
      },
    ]);
    // Upgraded: what it said of the older generation is still to be seen, and is not its state.
    await assign(server, v2.artifact_id, 'n');
    expect(await of(v2.artifact_id)).toEqual([{ ...ofN, version: '2.0.0', generation: 2, state: 'pending' }]);
    expect(await of(v1.artifact_id)).toEqual([ofM]);
    expect(await report(n, v1.artifact_id, { state: 'failed' })).toEqual({ stored: false });
    expect((await of(v2.artifact_id))[0]?.report?.state).toBe('attached');
    clock.advance(120_000);
    expect((await of(v2.artifact_id))[0]?.online).toBe(false);
  });

  test('a node reports of its own assignments alone', async () => {
    await using server = await startTestServer({ storage });
    const at = await registry(server);
    const a = await at.publish('a', '1.0.0');
    const a2 = await at.publish('a', '2.0.0');
    const [n, other] = [await server.enrol('n'), await server.enrol('other')];
    const poller = await server.keyless('poller');
    await assign(server, a.artifact_id, 'n');
    expect({
      'of another node': await refusal(report(other, a.artifact_id, {})),
      'of a poller': await refusal(
        poller.call(postStatus, {
          params: { id: a.artifact_id },
          body: { name: 'a', generation: 1, state: 'attached', at: AT },
        }),
      ),
      'another name': await refusal(report(n, a.artifact_id, { name: 'b' })),
      'another version': await refusal(report(n, a2.artifact_id, {})),
      'no artifact': await refusal(report(n, 'artifact_123', {})),
      'a generation to come': await refusal(report(n, a.artifact_id, { generation: 2 })),
      'too long': await refusal(
        report(n, a.artifact_id, {
          attachments: Array.from({ length: 1024 }, () => ({ ...attachment, reason: 'x'.repeat(1024) })),
        }),
      ),
    }).toEqual({
      'of another node': [404, 'artifacts.not_assigned'],
      'of a poller': [404, 'artifacts.not_assigned'],
      'another name': [404, 'artifacts.not_assigned'],
      'another version': [404, 'artifacts.not_assigned'],
      'no artifact': [404, 'artifacts.unknown_artifact'],
      'a generation to come': [409, 'artifacts.generation_conflict'],
      'too long': [413, 'http.too_large'],
    });
    expect(await report(n, a.artifact_id, { verifier_log: 'x'.repeat(1024 * 1024) })).toEqual({ stored: true });
    expect(await report(n, a.artifact_id, { verifier_log: 'a\0b\ud800' })).toEqual({ stored: true });
    const { items } = await server.as('viewer').call(artifactStatus, { params: { id: a.artifact_id } });
    expect(items[0]?.report?.verifier_log).toBe('a\ufffdb\ufffd');
  });

  test('a tombstone is there until its node has confirmed it, and then where detached ones are asked for', async () => {
    await using server = await startTestServer({ storage });
    const at = await registry(server);
    const a = await at.publish('a', '1.0.0');
    const n = await server.enrol('n');
    await assign(server, a.artifact_id, 'n');
    const params = { artifact_id: a.artifact_id, host_id: 'n' };
    await server.as('operator').call(unassignArtifact, { params });
    const viewer = server.as('viewer');
    const all = async (query: object) =>
      (await viewer.call(allStatus, { query })).items.map(({ node, version, generation, state }) => [
        node,
        version,
        generation,
        state,
      ]);
    expect([await all({}), await all({ state: 'detached' }), await all({ state: 'pending' })]).toEqual([
      [['n', null, 2, 'pending']],
      [],
      [['n', null, 2, 'pending']],
    ]);
    await report(n, a.artifact_id, { generation: 2, state: 'failed' });
    expect((await forHost(n)).directives.length).toBe(1);
    await report(n, a.artifact_id, { generation: 2, state: 'detached' });
    expect([await all({}), await all({ state: 'detached' })]).toEqual([[], [['n', null, 2, 'detached']]]);
    expect((await forHost(n)).directives).toEqual([]);
  });

  test('a node that holds newer generations than the server: the wish is made anew until it is one that the node takes', async () => {
    await using server = await startTestServer({ storage });
    const at = await registry(server);
    const a = await at.publish('a', '1.0.0');
    const n = await server.enrol('n');
    await assign(server, a.artifact_id, 'n');
    const [first] = await directivesOf(server, n);
    const waiting = n.call(pollCommands, { query: { wait: 30, desired: 1 } });
    await until('it waits', () => server.running.commands.dispatch.waiting() === 1);
    const refused = (generation: number, code: string) =>
      report(n, a.artifact_id, { generation, state: 'failed', reason: { code, message: 'a newer one is held' } });
    expect(await refused(1, 'artifacts.stale_generation')).toEqual({ stored: true });
    expect((await waiting).desired).toBe(2);
    expect(await refused(1, 'artifacts.stale_generation')).toEqual({ stored: false });
    expect(await refused(2, 'artifacts.generation_conflict')).toEqual({ stored: true });
    const [last] = await directivesOf(server, n);
    expect([last?.generation, last?.body]).toEqual([3, first?.body]);
    // Its revision is another than the node has: told at once, whichever is greater.
    expect((await n.call(pollCommands, { query: { wait: 30, desired: 9 } })).desired).toBe(3);
    await server.as('operator').call(unassignArtifact, { params: { artifact_id: a.artifact_id, host_id: 'n' } });
    await report(n, 'a', {
      generation: 4,
      state: 'failed',
      reason: { code: 'artifacts.stale_generation', message: 'x' },
    });
    expect(await directivesOf(server, n)).toMatchObject([{ generation: 5, body: { state: 'absent' } }]);
    await report(n, 'a', { generation: 5, state: 'detached' }); // by its name: a tombstone says no more
    expect(await directivesOf(server, n)).toEqual([]);
  });

  test('filters and pages; long logs make short pages', async () => {
    await using server = await startTestServer({ storage });
    const at = await registry(server);
    const [a, b] = [await at.publish('a', '1.0.0'), await at.publish('b', '1.0.0')];
    const nodes = [await server.enrol('n'), await server.enrol('m')];
    for (const { artifact_id } of [a, b]) for (const { name } of nodes) await assign(server, artifact_id, name);
    for (const node of nodes) {
      await report(node, a.artifact_id, { state: 'failed', verifier_log: 'x'.repeat(1000) });
      await report(node, b.artifact_id, { name: 'b', verifier_log: 'x'.repeat(1024 * 1024) });
    }
    const viewer = server.as('viewer');
    const all = async (query: object) =>
      (await viewer.call(allStatus, { query })).items.map(({ name, node }) => `${name} ${node}`).sort();
    expect({
      all: await all({}),
      name: await all({ name: 'a' }),
      node: await all({ node: 'n' }),
      uid: await all({ node: nodes[1]?.uid }),
      state: await all({ state: 'failed', node: 'm' }),
      pending: await all({ state: 'pending' }),
    }).toEqual({
      all: ['a m', 'a n', 'b m', 'b n'],
      name: ['a m', 'a n'],
      node: ['a n', 'b n'],
      uid: ['a m', 'b m'],
      state: ['a m'],
      pending: [],
    });
    const seen: string[] = [];
    let cursor: string | null | undefined;
    do {
      const page = await viewer.call(allStatus, { query: { limit: 1, ...(cursor ? { cursor } : {}) } });
      seen.push(...page.items.map(({ name, node }) => `${name} ${node}`));
      cursor = page.next_cursor;
    } while (cursor);
    expect(seen.toSorted()).toEqual(await all({}));
  });

  test('kernel reports: the last one of each node', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock });
    const n = await server.enrol('n');
    const viewer = server.as('viewer');
    const show = (id: string) => viewer.call(showKernelReport, { params: { id } });
    expect(await show('n')).toEqual({ kernel: null, reported_at: null });
    const kernel: KernelReport = {
      release: '6.18.44',
      architecture: 'x86_64',
      btf: true,
      bpffs: true,
      cgroup2: '/sys/fs/cgroup',
      jit: true,
      kinds: { kprobe: { works: false, reason: 'CONFIG_KPROBES is not set' }, xdp: { works: true } },
    };
    await n.call(putKernelReport, { body: { ...kernel, btf: false } });
    clock.advance(1000);
    expect(await n.call(putKernelReport, { body: kernel })).toEqual({ stored: true });
    expect(await show(n.uid)).toEqual({ kernel, reported_at: new Date(clock.now()).toISOString() });
    expect(await refusal(show('nobody'))).toEqual([404, 'nodes.unknown_node']);
    const kinds = Object.fromEntries(
      Array.from({ length: 200 }, (_, at) => [`k${at}`, { works: true, since: 'x'.repeat(400) }]),
    );
    expect(await refusal(n.call(putKernelReport, { body: { ...kernel, kinds } }))).toEqual([413, 'http.too_large']);
  });
});
