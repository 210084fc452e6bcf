import { createToken } from '@aegis/protocol/access/endpoints';
import { apiListNodes, apiPatchNode } from '@aegis/protocol/nodes/endpoints';
import type { Labels } from '@aegis/protocol/nodes/node';
import { expect, test } from 'vitest';
import { nodeScopes } from '../src/nodes/scope-repository.ts';
import { startTestServer } from './start-test-server.ts';

/** A scope in SQL means what its selector means, on both databases. */

const NODES: { site: string | null; labels: Labels }[] = [
  { site: null, labels: {} },
  { site: 'fra', labels: {} },
  { site: 'FRA', labels: { env: 'prod' } },
  { site: 'fra-1', labels: { env: 'prod', team: 'a' } },
  { site: 'fra_1', labels: { env: 'PROD', 'kubernetes.io/role': 'db' } },
  { site: 'ber', labels: { env: '', '12': 'x', team: 'b' } },
  { site: 'b.er', labels: { env: 'prod/eu@1+2', 'a.b': 'c', a: 'site' } },
];
const SCOPES = [
  'site=fra',
  'site!=fra',
  'site=fra*',
  'site=*',
  'not site=*',
  'site=fra_1',
  'site=fra?1*',
  'site=*[a-f]*',
  'site=%a*',
  'site=f*_1',
  'label.env=prod',
  'label.env!=prod',
  'label.env=*',
  'label.env=p*/eu@*',
  'label.env=""',
  'label.12=x',
  'label.a.b=c',
  'label.a=site or label.kubernetes.io/role=db',
  'not (site=fra* and label.env=prod) and not label.team=b',
  'site=fra or site=ber and not label.team=b',
  'site="a\\\\b*" or site="it\'s"',
];

test.each(['sqlite', 'postgres'] as const)('%s', async (storage) => {
  await using server = await startTestServer({ storage });
  const admin = server.as('admin');
  const uids: string[] = [];
  for (const [at, body] of NODES.entries()) {
    const { uid } = await server.enrol(`n${at}`);
    uids.push(uid);
    await admin.call(apiPatchNode, { params: { id: uid }, body });
  }
  const scopeOf = nodeScopes(server.running.storage.kind);
  for (const text of SCOPES) {
    const scope = scopeOf(text);
    const { token } = await admin.call(createToken, { body: { name: 'scoped', role: 'viewer', scope: text } });
    const listed = await server.withToken(token).call(apiListNodes);
    const inSql = await server.running.storage.read
      .selectFrom('nodes as n')
      .select('n.name')
      .where(scope.holds('n.uid'))
      .orderBy('n.name')
      .execute();
    const wanted = NODES.flatMap((node, at) => (scope.includes(node) ? [`n${at}`] : []));
    expect([text, listed.agents.map(({ name }) => name), listed.total]).toEqual([text, wanted, wanted.length]);
    expect([text, inSql.map(({ name }) => name)]).toEqual([text, wanted]);
  }
  expect(SCOPES.map((text) => NODES.filter(scopeOf(text).includes).length)).toEqual([
    1, 6, 3, 6, 1, 1, 0, 0, 0, 1, 2, 5, 5, 1, 1, 1, 1, 2, 5, 1, 0,
  ]);
});
