import { generateKeyPair } from '@aegis/protocol/access/keys';
import type { TrustBundle, TrustKey } from '@aegis/protocol/access/trust-bundle';
import { expect, test } from 'vitest';
import { changesText } from './trust-text.ts';

/** What whoever signs reads: a difference that he could not see would be signed. */

const [root, server, bob, mallory] = [generateKeyPair(), generateKeyPair(), generateKeyPair(), generateKeyPair()];
const raw = ({ publicRaw }: typeof root): string => publicRaw.toString('base64');
const key = (pair: typeof root, change: Partial<TrustKey> = {}): TrustKey => ({
  keyid: pair.keyId,
  public_key: raw(pair),
  name: 'bob',
  usage: ['operate'],
  state: 'active',
  ...change,
});
const serving = key(server, { name: 'server', usage: ['serve'] });
const bundle = (change: Partial<TrustBundle> = {}): TrustBundle => ({
  fleet: 'f',
  version: 1,
  previous: null,
  issued_at: '2025-01-01T00:00:00Z',
  expires_at: '2030-01-01T00:00:00Z',
  root: { threshold: 1, keys: [raw(root)] },
  keys: [serving],
  ...change,
});
const lines = async (change: Partial<TrustBundle>, before = bundle()): Promise<string[]> =>
  (await changesText(before, { ...before, version: 2, ...change })).slice(2);
const same = `root 1 of 1 (${root.keyId})`;

test('a key is told by its whole id, whatever name and minisign id stand beside it', async () => {
  const minisign_id = 'E7620F1842B4E81F';
  expect(await lines({ keys: [serving, key(mallory, { person: 'bob', minisign_id })] })).toEqual([
    same,
    `+ bob (${mallory.keyId}, minisign ${minisign_id}) of bob: operate`,
  ]);
  expect(await lines({ keys: [serving, key(mallory, { keyid: bob.keyId })] })).toEqual([
    same,
    `+ bob (${mallory.keyId}, listed as ${bob.keyId} and ignored): operate`,
  ]);
});

test('a root that only reads like the one before is another', async () => {
  const rootOf = (...persons: string[]) => ({ threshold: 1, keys: [raw(root), raw(bob)], persons });
  const [known, twin] = [rootOf('alice', 'alice'), rootOf('alice', 'alice\u200e')];
  const text = `1 of 2 (alice ${root.keyId}, alice ${bob.keyId})`;
  expect(await lines({ root: twin }, bundle({ root: known }))).toEqual([`! root ${text}`, `  becomes ${text}`]);
  expect(await lines({}, bundle({ root: known }))).toEqual([`root ${text}`]);
});

test('a server key that ends is less; a key that becomes anything else is told as such', async () => {
  const until = '2025-02-01T00:00:00.000Z';
  const later = '2025-03-01T00:00:00.000Z';
  const told = (end = ''): string => `server (${server.keyId}): serve${end}`;
  const ends = { ...serving, until };
  expect(await lines({ keys: [ends] })).toEqual([same, `- ${told(` until ${until}`)}`]);
  expect(await lines({ keys: [{ ...serving, state: 'revoked' }] }, bundle({ keys: [ends] }))).toEqual([
    same,
    `- ${told()}`,
  ]);
  expect(await lines({ keys: [{ ...serving, until: later }] }, bundle({ keys: [ends] }))).toEqual([
    same,
    `! ${told(` until ${until}`)} (active)`,
    `  becomes ${told(` until ${later}`)} (active)`,
  ]);
  expect(await lines({ keys: [{ ...ends, usage: ['serve', 'operate'], state: 'revoked' }] })).toEqual([
    same,
    `! ${told()} (active)`,
    `  becomes server (${server.keyId}): serve,operate until ${until} (revoked)`,
  ]);
  expect(await lines({ keys: [] })).toEqual([same, `! ${told()} is left out`]);
});
