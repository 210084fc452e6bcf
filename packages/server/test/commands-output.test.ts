import { randomBytes } from 'node:crypto';
import { cancelCommand, type LogLine, pushLogs, readLogs } from '@aegis/protocol/commands/endpoints';
import { describe, expect, test } from 'vitest';
import {
  ack,
  EMPTY,
  finish,
  onlyExecution,
  poll,
  put,
  refusal,
  STORAGES,
  sha256,
  submitTo,
  until,
} from './commands-support.ts';
import { type EnrolledNode, startTestServer, type TestServer } from './start-test-server.ts';

const lines = (text: string): LogLine[] =>
  text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as LogLine);
const bytesOf = (server: TestServer, id: string, query: string, headers: Record<string, string> = {}) =>
  server.as('viewer').raw('GET', `/api/v1/commands/${id}/logs?${query}`, {
    headers: { accept: 'application/octet-stream', ...headers },
  });
const push = (node: EnrolledNode, commandId: string, chunks: object[]) =>
  node.call(pushLogs, { body: { command_id: commandId, chunks } as never });

describe.each(STORAGES)('%s', (storage) => {
  test('output is contiguous: repeats and overlaps are trimmed, a hole is refused, gaps stay visible', async () => {
    await using server = await startTestServer({ storage });
    const node = await server.enrol('n');
    const ids = await submitTo(server, 'n');
    expect(await push(node, ids.commandId, [{ stream: 'stdout', offset: 0, data: 'hello ' }])).toEqual({
      next: { stdout: 6, stderr: 0 },
    });
    // In any order within a push, with repeats.
    await push(node, ids.commandId, [
      { stream: 'stdout', offset: 9, data: 'ld\n' },
      { stream: 'stderr', offset: 0, data: Buffer.from([0xff, 0xfe]).toString('base64'), encoding: 'base64' },
      { stream: 'stdout', offset: 3, data: 'lo wor' },
      { stream: 'stdout', offset: 0, data: 'hello' },
    ]);
    const ahead = await node.send(pushLogs, {
      body: {
        command_id: ids.commandId,
        chunks: [
          { stream: 'stdout', offset: 12, data: '!' },
          { stream: 'stdout', offset: 14, data: 'x' },
        ],
      },
    });
    expect([ahead.status, (ahead.json as { error: object }).error]).toMatchObject([
      409,
      { code: 'commands.offset_ahead', details: { next: { stdout: 13, stderr: 2 } } },
    ]);
    await push(node, ids.commandId, [{ stream: 'stdout', offset: 10, gap: 7, reason: 'freed_after_ack' }]);
    await put(node, ids.executionId, 'stdout', 17, Buffer.from('end'));
    expect(await refusal(put(node, ids.executionId, 'stderr', 3, Buffer.from('x')))).toEqual([
      409,
      'commands.offset_ahead',
    ]);
    expect((await onlyExecution(server, ids.commandId)).output).toMatchObject({
      stdout: { next: 20, missing: 4 },
      stderr: { next: 2, missing: 0 },
    });
    const all = await bytesOf(server, ids.commandId, 'stream=stdout');
    expect([all.text, all.headers.get('content-length'), all.headers.get('aegis-gaps')]).toEqual([
      'hello world\n!end',
      '16',
      '13-16;freed_after_ack',
    ]);
    const log = await server.as('viewer').raw('GET', `/api/v1/commands/${ids.commandId}/logs`);
    const shown = lines(log.text).filter((line) => line.type === 'chunk' || line.type === 'gap');
    expect(
      shown.map((line) => [line.stream, line.offset, line.type === 'gap' ? line.gap : [line.encoding, line.data]]),
    ).toEqual([
      ['stdout', 0, ['utf8', 'hello ']],
      ['stdout', 6, ['utf8', 'world\n']],
      ['stderr', 0, ['base64', '//4=']],
      ['stdout', 12, ['utf8', '!']],
      ['stdout', 13, 4],
      ['stdout', 17, ['utf8', 'end']],
    ]);
    expect(lines(log.text).at(-1)).toMatchObject({ type: 'end', command: { command_id: ids.commandId } });
  });

  test('ranges and offsets count the bytes that exist', async () => {
    await using server = await startTestServer({ storage });
    const node = await server.enrol('n');
    const { commandId, executionId } = await submitTo(server, 'n');
    await push(node, commandId, [
      { stream: 'stdout', offset: 0, data: 'abc' },
      { stream: 'stdout', offset: 3, gap: 10, reason: 'output_limit' },
      { stream: 'stdout', offset: 13, data: 'defg' },
    ]);
    const read = async (query: string, range?: string) => {
      const answer = await bytesOf(server, commandId, `stream=stdout&${query}`, range ? { range } : {});
      return [answer.status, answer.text, answer.headers.get('content-range')];
    };
    expect(await read('')).toEqual([200, 'abcdefg', null]);
    expect(await read('', 'bytes=2-4')).toEqual([206, 'cde', 'bytes 2-4/7']);
    expect(await read('', 'bytes=3-')).toEqual([206, 'defg', 'bytes 3-6/7']);
    expect(await read('', 'bytes=-2')).toEqual([206, 'fg', 'bytes 5-6/7']);
    expect(await read('', 'bytes=7-')).toEqual([416, '', 'bytes */7']);
    expect(await read('', 'bytes=0-1,3-4')).toEqual([200, 'abcdefg', null]);
    expect(await read('offset=14')).toEqual([200, 'efg', null]);
    expect(await read('offset=5')).toEqual([200, 'defg', null]);
    expect(await read('offset=99')).toEqual([200, '', null]);
    expect((await bytesOf(server, commandId, '')).status).toBe(400);
    expect((await bytesOf(server, commandId, 'stream=stdout&attempt=2')).status).toBe(404);
    expect(await refusal(put(node, executionId, 'stdout', 2 ** 53 - 2, Buffer.from('xyz')))).toEqual([
      400,
      'http.malformed',
    ]);
  });

  test('text that is none is refused; a limit holds', async () => {
    await using server = await startTestServer({ storage });
    const node = await server.enrol('n');
    const { commandId, executionId } = await submitTo(server, 'n', { output_limit_bytes: 10 });
    for (const data of ['a', 'ab=c', 'abc*', 'YWJj\n', 'YQ'])
      expect(await refusal(push(node, commandId, [{ stream: 'stdout', offset: 0, data, encoding: 'base64' }]))).toEqual(
        [400, 'http.malformed'],
      );
    const lone = await node.raw('POST', '/v1/commands/logs', {
      headers: { 'content-type': 'application/json' },
      body: `{"command_id":"${commandId}","chunks":[{"stream":"stdout","offset":0,"data":"\\ud800"}]}`,
    });
    expect(lone.status).toBe(400);
    await put(node, executionId, 'stdout', 0, Buffer.alloc(1024 * 1024));
    expect(await refusal(put(node, executionId, 'stdout', 1024 * 1024, Buffer.alloc(64)))).toEqual([
      422,
      'commands.output_limit',
    ]);
    await push(node, commandId, [{ stream: 'stdout', offset: 1024 * 1024, gap: 2 ** 40, reason: 'output_limit' }]);
    expect((await onlyExecution(server, commandId)).output.stdout).toMatchObject({
      next: 2 ** 40 + 1024 * 1024,
      missing: 2 ** 40,
    });
  });

  test('large binary output comes back byte for byte, also while it is followed, and its hash is checked', async () => {
    await using server = await startTestServer({ storage });
    const node = await server.enrol('n');
    const ids = await submitTo(server, 'n', { output_limit_bytes: 0 });
    const source = randomBytes(9 * 1024 * 1024 + 12_345);
    const followed = fetch(`${server.url}/api/v1/commands/${ids.commandId}/logs?stream=stdout&follow=true`, {
      headers: {
        accept: 'application/octet-stream',
        authorization: `Bearer ${await operatorToken(server)}`,
      },
    });
    const answer = await followed; // headers are there before the first byte
    const body = answer.arrayBuffer();
    for (let at = 0; at < source.length; at += 4 * 1024 * 1024)
      await put(node, ids.executionId, 'stdout', at, source.subarray(at, at + 4 * 1024 * 1024));
    const output = { stdout: { bytes: source.length, sha256: sha256(source) }, stderr: EMPTY };
    await finish(node, ids, { output });
    expect(sha256(new Uint8Array(await body))).toBe(output.stdout.sha256);
    expect(await onlyExecution(server, ids.commandId)).toMatchObject({ state: 'succeeded', output_verified: true });
    const whole = await fetch(`${server.url}/api/v1/commands/${ids.commandId}/logs?stream=stdout`, {
      headers: { accept: 'application/octet-stream', authorization: `Bearer ${await operatorToken(server)}` },
    });
    expect(sha256(new Uint8Array(await whole.arrayBuffer()))).toBe(output.stdout.sha256);
    expect(await refusal(put(node, ids.executionId, 'stdout', source.length, Buffer.from('more')))).toEqual([
      422,
      'commands.report_mismatch',
    ]);
  });

  test('a follower sees lines and states as they are committed, of every attempt, and resumes where it was', async () => {
    await using server = await startTestServer({ storage });
    const node = await server.enrol('n');
    const ids = await submitTo(server, 'n', { max_retries: 1, retry_backoff_sec: 0 });
    const reader = await follow(server, ids.commandId, 'application/x-ndjson');
    expect(await reader.next()).toMatchObject({ type: 'state', execution: { state: 'queued', attempt: 1 } });
    await poll(node);
    await ack(node, ids.executionId);
    expect(await reader.next()).toMatchObject({ type: 'state', execution: { state: 'delivered' } });
    await push(node, ids.commandId, [{ stream: 'stdout', offset: 0, data: 'one\n' }]);
    expect(await reader.next()).toMatchObject({ type: 'chunk', data: 'one\n', offset: 0, node: 'n', attempt: 1 });
    await finish(node, ids, {
      state: 'failed',
      exit_code: 1,
      output: { stdout: { bytes: 4, sha256: sha256('one\n') }, stderr: EMPTY },
    });
    expect([await reader.next(), await reader.next()]).toMatchObject([
      { type: 'state', execution: { state: 'failed', output_verified: true } },
      { type: 'state', execution: { state: 'queued', attempt: 2 } },
    ]);
    const [offer] = (await poll(node, { wait: 10 })).commands;
    const second = { commandId: ids.commandId, executionId: offer?.execution_id ?? '' };
    const resumed = await follow(server, ids.commandId, 'text/event-stream', `&from=${ids.executionId}:stdout:2`);
    expect(await resumed.next()).toMatchObject({ type: 'chunk', data: 'e\n', offset: 2 });
    await finish(node, second);
    const last = async (from: typeof reader) => {
      for (;;) {
        const line = await from.next();
        if (line.type === 'end') return line;
      }
    };
    expect(await last(reader)).toMatchObject({ type: 'end', command: { state: 'succeeded', retry_count: 1 } });
    expect(await last(resumed)).toMatchObject({ type: 'end', command: { state: 'succeeded' } });
    expect(server.running.storage.kind).toBe(storage);
  });

  test('a follower of a cancelled command stays until the node says how it ended, or its grace is over', async () => {
    await using server = await startTestServer({ storage });
    const node = await server.enrol('n');
    const ids = await submitTo(server, 'n', { payload: { argv: ['true'], grace_sec: 60 } });
    await poll(node);
    await ack(node, ids.executionId);
    const bytes = server.as('viewer').raw('GET', `/api/v1/commands/${ids.commandId}/logs?follow=true&stream=stdout`, {
      headers: { accept: 'application/octet-stream' },
    });
    const reader = await follow(server, ids.commandId, 'application/x-ndjson');
    await server.as('operator').call(cancelCommand, { params: { id: ids.commandId }, body: {} });
    const shown: LogLine[] = [];
    const readTo = async (done: (line: LogLine) => boolean) => {
      for (;;) {
        const line = await reader.next();
        shown.push(line);
        if (done(line)) return;
      }
    };
    await readTo((line) => line.type === 'state' && line.execution.state === 'cancelled');
    await push(node, ids.commandId, [{ stream: 'stdout', offset: 0, data: 'tidied\n' }]);
    await readTo((line) => line.type === 'chunk');
    const output = { stdout: { bytes: 7, sha256: sha256('tidied\n') }, stderr: EMPTY };
    await finish(node, ids, { state: 'cancelled', exit_code: 3, output });
    await readTo((line) => line.type === 'end');
    expect(shown.slice(-3)).toMatchObject([
      { type: 'chunk', data: 'tidied\n' },
      { type: 'state', execution: { state: 'cancelled', presumed: false, exit_code: 3 } },
      { type: 'end', command: { state: 'cancelled' } },
    ]);
    expect((await bytes).text).toBe('tidied\n');

    const silent = await submitTo(server, 'n', { payload: { argv: ['true'], grace_sec: 0 } });
    await poll(node);
    const waiting = await follow(server, silent.commandId, 'application/x-ndjson');
    await server.as('operator').call(cancelCommand, { params: { id: silent.commandId }, body: {} });
    for (;;) if ((await waiting.next()).type === 'end') break;
    expect(await onlyExecution(server, silent.commandId)).toMatchObject({ state: 'cancelled', presumed: true });
  });

  test('who stops following leaves nothing behind; a stopping server ends what is followed', async () => {
    await using server = await startTestServer({ storage });
    await server.enrol('n');
    const { commandId } = await submitTo(server, 'n');
    const { bus } = server.running.commands;
    const authorization = `Bearer ${await operatorToken(server)}`;
    const path = `${server.url}/api/v1/commands/${commandId}/logs?follow=1&stream=stdout`;
    const open = (accept: string, signal?: AbortSignal) =>
      fetch(path, { headers: { accept, authorization }, ...(signal ? { signal } : {}) });
    const kinds = ['application/x-ndjson', 'text/event-stream', 'application/octet-stream'];
    const gone = new AbortController();
    await Promise.all(kinds.map((accept) => open(accept, gone.signal)));
    await until('all follow', () => bus.size() === 5); // two topics for lines, one for bytes
    gone.abort();
    await until('nobody follows', () => bus.size() === 0);
    const followed = await Promise.all(kinds.map((accept) => open(accept)));
    await server.running.close();
    await Promise.all(followed.map((answer) => answer.text()));
    expect(bus.size()).toBe(0);
  });

  test('logs of nobody are 404', async () => {
    await using server = await startTestServer({ storage });
    const unknown = { id: '01890000-0000-7000-8000-000000000000' };
    expect(await refusal(server.as('viewer').call(readLogs, { params: unknown }))).toEqual([
      404,
      'commands.unknown_command',
    ]);
    await server.enrol('n');
    const { commandId } = await submitTo(server, 'n');
    expect(
      await refusal(server.as('viewer').call(readLogs, { params: { id: commandId }, query: { node: 'other' } })),
    ).toEqual([404, 'commands.unknown_execution']);
  });
});

const operatorToken = async (server: TestServer): Promise<string> => {
  const { issueToken } = await import('../src/offline.ts');
  return issueToken({ dataDir: server.dataDir, databaseUrl: server.databaseUrl, role: 'viewer', name: 'reader' });
};

/** Lines of a followed log, one at a time. */
const follow = async (server: TestServer, id: string, accept: string, query = '') => {
  const answer = await fetch(`${server.url}/api/v1/commands/${id}/logs?follow=1${query}`, {
    headers: { accept, authorization: `Bearer ${await operatorToken(server)}` },
  });
  expect(answer.headers.get('content-type')).toBe(`${accept}; charset=utf-8`);
  const reader = (answer.body ?? new ReadableStream()).getReader();
  const decoder = new TextDecoder();
  let text = '';
  return {
    next: async (): Promise<LogLine> => {
      for (;;) {
        const end = text.indexOf('\n');
        if (end < 0) {
          const { value, done } = await reader.read();
          if (done) throw new Error(`the log ended with '${text}'`);
          text += decoder.decode(value as Uint8Array, { stream: true });
          continue;
        }
        const line = text.slice(0, end).replace(/^data: /, '');
        text = text.slice(end + 1);
        if (line !== '' && line !== ':') return JSON.parse(line) as LogLine;
      }
    },
  };
};
