import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type EnrolmentFacts, enrolmentTranscript, lengthPrefixed } from './enrolment.ts';

test('items are prefixed by their length as u32 big-endian', () => {
  expect(lengthPrefixed(['ab', Buffer.from([1]), '']).toString('hex')).toBe('0000000261620000000101' + '00000000');
});

test('no two different lists give the same bytes', () => {
  const list = fc.array(fc.string({ maxLength: 4 }), { maxLength: 4 });
  fc.assert(
    fc.property(list, list, (a, b) => {
      expect(lengthPrefixed(a).equals(lengthPrefixed(b))).toBe(JSON.stringify(a) === JSON.stringify(b));
    }),
  );
});

test('the transcript binds every fact, and labels in any order are the same labels', () => {
  const key = (byte: number) => Buffer.alloc(32, byte).toString('base64');
  const facts: EnrolmentFacts = {
    fleet: 'f',
    rootFingerprint: 'r',
    serverKey: Buffer.alloc(32, 9),
    challenge: Buffer.alloc(32, 8),
    registrationId: 'id',
    init: { host_id: 'web-1', public_key: key(1), sealing_key: key(2), site: 's', labels: { b: '2', a: '1' } },
  };
  const changed: EnrolmentFacts[] = [
    { ...facts, fleet: 'g' },
    { ...facts, rootFingerprint: 'q' },
    { ...facts, serverKey: Buffer.alloc(32) },
    { ...facts, challenge: Buffer.alloc(32) },
    { ...facts, registrationId: 'other' },
    { ...facts, init: { ...facts.init, host_id: 'web-2' } },
    { ...facts, init: { ...facts.init, public_key: key(3) } },
    { ...facts, init: { ...facts.init, sealing_key: key(3) } },
    { ...facts, init: { ...facts.init, site: 't' } },
    { ...facts, init: { ...facts.init, labels: { a: '1' } } },
  ];
  const texts = [facts, ...changed].map((one) => enrolmentTranscript('node', one).toString('hex'));
  expect(new Set([...texts, enrolmentTranscript('server', facts).toString('hex')]).size).toBe(texts.length + 1);
  const swapped = { ...facts, init: { ...facts.init, labels: { a: '1', b: '2' } } };
  expect(enrolmentTranscript('node', swapped)).toEqual(enrolmentTranscript('node', facts));
});
