import { expect, test } from 'vitest';
import { cliOfFile, ran } from './cli-process.ts';
import {
  answer,
  CANCEL,
  chunk,
  command,
  ended,
  execution,
  LOGS,
  lines,
  reply,
  SUBMIT,
  scriptedServer,
} from './scripted-server.ts';

/** A person, or a pipe, that has enough of a command that runs. */

const cli = cliOfFile();
const submit = ['submit', '--target', 'web-1'];

test('a reader that goes away ends it quietly and cancels the command', async () => {
  await using server = await scriptedServer({
    [SUBMIT]: (_, response) => reply(response, answer(1), 202),
    [LOGS]: (_, response) => {
      response.writeHead(200, { 'content-type': 'application/x-ndjson' });
      let offset = 0;
      const more = () => {
        const line = lines([chunk('y\n'.repeat(50_000), offset)]);
        offset += 100_000;
        if (!response.destroyed) response.write(line, () => setImmediate(more));
      };
      more();
    },
    [CANCEL]: (_, response) => reply(response, command('cancelled', { cancelled: 1 })),
  });
  const child = cli.start([...submit, '--', 'yes'], { AEGIS_SERVER: server.url });
  child.stdout?.once('data', () => child.stdout?.destroy());
  const { code, stderr } = await ran(child);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  expect(server.requests.at(-1)?.path).toMatch(/\/cancel$/);
});

test('SIGINT without a terminal cancels, follows to the end, and answers 130', async () => {
  let finish: (() => void) | null = null;
  await using server = await scriptedServer({
    [SUBMIT]: (_, response) => reply(response, answer(1), 202),
    [LOGS]: (_, response) => {
      response.writeHead(200, { 'content-type': 'application/x-ndjson' });
      response.write(lines([chunk('started\n', 0)]));
      finish = () =>
        response.end(
          lines([chunk('cleaned up\n', 8), ...ended([execution('cancelled', { signal: 'SIGTERM' })], 'cancelled')]),
        );
    },
    [CANCEL]: (_, response) => {
      reply(response, command('running', { running: 1 }));
      finish?.();
    },
  });
  const child = cli.start([...submit, '--', 'sleep', '100'], { AEGIS_SERVER: server.url });
  child.stdout?.once('data', () => child.kill('SIGINT'));
  const { code, stdout, stderr } = await ran(child);
  expect({ code, stdout: String(stdout), stderr }).toEqual({
    code: 130,
    stdout: 'started\ncleaned up\n',
    stderr: 'aegis: cancelling; Ctrl-C again lets go of it.\naegis: web-1: cancelled.\n',
  });
});

test('--on-interrupt detach lets go at once', async () => {
  await using server = await scriptedServer({
    [SUBMIT]: (_, response) => reply(response, answer(1), 202),
    [LOGS]: (_, response) =>
      void response.writeHead(200, { 'content-type': 'application/x-ndjson' }).write(lines([chunk('x', 0)])),
  });
  const child = cli.start([...submit, '--on-interrupt', 'detach', '--', 'sleep', '100'], { AEGIS_SERVER: server.url });
  child.stdout?.once('data', () => child.kill('SIGINT'));
  const { code, stderr } = await ran(child);
  expect({ code, stderr }).toEqual({
    code: 130,
    stderr: `aegis: let go of the command; it goes on. Follow it again: aegis logs -f ${command('running', {}).command_id}\n`,
  });
  expect(server.requests.map(({ path }) => path)).not.toContain(CANCEL.slice(5));
});
