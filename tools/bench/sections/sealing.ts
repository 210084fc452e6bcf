import { randomBytes } from 'node:crypto';
import { generateKeyPair, publicKeyFromRaw } from '@aegis/protocol/access/keys';
import { opener, sealer } from '@aegis/protocol/channel/sealing';
import { atLeast, type Figure, figure } from '../figure.ts';
import { type Section, times } from '../section.ts';

/** What a message of the channel costs whoever seals it and whoever opens it: one thread, no socket. The size is that of a command's directive. Seconds
 *  are those of the processor: what else the machine does is not the question here. */

const PAYLOAD = JSON.stringify({ call: 'pushStatus', body: 'x'.repeat(480) });
const CLEAR = { id: '01900000-0000-7000-8000-000000000000', type: 'request', channel: 'commands' } as const;
const ROTATION = { messages: 2 ** 24, ms: 86_400_000 };
const clock = { now: () => Date.now(), monotonic: () => performance.now() };
const DIRECTION = 'node to server';

export const sealing: Section = {
  name: 'sealing',
  what: 'messages of the channel that one core seals and opens, with a signature on each and without',
  run: async (context) => {
    const figures: Figure[] = [];
    for (const signed of [false, true]) {
      const count = times(context, signed ? 4000 : 40_000, 1000);
      const sealed: number[] = [];
      const opened: number[] = [];
      const rounds = times(context, 5, 2);
      for (let round = 0; round <= rounds; round++) {
        const [seal, open] = pair(signed);
        const frames: string[] = [];
        const before = processorMs();
        for (let nth = 0; nth < count; nth++) frames.push(seal());
        const between = processorMs();
        for (const frame of frames) open(frame);
        const after = processorMs();
        if (round === 0) continue;
        sealed.push((count * 1000) / (between - before));
        opened.push((count * 1000) / (after - between));
      }
      const how = signed ? ', sign_messages' : '';
      figures.push(
        figure('sealing', {
          name: `sealed${how}`,
          unit: '/s',
          samples: sealed,
          ...(signed ? {} : { bar: atLeast(40_000, 'median') }),
          note: `messages of ${PAYLOAD.length} bytes, a second of processor time: JSON, its checks, ChaCha20-Poly1305${signed ? ', Ed25519' : ''}`,
        }),
        figure('sealing', {
          name: `opened${how}`,
          unit: '/s',
          samples: opened,
          ...(signed ? {} : { bar: atLeast(40_000, 'median') }),
        }),
      );
    }
    return figures;
  },
};

const processorMs = (): number => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
};

const pair = (signed: boolean): [() => string, (frame: string) => unknown] => {
  const key = randomBytes(32);
  const identity = generateKeyPair();
  const sessionId = randomBytes(32);
  const sealing = sealer({
    key: Buffer.from(key),
    direction: DIRECTION,
    rotation: ROTATION,
    clock,
    signing: signed ? { privateKey: identity.privateKey, sessionId } : null,
  });
  const opening = opener({
    key: Buffer.from(key),
    direction: DIRECTION,
    verifying: signed ? { publicKey: publicKeyFromRaw(identity.publicRaw), sessionId } : null,
  });
  return [() => sealing.seal(CLEAR, PAYLOAD), opening.open];
};
