import { afterAll, beforeAll, test } from 'vitest';
import { type BadInputStage, badInputStage, changed, MALFORMED } from '../fleet/bad-input-stage.ts';
import { allEndpoints, requestOf, type Sample } from '../fleet/samples.ts';

/** What no endpoint may take, for every endpoint of the protocol: ids of nothing, and callers who are nobody or not who may. */

const endpoints = await allEndpoints();

let on: BadInputStage;
beforeAll(async () => {
  on = await badInputStage();
});
afterAll(() => on.close());

const UNKNOWN = '01890000-0000-7000-8000-000000000000';
const BAD_IDS: Readonly<Record<string, readonly [string, number, string][]>> = {
  commands: [
    ['x', 400, 'http.malformed'],
    [UNKNOWN.slice(1), 400, 'http.malformed'],
    [`${UNKNOWN}'--`, 400, 'http.malformed'],
    [UNKNOWN, 404, 'commands.unknown_command'],
  ],
  executions: [
    ['x', 400, 'http.malformed'],
    [UNKNOWN, 404, 'commands.unknown_execution'],
  ],
  agents: [
    ['nobody', 404, 'nodes.unknown_node'],
    ["'; drop table nodes", 404, 'nodes.unknown_node'],
    ['\0', 400, 'http.malformed'],
    [UNKNOWN, 404, 'nodes.unknown_node'],
    ['x'.repeat(129), 400, 'http.malformed'],
  ],
  artifacts: [
    ['artifact_123', 404, 'artifacts.unknown_artifact'],
    ["'; drop table artifacts", 404, 'artifacts.unknown_artifact'],
    ['\0', 404, 'artifacts.unknown_artifact'],
    [UNKNOWN, 404, 'artifacts.unknown_artifact'],
    ['x'.repeat(129), 400, 'http.malformed'],
  ],
  configs: [
    ['x', 404, 'backups.unknown_config'],
    ["'; drop table backups_configs", 404, 'backups.unknown_config'],
    ['\0', 400, 'http.malformed'],
    [UNKNOWN, 404, 'backups.unknown_config'],
    ['x'.repeat(129), 400, 'http.malformed'],
  ],
  // A name that is not there is one to create, which the body has to bear too.
  'configs to be': [
    ['x', 422, 'backups.bad_config'],
    ["'; drop table backups_configs", 422, 'backups.bad_config'],
    ['\0', 400, 'http.malformed'],
    [UNKNOWN, 404, 'backups.unknown_config'],
    ['x'.repeat(129), 400, 'http.malformed'],
  ],
  runs: [
    ['x', 404, 'backups.unknown_run'],
    [UNKNOWN, 404, 'backups.unknown_run'],
    ['latest:nothing', 404, 'backups.unknown_config'],
    ['x'.repeat(129), 400, 'http.malformed'],
  ],
  // On the nodes' door, where a run is named by its id alone.
  'own runs': [
    ['x', 400, 'http.malformed'],
    [UNKNOWN.slice(1), 400, 'http.malformed'],
    [`${UNKNOWN}'--`, 400, 'http.malformed'],
    [UNKNOWN, 404, 'backups.unknown_run'],
  ],
  keys: [
    ['x', 404, 'access.unknown_key'],
    ['x'.repeat(65), 400, 'http.malformed'],
  ],
  tokens: [
    ['x', 404, 'access.unknown_token'],
    ['x'.repeat(65), 400, 'http.malformed'],
  ],
  'join-tokens': [
    ['x', 404, 'access.unknown_token'],
    ['x'.repeat(65), 400, 'http.malformed'],
  ],
};
test.each(endpoints.filter(({ path }) => path.includes('{id}')).map((endpoint) => [endpoint.id, endpoint] as const))(
  '%s: ids that are none',
  async (_, endpoint) => {
    const part = /([\w-]+)\/\{id\}/.exec(endpoint.path)?.[1] ?? '';
    const kind =
      part === 'runs' && endpoint.caller === 'node'
        ? 'own runs'
        : endpoint.id === 'putBackupConfig'
          ? 'configs to be'
          : part;
    const ids = BAD_IDS[kind];
    if (!ids) throw new Error(`what do bad ids below '${kind}' lead to? Add them to BAD_IDS`);
    const own: Sample = on.staged.samples[endpoint.id] ?? {};
    await on.expectTable({
      ...Object.fromEntries(
        ids.map(([id, status, code]) => [
          id,
          {
            asked: requestOf(on.staged, endpoint, { params: { ...own.params, id } }),
            expected: [status, code] as const,
          },
        ]),
      ),
      ...(endpoint.path.includes('{stream}')
        ? {
            stdin: {
              asked: requestOf(on.staged, endpoint, { params: { ...own.params, stream: 'stdin' } }),
              expected: MALFORMED,
            },
          }
        : {}),
      'not a path': {
        asked: {
          ...requestOf(on.staged, endpoint),
          path: endpoint.path.replace('{id}', '%E0%A4%A').replace('{stream}', 'stdout'),
        },
        expected: MALFORMED,
      },
    });
  },
);

test.each(endpoints.filter(({ caller }) => caller !== 'anyone').map((endpoint) => [endpoint.id, endpoint] as const))(
  '%s: bearers that are none',
  async (_, endpoint) => {
    const side = endpoint.caller === 'node' ? 'nodes' : 'operators';
    const weaker = {
      admin: ['viewer', 'operator'],
      operator: ['viewer'],
      viewer: [],
      node: [],
      'viewer-or-node': [],
      anyone: [],
    } as const;
    const nodesToo = endpoint.caller === 'viewer-or-node';
    const good = requestOf(on.staged, endpoint);
    const as = (bearer: string | null) =>
      changed(good, { authorization: bearer === null ? undefined : `Bearer ${bearer}` });
    await on.expectTable({
      ...Object.fromEntries(
        Object.entries(on.bearers)
          .filter(([, row]) => row[side][0] !== 200 && !(nodesToo && row.nodes[0] === 200))
          .map(([who, row]) => [who, { asked: as(row.bearer), expected: row[side] }]),
      ),
      ...Object.fromEntries(
        weaker[endpoint.caller].map((role) => [
          role,
          { asked: as(on.staged.bearers[role]), expected: [403, 'access.forbidden'] as const },
        ]),
      ),
      'another scheme': {
        asked: changed(good, { authorization: 'Basic YTpi' }),
        expected: [401, 'access.unauthenticated'],
      },
      'an empty one': { asked: changed(good, { authorization: 'Bearer ' }), expected: [401, 'access.unauthenticated'] },
    });
  },
);
