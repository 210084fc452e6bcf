import { expect, test } from 'vitest';
import { devRuleAllows } from './dev-rule.ts';

const LOCAL = { host: '127.0.0.1:8080' };
const allows = (
  headers: Record<string, string | string[]>,
  more: { method?: string; from?: string; raw?: string[] } = {},
) =>
  devRuleAllows({
    method: more.method ?? 'GET',
    headers,
    rawHeaders: more.raw ?? Object.entries(headers).flatMap(([name, value]) => [name, String(value)]),
    remoteAddress: more.from ?? '127.0.0.1',
    agentKey: false,
  });

test.each([
  ['a plain request', allows(LOCAL)],
  ['localhost', allows({ host: 'localhost:8080' })],
  ['IPv6', allows({ host: '[::1]:8080' }, { from: '::1' })],
  ['a mapped address', allows({ host: 'LOCALHOST' }, { from: '::ffff:127.0.0.1' })],
  [
    'JSON',
    allows({ ...LOCAL, 'content-type': 'application/json; charset=utf-8', 'content-length': '2' }, { method: 'POST' }),
  ],
  ['no body', allows({ ...LOCAL, 'content-length': '0' }, { method: 'POST' })],
  ['a typed address bar', allows({ ...LOCAL, 'sec-fetch-site': 'none' })],
])('allowed: %s', (_, allowed) => expect(allowed).toBe(true));

test.each([
  ['from elsewhere', allows(LOCAL, { from: '10.0.0.7' })],
  ['a rebound name', allows({ host: 'evil.example:8080' })],
  ['a name that begins like loopback', allows({ host: '127.0.0.1.evil.example' })],
  ['a name that ends like it', allows({ host: 'evil-localhost' })],
  ['no host', allows({})],
  ['two hosts', allows(LOCAL, { raw: ['Host', '127.0.0.1', 'host', 'evil.example'] })],
  ['an origin', allows({ ...LOCAL, origin: 'http://127.0.0.1:8080' })],
  ['an opaque origin', allows({ ...LOCAL, origin: 'null' })],
  ['a cross-site fetch', allows({ ...LOCAL, 'sec-fetch-site': 'cross-site' })],
  ['another port of this machine', allows({ ...LOCAL, 'sec-fetch-site': 'same-site' })],
  ...['forwarded', 'x-forwarded-for', 'x-forwarded-host', 'x-real-ip', 'via', 'cf-connecting-ip', 'true-client-ip'].map(
    (name): [string, boolean] => [name, allows({ ...LOCAL, [name]: '127.0.0.1' })],
  ),
  [
    'a form',
    allows(
      { ...LOCAL, 'content-type': 'application/x-www-form-urlencoded', 'content-length': '3' },
      { method: 'POST' },
    ),
  ],
  ['plain text', allows({ ...LOCAL, 'content-type': 'text/plain', 'content-length': '3' }, { method: 'POST' })],
  ['an empty form', allows({ ...LOCAL, 'content-type': 'text/plain', 'content-length': '0' }, { method: 'POST' })],
  ['a body of no type', allows({ ...LOCAL, 'transfer-encoding': 'chunked' }, { method: 'POST' })],
  [
    'a type that begins like JSON',
    allows({ ...LOCAL, 'content-type': 'application/jsonp', 'content-length': '3' }, { method: 'POST' }),
  ],
  ['a credential', allows({ ...LOCAL, authorization: 'Bearer x' })],
  ['an API key', allows({ ...LOCAL, 'x-agent-api-key': 'x' })],
])('not allowed: %s', (_, allowed) => expect(allowed).toBe(false));
