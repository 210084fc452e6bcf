import { pollCommands, statistics } from '@aegis/protocol/commands/endpoints';
import {
  apiListNodes,
  apiPatchNode,
  apiRetireNode,
  apiShowNode,
  listAgents,
  showAgent,
} from '@aegis/protocol/nodes/endpoints';
import type { Attrs, Capabilities, Labels } from '@aegis/protocol/nodes/node';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type * as z from 'zod/mini';
import { handClock, startTestServer, type TestServer } from './start-test-server.ts';

/** The registry of nodes: lists, filters, pages, changes, retirement, presence, on both databases. */

describe.each(['sqlite', 'postgres'] as const)('%s', (storage) => {
  const clock = handClock();
  let server: TestServer;
  beforeAll(async () => {
    server = await startTestServer({ storage, clock });
    const facts: [string, string, Labels, Attrs, z.infer<typeof Capabilities>][] = [
      ['a_1', 'fra', { env: 'prod', a_b: 'x' }, { os: 'debian', container_engine: 'docker' }, ['docker', 'commands']],
      ['B-2', 'fra', { env: 'dev', axb: 'x' }, { os: 'debian' }, ['commands']],
      ['c.3', 'ber', { env: 'prod' }, { os: 'alpine', container_engine: 'podman' }, ['podman']],
    ];
    for (const [name, site, labels, attrs, capabilities] of facts)
      await server.enrol(name, { site, labels, attrs, capabilities });
    await server.keyless('10.0.0.7');
  });
  afterAll(() => server.close());

  const names = async (query: object) => {
    const { agents, total } = await server.as('viewer').call(listAgents, { query });
    expect(total).toBe(agents.length);
    return agents.map(({ name }) => name);
  };

  test.each<[object, string[]]>([
    [{}, ['10.0.0.7', 'B-2', 'a_1', 'c.3']],
    [{ site: 'fra' }, ['B-2', 'a_1']],
    [{ label: 'env=prod' }, ['a_1', 'c.3']],
    [{ label: 'a_b' }, ['a_1']],
    [{ label: 'a_b=x' }, ['a_1']],
    [{ label: 'env' }, ['B-2', 'a_1', 'c.3']],
    [{ label: 'prod' }, []],
    [{ label: 'en' }, []],
    [{ capability: 'docker' }, ['a_1']],
    [{ capability: 'dock' }, []],
    [{ os: 'debian', site: 'fra', label: 'env=dev' }, ['B-2']],
    [{ container_engine: 'podman' }, ['c.3']],
    [{ status: 'online' }, ['10.0.0.7', 'B-2', 'a_1', 'c.3']],
    [{ status: 'error' }, []],
    [{ site: "x' or 1=1 --" }, []],
  ])('%j', async (query, expected) => {
    expect(await names(query)).toEqual(expected);
  });

  test('pages are complete and in order', async () => {
    const seen: string[] = [];
    let cursor: string | undefined;
    do {
      const page = await server.as('viewer').call(apiListNodes, { query: { limit: 1, ...(cursor ? { cursor } : {}) } });
      seen.push(...page.agents.map(({ name }) => name));
      expect(page.total).toBe(4);
      cursor = page.next_cursor ?? undefined;
    } while (cursor);
    expect(seen).toEqual(['10.0.0.7', 'B-2', 'a_1', 'c.3']);
  });

  test('targets: names, uids, selectors and all, each node once; unknown and none are refused', async () => {
    const { uid } = await server.as('viewer').call(showAgent, { params: { id: 'c.3' } });
    const resolve = (targets: string[]) => server.running.nodes.resolveTargets(targets, null);
    const brief = async (...targets: string[]) =>
      (await resolve(targets)).map(({ name, matchedBy }) => `${name} by ${matchedBy}`);
    expect(await brief('a_1', uid, 'c.3')).toEqual(['a_1 by a_1', `c.3 by ${uid}`]);
    expect(await brief('site=fra and not label.env=prod')).toEqual(['B-2 by site=fra and not label.env=prod']);
    expect(await brief('c.3', 'all')).toEqual(['c.3 by c.3', '10.0.0.7 by all', 'B-2 by all', 'a_1 by all']);
    await expect(resolve(['web-9', 'all'])).rejects.toMatchObject({
      code: 'commands.unknown_target',
      message: "No node named 'web-9'. See 'aegis nodes list'.",
    });
    await expect(resolve(['site=nowhere'])).rejects.toMatchObject({ code: 'commands.no_target' });
    await expect(resolve(['site='])).rejects.toMatchObject({ code: 'commands.bad_selector' });
  });

  test('labels are replaced as a whole, site can be taken away, maintenance shows as status', async () => {
    const operator = server.as('operator');
    const params = { id: 'c.3' };
    const patched = await operator.call(apiPatchNode, {
      params,
      body: { labels: { z: '1', a: '2' }, site: null, maintenance: true },
    });
    expect(patched).toMatchObject({ labels: { a: '2', z: '1' }, site: null, maintenance: true, status: 'maintenance' });
    expect(await operator.call(apiShowNode, { params })).toEqual(patched);
    expect(await names({ status: 'maintenance' })).toEqual(['c.3']);
    await operator.call(apiPatchNode, { params, body: { maintenance: false, labels: { env: 'prod' }, site: 'ber' } });
    expect(await names({ label: 'env=prod' })).toEqual(['a_1', 'c.3']);
  });

  test('presence follows the last sign of life, across a restart too', async () => {
    clock.advance(50_000);
    expect(await names({ status: 'degraded' })).toEqual(['10.0.0.7', 'B-2', 'a_1', 'c.3']);
    const node = await server.enrol('d-4');
    clock.advance(41_000);
    expect(await names({ status: 'offline' })).toEqual(['10.0.0.7', 'B-2', 'a_1', 'c.3']);
    await node.call(pollCommands);
    expect(await names({ status: 'online' })).toEqual(['d-4']);
    await server.restart();
    expect(await names({ status: 'online' })).toEqual(['d-4']);
    expect(await server.as('viewer').call(statistics)).toMatchObject({
      nodes: { total: 5, by_status: { online: 1, offline: 4 } },
      storage: { kind: storage },
    });
  });

  test('a node whose poll waits is online for as long as that is open', async () => {
    const node = await server.enrol('f-6');
    const hangUp = new AbortController();
    const waiting = node.send(pollCommands, { query: { wait: 60 }, signal: hangUp.signal });
    const statusOf = async () => (await server.as('viewer').call(showAgent, { params: { id: 'f-6' } })).status;
    // Only an open request keeps it online over so long a time.
    await expect
      .poll(async () => {
        clock.advance(3_600_000);
        return statusOf();
      })
      .toBe('online');
    hangUp.abort();
    await waiting.catch(() => undefined);
    await expect
      .poll(async () => {
        clock.advance(3_600_000);
        return statusOf();
      })
      .toBe('offline');
    await server.as('admin').call(apiRetireNode, { params: { id: 'f-6' } });
  });

  test('a retired node leaves lists and targets, stays by uid, and gives its name back', async () => {
    const node = await server.enrol('e-5');
    const admin = server.as('admin');
    const params = { id: 'e-5' };
    const retired = await admin.call(apiRetireNode, { params });
    expect(retired).toMatchObject({ uid: node.uid, state: 'retired', status: 'offline' });
    expect(await admin.call(apiRetireNode, { params: { id: node.uid } })).toEqual(retired);
    expect(await names({})).not.toContain('e-5');
    expect((await admin.send(apiShowNode, { params })).status).toBe(404);
    expect(await admin.call(apiShowNode, { params: { id: node.uid } })).toEqual(retired);
    expect((await admin.send(apiPatchNode, { params: { id: node.uid }, body: { maintenance: true } })).status).toBe(
      403,
    );
    expect((await node.send(pollCommands)).status).toBe(403);
    await expect(server.running.nodes.resolveTargets(['e-5'], null)).rejects.toMatchObject({
      code: 'commands.unknown_target',
    });
    expect((await server.enrol('e-5')).uid).not.toBe(node.uid);
  });
});
