import { randomBytes } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { generateKeyPair, publicKeyFromRaw } from '../access/keys.ts';
import type { SecureMessage } from './messages.ts';
import { type Direction, opener, sealer } from './sealing.ts';

const clock = () => {
  const at = { now: () => 1_760_000_000_500, ms: 0, monotonic: () => at.ms };
  return at;
};
const pair = ({
  rotation = { messages: 3, ms: 1000 },
  signed = false,
  direction = 'node to server' as Direction,
  key = randomBytes(32),
} = {}) => {
  const time = clock();
  const identity = generateKeyPair();
  const sessionId = randomBytes(32);
  const sealing = sealer({
    key: Buffer.from(key),
    direction,
    rotation,
    clock: time,
    signing: signed ? { privateKey: identity.privateKey, sessionId } : null,
  });
  const another = (verifySession: Buffer | null = signed ? sessionId : null, by: Direction = direction) =>
    opener({
      key: Buffer.from(key),
      direction: by,
      verifying: verifySession ? { publicKey: publicKeyFromRaw(identity.publicRaw), sessionId: verifySession } : null,
    });
  return { time, sealing, opening: another(), another };
};
const clear = { id: 'm-1', type: 'event', channel: 'logs' } as const;
const codeOf = (act: () => unknown): string => {
  try {
    act();
    return 'taken';
  } catch (error) {
    return (error as { code: string }).code;
  }
};

test('messages go through in order, over many keys, by count and by time', () => {
  const { time, sealing, opening } = pair();
  const epochs: number[] = [];
  for (let nth = 0; nth < 10; nth++) {
    if (nth === 8) time.ms = 5000;
    const payload = JSON.stringify({ nth, text: 'ä\n"' });
    const opened = opening.open(sealing.seal({ ...clear, id: `m-${nth}` }, payload));
    expect(opened).toEqual({
      ...clear,
      id: `m-${nth}`,
      timestamp: 1_760_000_000,
      seq: nth,
      epoch: opened.epoch,
      payload: Buffer.from(payload),
    });
    epochs.push(opened.epoch);
  }
  expect(epochs).toEqual([0, 0, 0, 1, 1, 1, 2, 2, 3, 3]);
});

test('nothing of a payload can be seen, and the same one looks another each time', () => {
  const { sealing } = pair();
  const frames = [sealing.seal(clear, '"secret word"'), sealing.seal(clear, '"secret word"')];
  for (const frame of frames) expect(frame).not.toContain(Buffer.from('secret').toString('base64').slice(0, 7));
  const [a, b] = frames.map((frame) => (JSON.parse(frame) as SecureMessage).payload);
  expect(a).not.toBe(b);
});

describe('a flipped bit in each field', () => {
  const flip = (text: string, at: number): string => {
    const bytes = Buffer.from(text, 'base64');
    bytes[at % bytes.length] = (bytes[at % bytes.length] ?? 0) ^ 1;
    return bytes.toString('base64');
  };
  const changes: Record<keyof SecureMessage, (message: SecureMessage) => unknown> = {
    id: () => 'm-2',
    type: () => 'request',
    channel: () => 'commands',
    payload: ({ payload }) => flip(payload, 3),
    nonce: ({ nonce }) => flip(nonce, 11),
    signature: ({ signature }) => (signature === '' ? 'A' : flip(signature, 7)),
    timestamp: ({ timestamp }) => timestamp + 1,
    seq: ({ seq }) => seq + 1,
    epoch: ({ epoch }) => epoch + 1,
  };
  test.each(Object.keys(changes) as (keyof SecureMessage)[])('%s', (field) => {
    for (const signed of [false, true]) {
      const { sealing, another } = pair({ signed });
      const message = JSON.parse(sealing.seal(clear, '{}')) as SecureMessage;
      const frame = JSON.stringify({ ...message, [field]: changes[field](message) });
      expect(codeOf(() => another().open(frame))).toMatch(/^channel\.bad_/);
      expect(codeOf(() => another().open(JSON.stringify(message)))).toBe('taken');
    }
  });
  test('every bit of the sealed payload, and each length of it', () => {
    const { sealing, another } = pair();
    const message = JSON.parse(sealing.seal(clear, '{"a":1}')) as SecureMessage;
    const sealed = Buffer.from(message.payload, 'base64');
    for (let bit = 0; bit < sealed.length * 8; bit++) {
      const changed = Buffer.from(sealed);
      changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      const frame = JSON.stringify({ ...message, payload: changed.toString('base64') });
      expect(codeOf(() => another().open(frame))).toBe('channel.bad_seal');
    }
    for (let length = 0; length < sealed.length; length++) {
      const frame = JSON.stringify({ ...message, payload: sealed.subarray(0, length).toString('base64') });
      expect(codeOf(() => another().open(frame))).toBe('channel.bad_seal');
    }
  });
});

describe('messages out of turn', () => {
  test('repeated, left out, swapped, from the beginning again', () => {
    const { sealing, another } = pair({ rotation: { messages: 100, ms: 1e9 } });
    const [a, b, c] = [sealing.seal(clear, '1'), sealing.seal(clear, '2'), sealing.seal(clear, '3')] as const;
    const cases: [string[], string][] = [
      [[a, a], 'channel.bad_sequence'],
      [[b], 'channel.bad_sequence'],
      [[a, c], 'channel.bad_sequence'],
      [[a, b, a], 'channel.bad_sequence'],
      [[a, b, c], 'taken'],
    ];
    for (const [frames, wanted] of cases) {
      const opening = another();
      expect(codeOf(() => frames.map((frame) => opening.open(frame)))).toBe(wanted);
    }
  });
  test('of an epoch that is over, or of one after the next', () => {
    const { sealing, another } = pair({ rotation: { messages: 1, ms: 1e9 } });
    const frames = Array.from({ length: 4 }, () => sealing.seal(clear, '1'));
    const opening = another();
    for (const frame of frames.slice(0, 3)) opening.open(frame);
    const old = { ...(JSON.parse(frames[3] ?? '') as SecureMessage), epoch: 1 };
    expect(codeOf(() => opening.open(JSON.stringify(old)))).toBe('channel.bad_sequence');
    const ahead = { ...(JSON.parse(frames[3] ?? '') as SecureMessage), epoch: 4 };
    expect(codeOf(() => opening.open(JSON.stringify(ahead)))).toBe('channel.bad_sequence');
    expect(opening.open(frames[3] ?? '').epoch).toBe(3);
  });
});

test('a message that comes back to its sender, or goes to another connection, does not open', () => {
  const { sealing, another } = pair({ signed: true });
  const frame = sealing.seal(clear, '1');
  expect(codeOf(() => pair().opening.open(frame))).toBe('channel.bad_seal');
  // Even under one key: the signature says which way and in which session it went.
  expect(codeOf(() => another(undefined, 'server to node').open(frame))).toBe('channel.bad_signature');
  expect(codeOf(() => another(randomBytes(32)).open(frame))).toBe('channel.bad_signature');
});

test('where messages are to be signed, one without a signature is not taken', () => {
  const key = randomBytes(32);
  const { sealing } = pair({ key });
  const { opening } = pair({ key, signed: true });
  expect(codeOf(() => opening.open(sealing.seal(clear, '1')))).toBe('channel.bad_signature');
});

test.each(['', 'null', '[]', '{', '{"id":"x"}', '{"__proto__":{}}', `{"id":"${'x'.repeat(65)}"}`])(
  'no message: %s',
  (frame) => {
    expect(codeOf(() => pair().opening.open(frame))).toBe('channel.bad_frame');
  },
);

test('an unknown field is refused: nobody could vouch for it', () => {
  const { sealing, opening } = pair();
  const message = JSON.parse(sealing.seal(clear, '1')) as SecureMessage;
  expect(codeOf(() => opening.open(JSON.stringify({ ...message, headers: {} })))).toBe('channel.bad_frame');
});
