import { createConfig, listRuns } from '@aegis/protocol/backups/endpoints';
import { expect, test } from 'vitest';
import { encodeCursor } from '../src/platform/paging.ts';
import { sentence } from './artifacts-support.ts';
import { create, start, starting } from './backups-support.ts';
import { STORAGES } from './commands-support.ts';
import { startTestServer } from './start-test-server.ts';

/** What operators may send that is not right: each says what would be, and none is a fault of the server's. */

const S3 = { kind: 's3', bucket: 'bucket' };

test.each(STORAGES)('%s: a cursor of a page of runs that is none of ours', async (storage) => {
  await using server = await startTestServer({ storage });
  const node = await server.enrol('web-1');
  const { config } = await create(server, { nodes: ['web-1'] });
  await start(node, starting(config.config_id));
  for (const at of [1.5, 1e300, -1e19, 2 ** 63]) {
    const cursor = encodeCursor([at, 'a']);
    expect(await sentence(server.as('viewer').call(listRuns, { query: { cursor } }))).toBe(
      "400 http.bad_cursor: This cursor is not one of ours. Take 'next_cursor' of the page before, or none.",
    );
  }
});

test('a value that is out of bounds: the sentence has the bounds', async () => {
  await using server = await startTestServer();
  const told = (more: Record<string, unknown>) =>
    sentence(
      server.as('operator').call(createConfig, {
        body: {
          spec: { name: 'home', sources: ['/home'], destination: { kind: 'file', path: '/backup' }, ...more },
          probe: false,
        } as never,
      }),
    );
  const refusal = (field: string, reason: string) =>
    `400 http.malformed: The request is malformed: body field 'spec.${field}': ${reason}.`;
  const cases: [Record<string, unknown>, string, string][] = [
    [{ limits: { run_sec: 1 } }, 'limits.run_sec', 'a whole number of seconds, 60 to 2592000'],
    [{ limits: { run_sec: 60.5 } }, 'limits.run_sec', 'a whole number of seconds, 60 to 2592000'],
    [{ limits: { archive_bytes: 0 } }, 'limits.archive_bytes', 'a whole number of bytes, 1 to 5497558138880'],
    [{ bandwidth: { upload: 1 } }, 'bandwidth.upload', 'a whole number of bytes, 1024 to 1099511627776'],
    [{ retries: { backoff_sec: 0 } }, 'retries.backoff_sec', 'a whole number of seconds, 1 to 86400'],
    [{ retention: { keep_last: -2 } }, 'retention.keep_last', 'a whole number, 0 to 1000000; -1 keeps all'],
    [
      { destination: { ...S3, endpoint: 'http://:password@s3.example.com' } },
      'destination.endpoint',
      'an http:// or https:// address without a path or a user, e.g. https://s3.example.com',
    ],
    [{ alerts: { expect_within_sec: 1 } }, 'alerts.expect_within_sec', 'a whole number of seconds, 60 to 31622400'],
  ];
  for (const [more, field, reason] of cases) expect(await told(more)).toBe(refusal(field, reason));
});
