import { assignArtifact, putHosts } from '@aegis/protocol/artifacts/endpoints';
import { expect, test } from 'vitest';
import { directivesOf, drift, registry, sentence } from './artifacts-support.ts';
import { startTestServer } from './start-test-server.ts';

/** How much one node, and one request, takes. */

test('a node’s manifests together stay within what its daemon reads in one answer', async () => {
  await using server = await startTestServer();
  const at = await registry(server);
  const node = await server.enrol('n');
  const initial = Array.from({ length: 10_000 }, (_, key) => ({ key, value: 'x'.repeat(70) }));
  const large = await Promise.all(
    Array.from({ length: 7 }, (_, index) =>
      at.publish(`large-${index}`, '1.0.0', { maps: [{ name: 'm', keep: false, initial }] }),
    ),
  );
  const outcomes: string[] = [];
  for (const { artifact_id } of large)
    outcomes.push(
      await sentence(at.operator.call(assignArtifact, { params: { artifact_id, host_id: 'n' }, body: {} })),
    );
  const fit = 'it was not refused';
  expect(outcomes).toEqual([
    ...Array.from({ length: 6 }, () => fit),
    "409 artifacts.limit: The manifests of all that 'n' is to run, with what is set in them, would be larger than 6 MiB together. Unassign one, or put less into their initial maps.",
  ]);
  const { text } = await node.raw('GET', `/artifacts/for-host/${node.uid}`);
  expect(text.length).toBeLessThan(16 * 1024 * 1024);
  expect((await directivesOf(server, node)).length).toBe(6);
  expect(await drift(server)).toEqual([]);
});

test('ten thousand hosts in one transaction', async () => {
  await using server = await startTestServer();
  const at = await registry(server);
  const { artifact_id } = await at.publish('a', '1.0.0');
  const template = await server.enrol('template');
  const names = Array.from({ length: 10_000 }, (_, index) => `host-${index}`);
  const { storage } = server.running;
  await storage.write('test', async (tx) => {
    const row = await tx.selectFrom('nodes').selectAll().where('uid', '=', template.uid).executeTakeFirstOrThrow();
    for (const [index, name] of names.entries())
      await tx
        .insertInto('nodes')
        .values({ ...row, uid: `01890000-0000-7000-8000-${String(index).padStart(12, '0')}`, name, key_id: name })
        .execute();
  });
  const put = (hosts: string[]) => server.as('operator').call(putHosts, { params: { artifact_id }, body: { hosts } });
  expect(await put(names)).toEqual({ added: names.toSorted(), removed: [], unchanged: [] });
  const [first = '', ...others] = names;
  const answer = await put([first]);
  expect([answer.added, answer.removed.length, answer.unchanged]).toEqual([[], others.length, [first]]);
  expect(await drift(server)).toEqual([]);
});
