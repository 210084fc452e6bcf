import { generateKeyPair } from '@aegis/protocol/access/keys';
import { expect, test } from 'vitest';
import type { CommandText } from './directives.ts';
import type { DispatchRepository } from './dispatch-repository.ts';
import { offerTexts } from './offer-texts.ts';

const ID = '01900000-0000-7000-8000-000000000001';
const run = { id: '01900000-0000-7000-8000-000000000002', command_id: ID, attempt: 1, text_chars: 20 };
const keyIdOf = (uid: string): string => uid.padStart(64, '0');

const offersOf = (nodes: number, key = generateKeyPair()) => {
  const command: CommandText = {
    id: ID,
    command_type: 'exec',
    payload: '{"argv":["true"]}',
    operator_directive: null,
    priority: 1,
    delivery: 'at-most-once',
    max_retries: 0,
    output_limit_bytes: 0,
    created_at: 0,
    scheduled_at: null,
    expires_at: 1000,
    result: JSON.stringify({ queued: nodes - 1, succeeded: 1 }),
  };
  const uids = Array.from({ length: nodes }, (_, at) => String(nodes - at));
  const repository: Pick<DispatchRepository, 'commandTexts' | 'targetsOf'> = {
    commandTexts: async () => [command],
    targetsOf: async () => uids,
  };
  return offerTexts({
    repository,
    signer: { fleet: 'f', key },
    keyIdsOf: async (of) => of.map(keyIdOf),
  });
};
const targetsFor = async (nodes: number): Promise<unknown> => {
  const [offer] = await offersOf(nodes)({ name: 'n', keyId: keyIdOf('1') }, [run]);
  return JSON.parse(Buffer.from(offer?.directive.payload ?? '', 'base64').toString()).targets;
};

test('up to 64 nodes are named together, in the order of their keys; more are named alone', async () => {
  const all = (nodes: number) => Array.from({ length: nodes }, (_, at) => keyIdOf(String(at + 1))).sort();
  expect(await targetsFor(1)).toEqual({ node_keys: [keyIdOf('1')] });
  expect(await targetsFor(2)).toEqual({ node_keys: all(2) });
  expect(await targetsFor(64)).toEqual({ node_keys: all(64) });
  expect(await targetsFor(65)).toEqual({ node_keys: [keyIdOf('1')] });
});

test('a server that has got another key signs what it kept with that one', async () => {
  const [first, second] = [generateKeyPair(), generateKeyPair()];
  const key = { ...first };
  const offers = offersOf(2, key);
  const signedBy = async (): Promise<unknown> => {
    const [offer] = await offers({ name: 'n', keyId: keyIdOf('1') }, [run]);
    return offer?.directive.signatures.map(({ keyid }) => keyid);
  };
  expect(await signedBy()).toEqual([first.keyId]);
  Object.assign(key, second);
  expect([await signedBy(), await signedBy()]).toEqual([[second.keyId], [second.keyId]]);
});
