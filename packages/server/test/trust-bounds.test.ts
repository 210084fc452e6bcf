import { generateKeyPair } from '@aegis/protocol/access/keys';
import { expect, test } from 'vitest';
import { loadFleetKeys } from '../src/access/fleet-keys.ts';
import { trustOf } from '../src/access/trust.ts';
import { startTestServer } from './start-test-server.ts';

/** No version of the trust bundle is made that nodes, or the server at its next start, would refuse to read. */

test('a bundle that nobody would read is not made', async () => {
  await using server = await startTestServer();
  const keys = loadFleetKeys(server.dataDir, Date.now());
  if (!keys) throw new Error('the fleet is not there');
  const trust = trustOf({ dataDir: server.dataDir, keys, clock: { now: Date.now }, faults: { at: () => undefined } });
  const before = trust.current();
  const long = '𠀀'.repeat(128);
  const many = Array.from({ length: 1023 }, () => {
    const { keyId, publicRaw } = generateKeyPair();
    const [public_key, usage] = [publicRaw.toString('base64'), ['artifacts' as const]];
    return { keyid: keyId, public_key, name: long, person: long, usage, state: 'active' as const };
  });
  await expect(trust.change((listed) => [...listed, ...many])).rejects.toThrow(
    'The trust bundle would be one that no node reads: nothing was changed. Shorten the names of keys and persons, or set up a new fleet.',
  );
  expect(trust.current()).toBe(before);
  await server.restart();
});
