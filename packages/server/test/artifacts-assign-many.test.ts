import { assignMany, deleteArtifact, putHosts, unassignMany } from '@aegis/protocol/artifacts/endpoints';
import { describe, expect, test } from 'vitest';
import { assign, directivesOf, drift, forHost, registry } from './artifacts-support.ts';
import { STORAGES } from './commands-support.ts';
import { startTestServer } from './start-test-server.ts';

/** Many assignments by one call, and many calls at once. */

describe.each(STORAGES)('%s', (storage) => {
  test('many at once: by names and selectors, planned first, the newest version where none is named', async () => {
    await using server = await startTestServer({ storage });
    const at = await registry(server);
    const a = await server.enrol('a', { site: 'fra' });
    const b = await server.enrol('b', { site: 'fra' });
    await server.enrol('c', { site: 'ber' });
    await server.keyless('poller');
    const old = await at.publish('x', '1.9.0');
    const newest = await at.publish('x', '1.10.0');
    const pre = await at.publish('x', '2.0.0-rc.1');
    await assign(server, old.artifact_id, 'a');
    await assign(server, newest.artifact_id, 'b');
    const operator = server.as('operator');
    const shape = (answer: Awaited<ReturnType<typeof operator.call<typeof assignMany>>>) => [
      answer.artifact?.version ?? null,
      ...answer.assignments
        .map((one) => [one.host, one.version, one.previous_version, one.generation, one.changed])
        .sort(),
    ];
    const to = (artifact: string, targets: string[], more: object = {}) =>
      operator.call(assignMany, { body: { artifact, targets, ...more } }).then(shape);
    const off = (artifact: string, targets: string[], more: object = {}) =>
      operator.call(unassignMany, { body: { artifact, targets, ...more } }).then(shape);
    const plan = await to('x', ['all'], { dry_run: true });
    expect(plan).toEqual([
      '1.10.0',
      ['a', '1.10.0', '1.9.0', 2, true],
      ['b', '1.10.0', '1.10.0', 1, false],
      ['c', '1.10.0', null, 1, true],
    ]);
    expect((await forHost(a)).artifacts).toMatchObject([{ version: '1.9.0' }]);
    expect(await to('x', ['all'])).toEqual(plan);
    expect(await to('x@2.0.0-rc.1', ['site=fra', 'a'])).toEqual([
      '2.0.0-rc.1',
      ['a', '2.0.0-rc.1', '1.10.0', 3, true],
      ['b', '2.0.0-rc.1', '1.10.0', 2, true],
    ]);
    expect(await to(old.artifact_id, ['b'], { constants: { target_ip: '192.0.2.7' } })).toEqual([
      '1.9.0',
      ['b', '1.9.0', '2.0.0-rc.1', 3, true],
    ]);
    expect((await directivesOf(server, b))[0]?.body).toMatchObject({ constants: { target_ip: '192.0.2.7' } });
    const gone = await off('x@2.0.0-rc.1', ['all'], { dry_run: true });
    expect(gone).toEqual(['2.0.0-rc.1', ['a', '2.0.0-rc.1', '2.0.0-rc.1', 4, true]]);
    expect(await off('x@2.0.0-rc.1', ['all'])).toEqual(gone);
    expect(await off('x', ['all'])).toEqual([
      null,
      ['a', '2.0.0-rc.1', null, 4, false],
      ['b', '1.9.0', '1.9.0', 4, true],
      ['c', '1.10.0', '1.10.0', 2, true],
    ]);
    expect(await drift(server)).toEqual([]);
    expect((await operator.call(deleteArtifact, { params: { id: pre.artifact_id } })).version).toBe('2.0.0-rc.1');
  });

  test('the whole set of hosts: those come, those go, those stay with what they have, or nothing happens', async () => {
    await using server = await startTestServer({ storage });
    const at = await registry(server);
    const v1 = await at.publish('x', '1.0.0');
    const v2 = await at.publish('x', '2.0.0');
    const nodes = Object.fromEntries(
      await Promise.all(['a', 'b', 'c', 'd'].map(async (name) => [name, await server.enrol(name)] as const)),
    );
    await assign(server, v1.artifact_id, 'a', { target_ip: '192.0.2.5' });
    await assign(server, v1.artifact_id, 'b');
    await assign(server, v2.artifact_id, 'd');
    const put = (artifact_id: string, hosts: string[], constants?: Record<string, string>) =>
      server
        .as('operator')
        .call(putHosts, { params: { artifact_id }, body: { hosts, ...(constants ? { constants } : {}) } });
    expect(await put(v1.artifact_id, ['a', nodes.c?.uid ?? '', 'c'])).toEqual({
      added: ['c'],
      removed: ['b'],
      unchanged: ['a'],
    });
    const running = async () =>
      Object.fromEntries(
        await Promise.all(
          Object.entries(nodes).map(async ([name, node]) => [
            name,
            (await directivesOf(server, node)).map(({ generation, body }) => {
              const { state, version, constants } = body as { state: string; version: string; constants: object };
              return { generation, state, version, ...constants, fixed: undefined };
            })[0],
          ]),
        ),
      );
    expect(await running()).toEqual({
      a: { generation: 1, state: 'present', version: '1.0.0', target_ip: '192.0.2.5' },
      b: { generation: 2, state: 'absent' },
      c: { generation: 1, state: 'present', version: '1.0.0', target_ip: '192.0.2.1' },
      d: { generation: 1, state: 'present', version: '2.0.0', target_ip: '192.0.2.1' },
    });
    expect(await put(v1.artifact_id, ['a', 'c'], { target_ip: '192.0.2.5' })).toEqual({
      added: ['c'],
      removed: [],
      unchanged: ['a'],
    });
    expect(await put(v2.artifact_id, ['a', 'd'])).toEqual({ added: ['a'], removed: [], unchanged: ['d'] });
    expect(await put(v2.artifact_id, [])).toEqual({ added: [], removed: ['a', 'd'], unchanged: [] });
    expect(await drift(server)).toEqual([]);
  });

  test('twenty versions assigned to one node at once: generations without a gap, one per change', async () => {
    await using server = await startTestServer({ storage });
    const at = await registry(server);
    const node = await server.enrol('n');
    const versions = [];
    for (let number = 1; number <= 20; number++) versions.push(await at.publish('a', `${number}.0.0`));
    const made = await Promise.all(versions.map(({ artifact_id }) => assign(server, artifact_id, 'n')));
    const inOrder = made.toSorted((a, b) => a.generation - b.generation);
    expect(inOrder.map(({ generation }) => generation)).toEqual(Array.from({ length: 20 }, (_, index) => index + 1));
    const told = await forHost(node);
    expect([told.revision, told.total, told.artifacts[0]?.version]).toEqual([20, 1, inOrder.at(-1)?.version]);
    expect(await drift(server)).toEqual([]);
  });
});
