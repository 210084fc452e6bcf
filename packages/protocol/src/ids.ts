import { randomFillSync } from 'node:crypto';

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

export const isUuid = (text: string): boolean => UUID.test(text);

const RANDOM_BYTES = 1024;

/** Makes UUIDv7s (RFC 9562, section 5.7) that rise also within one millisecond and when the clock steps back:
 *  the 12 bits of rand_a are a counter (method 1), and a full counter borrows the next millisecond. */
export const uuidv7Generator = (now: () => number): (() => string) => {
  const bytes = Buffer.alloc(16);
  // Fetched for many ids at once: each fetch costs more than the rest of making an id.
  const random = Buffer.alloc(RANDOM_BYTES);
  let used = random.length;
  const takeRandom = (count: number): number => {
    if (used + count > random.length) {
      randomFillSync(random);
      used = 0;
    }
    used += count;
    return used - count;
  };
  let lastMs = 0;
  let counter = 0;
  return () => {
    const ms = now();
    if (ms > lastMs) {
      lastMs = ms;
      counter = random.readUInt16BE(takeRandom(2)) & 0x7ff;
    } else if (++counter > 0xfff) {
      lastMs += 1;
      counter = 0;
    }
    const from = takeRandom(8);
    random.copy(bytes, 8, from, from + 8);
    bytes.writeUIntBE(lastMs, 0, 6);
    bytes.writeUInt16BE(0x7000 | counter, 6);
    bytes.writeUInt8((bytes.readUInt8(8) & 0x3f) | 0x80, 8);
    const hex = bytes.toString('hex');
    return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
  };
};
