import { mkdtempSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { configOf, MINIMAL } from './backup-config.ts';
import { cliOfFile, refused } from './cli-process.ts';
import {
  answer,
  chunk,
  ended,
  execution,
  LOGS,
  lines,
  refuse,
  reply,
  SUBMIT,
  scriptedServer,
  stream,
} from './scripted-server.ts';

/** What people get wrong with backups: each is said in the words of what they wrote, and nothing is changed. */

const cli = cliOfFile();
const CREATE = 'POST /api/v1/backups/configs';
const malformed = "The request is malformed: body field 'spec.some.where': some reason.";
const create = ['backups', 'configs', 'create', 'etc', '--source', '/etc'];

test("an identity in a recipient's place is told to nobody", async () => {
  await using server = await scriptedServer({});
  const said = await cli.text([...create, '--to', 'file:///b', '--recipient', `AGE-SECRET-KEY-1${'Q'.repeat(58)}`], {
    env: { AEGIS_SERVER: server.url },
  });
  expect(said).toEqual(
    refused(
      "--recipient: this is an identity, the secret that opens backups. Give its public half, which 'age-keygen -y FILE' prints (age1…).",
    ),
  );
  expect(server.requests).toEqual([]);
});

test.each(['file://tmp/x', 'file:////tmp/x', 'file:tmp/x', '/tmp/x'])('no folder of a node: %s', async (url) => {
  await using server = await scriptedServer({});
  expect(await cli.text([...create, '--to', url], { env: { AEGIS_SERVER: server.url } })).toEqual(
    refused(`--to ${url}: write s3://BUCKET/PREFIX, or file:///PATH for a folder of the node.`),
  );
  expect(server.requests).toEqual([]);
});

test.each([
  [['--to', 'file:///b', '--schedule', '1 2 3'], '--schedule: a cron expression such as "30 2 * * *".'],
  [['--to', 'file:///b', '--timezone', 'Mars/Olympus'], '--schedule: is missing.'],
  [['--to', 'file:///b', '--recipient', 'age1x'], '--recipient: an age recipient (age1…, as age-keygen prints it).'],
  [['--to', 's3://Not_One/x'], '--to: not the name of an S3 bucket.'],
  [['--to', 'file:///b', '--source', 'etc'], '--source: must be an absolute path without . or ..'],
])('a value that the server refuses is said with its flag: %j', async (args, sentence) => {
  await using server = await scriptedServer({
    [CREATE]: (_, response) => refuse(response, 400, 'http.malformed', malformed),
  });
  const said = await cli.text([...create, ...args], { env: { AEGIS_SERVER: server.url } });
  expect(said).toEqual(refused(`${sentence} Nothing was changed.`));
});

test('what only a newer server calls malformed stays in its words', async () => {
  await using server = await scriptedServer({
    [CREATE]: (_, response) => refuse(response, 400, 'http.malformed', malformed),
  });
  const said = await cli.text([...create, '--to', 'file:///b'], { env: { AEGIS_SERVER: server.url } });
  expect(said).toEqual(refused(malformed));
});

test('a configuration that reaches no node says so', async () => {
  const of = (nodes: string[]) => configOf({ ...MINIMAL, nodes }, { assigned: 0 });
  await using server = await scriptedServer({
    [CREATE]: ({ body }, response) =>
      reply(
        response,
        {
          config: of((JSON.parse(body) as { spec: { nodes?: string[] } }).spec.nodes ?? []),
          changed: true,
          diff: [],
          nodes: { added: [], removed: [], unchanged: 0 },
        },
        201,
      ),
  });
  const made = (...args: string[]) =>
    cli.text([...create, '--to', 'file:///b', ...args], { env: { AEGIS_SERVER: server.url } });
  const tryIt = 'aegis: created. Try it: aegis backups run etc --node NODE --follow\n';
  expect((await made('--node', 'site=fra')).stderr).toBe(
    `aegis: no node matches 'site=fra' yet: see 'aegis nodes list'.\n${tryIt}`,
  );
  expect((await made()).stderr).toBe(`aegis: no node makes it yet: aegis backups configs assign etc NODE\n${tryIt}`);
});

test("apply: of several none is stored when another's destination is refused", async () => {
  const stored: string[] = [];
  const changed = (name: string) => ({
    config: configOf({ ...MINIMAL, name }),
    changed: true,
    diff: [],
    nodes: { added: [], removed: [], unchanged: 2 },
  });
  const path = (name: string) => `/api/v1/backups/configs/${name}`;
  const put = (name: string, works: boolean) => ({
    [`GET ${path(name)}`]: (_: unknown, response: Parameters<typeof reply>[0]) =>
      refuse(response, 404, 'backups.unknown_config', `No backup configuration '${name}'.`),
    [`PUT ${path(name)}`]: ({ body }: { body: string }, response: Parameters<typeof reply>[0]) => {
      const { probe, dry_run } = JSON.parse(body) as { probe: boolean; dry_run?: boolean };
      if (probe && !works)
        return refuse(response, 400, 'backups.bad_destination', 'The bucket is not there. Create it.');
      if (dry_run !== true) stored.push(name);
      return reply(response, changed(name));
    },
  });
  await using server = await scriptedServer({ ...put('good', true), ...put('bad', false) });
  const folder = mkdtempSync(join(cli.home, 'apply-'));
  for (const name of ['good', 'bad']) writeFileSync(join(folder, `${name}.json`), JSON.stringify({ ...MINIMAL, name }));
  const apply = (...args: string[]) =>
    cli.text(['backups', 'configs', 'apply', 'good.json', 'bad.json', ...args], {
      env: { AEGIS_SERVER: server.url },
      cwd: folder,
    });
  expect(await apply()).toMatchObject({
    stdout: '',
    stderr: "aegis: bad.json: 'bad': The bucket is not there. Create it. Nothing was changed.\n",
  });
  expect(stored).toEqual([]);
  expect(await apply('--no-probe')).toMatchObject({ code: 0, stderr: '' });
  expect(stored).toEqual(['good', 'bad']);
});

test('run: a node that is away is said, and so is why an attempt is repeated', async () => {
  const run_id = '01981c2e-7f3a-7bd2-a4c1-00000000aaaa';
  const said = answer(1);
  const [target] = said.targets;
  const progress = {
    type: 'progress',
    run_id,
    phase: 'retrying',
    files: 0,
    bytes: 0,
    errors: 0,
    reason: 'It is full.',
  };
  const end = { type: 'run', run_id, state: 'completed', reason: null, totals: null, errors: [] };
  await using server = await scriptedServer({
    [SUBMIT]: (_, response) => reply(response, { ...said, targets: [{ ...target, status: 'offline' }] }, 202),
    [LOGS]: (_, response) =>
      stream(
        response,
        lines([
          chunk(`${JSON.stringify(progress)}\n${JSON.stringify(end)}\n`, 0),
          ...ended([execution('succeeded')], 'succeeded'),
        ]),
      ),
  });
  const { stderr, code } = await cli.text(['backups', 'run', 'etc', '--node', 'web-1', '--follow'], {
    env: { AEGIS_SERVER: server.url },
  });
  expect({ stderr, code }).toEqual({
    code: 0,
    stderr: `aegis: web-1 is offline; it is asked for until ${said.expires_at}. 'aegis nodes list' shows who is there.\nweb-1: retrying after: It is full.\n`,
  });
});
