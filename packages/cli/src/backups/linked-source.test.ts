import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { makeCertificate } from '../../../../test/fleet/certificate.ts';
import { linkedSource } from './linked-source.ts';

/** Ranges through presigned links, from storage that breaks, refuses and lies. */

const CONTENT = randomBytes(3 * 1024 * 1024 + 17);

const storage = async (answer: (request: IncomingMessage, response: ServerResponse, count: number) => void) => {
  const ranges: (string | undefined)[] = [];
  const server = createServer((request, response) => {
    ranges.push(request.headers.range);
    answer(request, response, ranges.length);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/o`;
  return {
    url,
    ranges,
    link: { url: async (_anew: boolean) => url, ca: null },
    [Symbol.asyncDispose]: () =>
      new Promise<void>((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
};
const rangeOf = (request: IncomingMessage): [from: number, to: number] => {
  const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
  return [Number(from), Math.min(Number(to) + 1, CONTENT.length)];
};
const honest = (request: IncomingMessage, response: ServerResponse): void => {
  const [from, to] = rangeOf(request);
  response.writeHead(206, { 'content-range': `bytes ${from}-${to - 1}/${CONTENT.length}` });
  response.end(CONTENT.subarray(from, to));
};
const all = async (pieces: AsyncIterable<Buffer>): Promise<Buffer> => {
  const list: Buffer[] = [];
  for await (const piece of pieces) list.push(piece);
  return Buffer.concat(list);
};

test('any part, and no byte more', async () => {
  await using s3 = await storage(honest);
  using source = await linkedSource(s3.link);
  expect(source.size).toBe(CONTENT.length);
  expect((await all(source.read(5, 70_000))).equals(CONTENT.subarray(5, 70_000))).toBe(true);
  expect((await all(source.read(CONTENT.length - 3, CONTENT.length))).equals(CONTENT.subarray(-3))).toBe(true);
  expect(await all(source.read(7, 7))).toEqual(Buffer.alloc(0));
  expect(s3.ranges).toEqual(['bytes=0-0', 'bytes=5-69999', `bytes=${CONTENT.length - 3}-${CONTENT.length - 1}`]);
});

test('what broke off goes on where it was', async () => {
  await using s3 = await storage((request, response, count) => {
    if (count === 1) return honest(request, response);
    const [from, to] = rangeOf(request);
    response.writeHead(206, {
      'content-range': `bytes ${from}-${to - 1}/${CONTENT.length}`,
      'content-length': to - from,
    });
    const end = Math.min(to, from + 1_000_000);
    response.write(CONTENT.subarray(from, end), () => (end === to ? response.end() : response.destroy()));
  });
  using source = await linkedSource(s3.link);
  expect((await all(source.read(0, source.size))).equals(CONTENT)).toBe(true);
  expect(s3.ranges.length).toBeGreaterThan(3);
});

test('a link that has expired is asked for anew; errors that pass are waited for', async () => {
  await using s3 = await storage((request, response, count) => {
    if (count === 2) response.writeHead(403).end();
    else if (count === 3) response.writeHead(503).end('SlowDown');
    else honest(request, response);
  });
  const asked: boolean[] = [];
  const url = async (anew: boolean) => {
    asked.push(anew);
    return s3.url;
  };
  using source = await linkedSource({ url, ca: null });
  expect((await all(source.read(0, 10))).equals(CONTENT.subarray(0, 10))).toBe(true);
  expect(asked).toEqual([false, false, true, false]);
});

test.each<[string, (request: IncomingMessage, response: ServerResponse) => void, string]>([
  ['the whole instead of a part', (_, response) => response.writeHead(200).end(CONTENT), 'does not know ranges'],
  [
    'another part',
    (_, response) => response.writeHead(206, { 'content-range': 'bytes 9-9/100' }).end('x'),
    'does not know ranges',
  ],
  ['a redirect', (_, response) => response.writeHead(307, { location: 'http://127.0.0.1:9/' }).end(), 'it answers 307'],
  ['nothing there', (_, response) => response.writeHead(404).end(), 'does not have it any more'],
  [
    'an absurd size',
    (_, response) => response.writeHead(206, { 'content-range': 'bytes 0-0/9999999999999999' }).end('x'),
    'does not know ranges',
  ],
])('refused: %s', async (_, answer, why) => {
  await using s3 = await storage(answer);
  await expect(linkedSource(s3.link)).rejects.toMatchObject({
    code: 'backups.destination_failed',
    message: expect.stringContaining(why),
  });
});

test.each(['file:///etc/passwd', 'ftp://127.0.0.1/x', '', 'not a link', 'javascript:0'])(
  'no link: %s',
  async (text) => {
    await expect(linkedSource({ url: async () => text, ca: null })).rejects.toMatchObject({
      code: 'backups.destination_failed',
      message: expect.stringContaining('has no address that can be asked'),
    });
  },
);

test("TLS: by an authority of one's own when it is named, and never without", async () => {
  const folder = mkdtempSync(join(tmpdir(), 'aegis-tls-'));
  const { key, cert: ca } = makeCertificate(folder);
  const server = createTlsServer({ key, cert: ca }, honest);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = async () => `https://127.0.0.1:${(server.address() as AddressInfo).port}/o`;
  {
    using source = await linkedSource({ url, ca });
    expect((await all(source.read(0, 100))).equals(CONTENT.subarray(0, 100))).toBe(true);
  }
  await expect(linkedSource({ url, ca: null })).rejects.toMatchObject({
    code: 'backups.destination_failed',
    message: expect.stringContaining('DEPTH_ZERO_SELF_SIGNED_CERT'),
  });
  server.closeAllConnections();
  await new Promise<void>((resolve) => server.close(() => resolve()));
  rmSync(folder, { recursive: true });
});
