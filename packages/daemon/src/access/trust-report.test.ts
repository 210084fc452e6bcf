import { keyIdOf } from '@aegis/protocol/access/keys';
import type { Attrs } from '@aegis/protocol/nodes/node';
import { expect, test } from 'vitest';
import { tellTrust, trustStatus } from './trust-report.ts';

const KEY = Buffer.alloc(32, 7).toString('base64');
const EXPIRES = '2027-01-01T00:00:00Z';
const trust = (state: 'good' | 'due' | 'expiring' | 'expired', there = true) => ({
  version: () => (there ? 7 : 0),
  current: () => (there ? ({ expires_at: EXPIRES, root: { threshold: 1, keys: [KEY] } } as never) : null),
  head: () => (there ? '7:digest' : null),
  age: () => state,
});

test('the server hears of an end that is near, and that it is over', () => {
  const attrs: Attrs = { os: 'x' };
  const told = (state: 'good' | 'due' | 'expiring' | 'expired', there = true) => {
    tellTrust(attrs, trust(state, there));
    return attrs.trust_expires_at;
  };
  expect([told('good'), told('due'), 'trust_expires_at' in attrs]).toEqual([undefined, undefined, false]);
  expect([told('expiring'), told('expired'), told('good'), told('expired', false)]).toEqual([
    EXPIRES,
    EXPIRES,
    null,
    'no trust bundle',
  ]);
});

test('the status says version, end and state', () => {
  expect(trustStatus(trust('due'))).toEqual({
    version: 7,
    head: '7:digest',
    root_fingerprint: keyIdOf(Buffer.alloc(32, 7)),
    expires_at: EXPIRES,
    state: 'due',
  });
  expect(trustStatus(trust('expired', false))).toEqual({
    version: 0,
    head: null,
    root_fingerprint: null,
    expires_at: null,
    state: 'expired',
  });
});
