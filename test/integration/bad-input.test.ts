import { gzipSync, zstdCompressSync } from 'node:zlib';
import type { Endpoint } from '@aegis/protocol/endpoint';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type BadInputStage, badInputStage, changed, MALFORMED, TOO_LARGE, TYPE } from '../fleet/bad-input-stage.ts';
import { faultsIn } from '../fleet/database.ts';
import { fuzz } from '../fleet/fuzzer.ts';
import { allEndpoints, requestOf } from '../fleet/samples.ts';
import { wrongBodies, wrongQueries } from '../fleet/wrong-values.ts';

/** What no endpoint may take, for every endpoint of the protocol: malformed bodies and queries, and a sample of random ones. */

const MIB = 1024 * 1024;
const endpoints = await allEndpoints();
const withBody = endpoints.filter((endpoint) => endpoint.body);
const withQuery = endpoints.filter((endpoint) => endpoint.query);

let on: BadInputStage;
beforeAll(async () => {
  on = await badInputStage();
});
afterAll(() => on.close());

const deep = (levels: number) => `${'{"a":'.repeat(levels)}1${'}'.repeat(levels)}`;
const bombs = { gzip: gzipSync(Buffer.alloc(64 * MIB)), zstd: zstdCompressSync(Buffer.alloc(64 * MIB)) };
const limitOf = (endpoint: Endpoint): number =>
  endpoint.bodyLimitBytes ?? (endpoint.caller === 'anyone' ? MIB / 4 : 8 * MIB);

test('the list of endpoints is not empty, and each has its sample', () => {
  expect(endpoints.length).toBeGreaterThan(30);
  for (const endpoint of endpoints) expect(requestOf(on.staged, endpoint).method).toBe(endpoint.method);
});

test.each(withBody.map((endpoint) => [endpoint.id, endpoint] as const))(
  '%s: bodies that are none',
  async (_, endpoint) => {
    const good = requestOf(on.staged, endpoint);
    const text = String(good.body);
    const json = (body: string) => ({ asked: changed(good, {}, body), expected: MALFORMED });
    await on.expectTable({
      'cut off': json(text.slice(0, -1)),
      'an array': json(`[${text}]`),
      null: json('null'),
      'a string': json('"text"'),
      'a number': json('1'),
      'two documents': json(`${text}${text}`),
      'not UTF-8': {
        asked: changed(good, {}, Buffer.concat([Buffer.from('{"\xff'), Buffer.from([0xff]), Buffer.from('":1}')])),
        expected: MALFORMED,
      },
      'with a byte order mark': json(`\ufeff${text.slice(1)}`),
      'too deep': json(`${text.slice(0, -1)}${text === '{}' ? '' : ','}"x":${deep(40)}}`),
      'very deep': json(`{"x":${'['.repeat(100_000)}`),
      'with __proto__': json(`${text.slice(0, -1)}${text === '{}' ? '' : ','}"__proto__":{"role":"admin"}}`),
      'a form': { asked: changed(good, { 'content-type': 'application/x-www-form-urlencoded' }), expected: TYPE },
      'plain text': { asked: changed(good, { 'content-type': 'text/plain' }), expected: TYPE },
      'no type': { asked: changed(good, { 'content-type': undefined }), expected: TYPE },
      'another charset': {
        asked: changed(good, { 'content-type': 'application/json; charset=utf-16' }),
        expected: TYPE,
      },
      'an unknown encoding': { asked: changed(good, { 'content-encoding': 'br' }), expected: TYPE },
      'not gzip': { asked: changed(good, { 'content-encoding': 'gzip' }), expected: MALFORMED },
      'not zstd': { asked: changed(good, { 'content-encoding': 'zstd' }), expected: MALFORMED },
      'gzip cut off': {
        asked: changed(good, { 'content-encoding': 'gzip' }, gzipSync(text).subarray(0, 12)),
        expected: MALFORMED,
      },
      'a gzip bomb': { asked: changed(good, { 'content-encoding': 'gzip' }, bombs.gzip), expected: TOO_LARGE },
      'a zstd bomb': { asked: changed(good, { 'content-encoding': 'zstd' }, bombs.zstd), expected: TOO_LARGE },
      'too large': { asked: changed(good, {}, ' ', limitOf(endpoint) + 1), expected: TOO_LARGE },
      ...(endpoint.door === 'api'
        ? { 'an unknown field': json(`${text.slice(0, -1)}${text === '{}' ? '' : ','}"unknown":1}`) }
        : {}),
    });
  },
);

test.each(withBody.map((endpoint) => [endpoint.id, endpoint] as const))(
  '%s: fields of wrong types',
  async (_, endpoint) => {
    if (!endpoint.body) throw new Error('no body');
    const cases = wrongBodies(endpoint.body, on.staged.samples[endpoint.id]?.body).map(
      ({ field, what, value }) =>
        [`${field}: ${what}`, { asked: requestOf(on.staged, endpoint, { body: value }), expected: MALFORMED }] as const,
    );
    await on.expectTable(Object.fromEntries(cases));
  },
);

test("the seeds' doors overlook fields that they do not know, ours do not", async () => {
  const body = {
    command_type: 'exec',
    payload: { argv: ['true'] },
    targets: [on.staged.node.name],
    dry_run: true,
    colour: 'red',
  };
  const submit = (id: string) => {
    const endpoint = endpoints.find((one) => one.id === id);
    if (!endpoint) throw new Error(`no endpoint ${id}`);
    return on.refused(requestOf(on.staged, endpoint, { body }), id);
  };
  expect([await submit('seedSubmit'), await submit('submitCommand')]).toEqual([[202, null], MALFORMED]);
});

test.each(withQuery.map((endpoint) => [endpoint.id, endpoint] as const))(
  '%s: query values of wrong types',
  async (_, endpoint) => {
    if (!endpoint.query) throw new Error('no query');
    const cursors = [
      'garbage',
      Buffer.from('[]').toString('base64url'),
      Buffer.from('[null]').toString('base64url'),
      Buffer.from('{"a":1}').toString('base64url'),
      '',
    ];
    const own = on.staged.samples[endpoint.id]?.query;
    const names = wrongQueries(endpoint.query).map(({ name }) => name);
    await on.expectTable({
      ...Object.fromEntries(
        wrongQueries(endpoint.query).map(({ name, value }) => [
          `${name}=${value.slice(0, 20)}`,
          { asked: requestOf(on.staged, endpoint, { query: { ...own, [name]: value } }), expected: MALFORMED },
        ]),
      ),
      ...(names.includes('cursor')
        ? Object.fromEntries(
            cursors.map((cursor) => [
              `cursor=${cursor}`,
              {
                asked: requestOf(on.staged, endpoint, { query: { ...own, cursor } }),
                expected: [400, 'http.bad_cursor'] as const,
              },
            ]),
          )
        : {}),
    });
  },
);

test('a seeded sample of random and mutated requests leaves the server up and its database consistent', async () => {
  const outcome = await fuzz({
    staged: on.staged,
    endpoints,
    count: 2000,
    seed: Number(process.env.AEGIS_SEED ?? 20261121),
  });
  expect(outcome.faults).toEqual([]);
  expect(outcome.accepted).toBeGreaterThan(50); // it is not all refused at the door
  expect((await on.exchange({ method: 'GET', path: '/healthz' })).status).toBe(200);
  expect(faultsIn(on.server.dataDir)).toEqual([]);
}, 60_000);
