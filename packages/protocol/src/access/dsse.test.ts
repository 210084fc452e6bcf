import nacl from 'tweetnacl';
import { expect, test } from 'vitest';
import { openEnvelope, PAYLOAD_TYPES, preAuthEncoding, signEnvelope } from './dsse.ts';
import { generateKeyPair, keyPairFromPem, privateKeyToPem, publicKeyFromRaw } from './keys.ts';

const keysOf = (...pairs: ReturnType<typeof generateKeyPair>[]) =>
  new Map(pairs.map((pair) => [pair.keyId, publicKeyFromRaw(pair.publicRaw)]));

test('the pre-authentication encoding is the one of the DSSE document', () => {
  // Test vector of secure-systems-lab/dsse, protocol.md.
  expect(preAuthEncoding('http://example.com/HelloWorld', Buffer.from('hello world')).toString()).toBe(
    'DSSEv1 29 http://example.com/HelloWorld 11 hello world',
  );
});

test('a second Ed25519 implementation agrees on every signature', () => {
  const pair = generateKeyPair();
  const envelope = signEnvelope(PAYLOAD_TYPES.report, { héllo: '✓' }, pair);
  const message = preAuthEncoding(envelope.payloadType, Buffer.from(envelope.payload, 'base64'));
  const sig = Buffer.from(envelope.signatures[0]?.sig ?? '', 'base64');
  expect(nacl.sign.detached.verify(message, sig, pair.publicRaw)).toBe(true);
});

test('only listed keys count, each once, and any changed byte or type voids the signature', () => {
  const [alice, mallory] = [generateKeyPair(), generateKeyPair()];
  const good = signEnvelope(PAYLOAD_TYPES.directive, { a: 1 }, alice, alice, mallory);
  expect(openEnvelope(good, PAYLOAD_TYPES.directive, keysOf(alice))).toEqual({
    payload: Buffer.from('{"a":1}'),
    signedBy: [alice.keyId],
  });
  const signedBy = (
    envelope: typeof good,
    type = PAYLOAD_TYPES.directive as (typeof PAYLOAD_TYPES)[keyof typeof PAYLOAD_TYPES],
  ) => openEnvelope(envelope, type, keysOf(alice)).signedBy;
  expect(signedBy({ ...good, payload: Buffer.from('{"a":2}').toString('base64') })).toEqual([]);
  expect(signedBy(good, PAYLOAD_TYPES.report)).toEqual([]);
  expect(signedBy({ ...good, payloadType: PAYLOAD_TYPES.report }, PAYLOAD_TYPES.report)).toEqual([]);
  expect(signedBy(signEnvelope(PAYLOAD_TYPES.directive, { a: 1 }, mallory))).toEqual([]);
  const forged = { keyid: alice.keyId, sig: good.signatures[2]?.sig ?? '' };
  expect(signedBy({ ...good, signatures: [forged] })).toEqual([]);
  expect(signedBy({ ...good, signatures: [{ keyid: alice.keyId, sig: '' }] })).toEqual([]);
});

test('a private key survives its PEM', () => {
  const pair = generateKeyPair();
  expect(keyPairFromPem(privateKeyToPem(pair.privateKey)).keyId).toBe(pair.keyId);
});
