import { AegisError } from '../errors.ts';
import type { Clear, Sealer } from './sealing.ts';

/** What waits to go out on one connection: by channel, in order, while the receiver has given credit for it, and no more at a time than the
 *  socket takes. Channels go in turn. A message is sealed when it leaves, since its number is its place. */

export interface Wire {
  /** Resolves when the socket takes more; rejects when it is gone. */
  send(frame: string): Promise<void> | void;
}

export interface Outbox {
  /** Resolves when the wire has taken it. */
  send(clear: Clear, payload: string): Promise<void>;
  /** Before all others, and without credit: what keeps the session alive. */
  urgent(clear: Clear, payload: string): void;
  /** How many bytes of a channel the receiver is done with, since the session began. */
  credit(channel: string, total: number): void;
  end(reason: AegisError): void;
}

/** Of its window a message takes its payload and this much: what it costs to have it, however little it says. */
const OVERHEAD_BYTES = 256;
export const costOf = (payloadBytes: number): number => payloadBytes + OVERHEAD_BYTES;

interface Waiting {
  clear: Clear;
  payload: string;
  bytes: number;
  resolve(): void;
  reject(error: AegisError): void;
}
interface Lane {
  waiting: Waiting[];
  sent: number;
  credited: number;
}

export const outbox = ({
  wire,
  sealer,
  windowBytes,
  failed,
}: {
  wire: Wire;
  sealer: Sealer;
  windowBytes: number;
  failed(reason: AegisError): void;
}): Outbox => {
  const lanes = new Map<string, Lane>();
  const first: Omit<Waiting, 'resolve' | 'reject'>[] = [];
  let over: AegisError | null = null;
  let sending = false;

  const laneOf = (channel: string): Lane => {
    const known = lanes.get(channel);
    if (known) return known;
    const lane = { waiting: [], sent: 0, credited: 0 };
    lanes.set(channel, lane);
    return lane;
  };
  const mayGo = ({ waiting: [next], sent, credited }: Lane): boolean =>
    next !== undefined && sent + next.bytes - credited <= windowBytes;
  /** The next lane in turn: it goes to the end of the order. */
  const nextLane = (): [string, Lane] | null => {
    for (const entry of lanes) {
      if (!mayGo(entry[1])) continue;
      lanes.delete(entry[0]);
      lanes.set(entry[0], entry[1]);
      return entry;
    }
    return null;
  };

  const drain = async (): Promise<void> => {
    if (sending) return;
    sending = true;
    try {
      while (!over) {
        const now = first.shift();
        if (now) {
          await wire.send(sealer.seal(now.clear, now.payload));
          continue;
        }
        const lane = nextLane()?.[1];
        const next = lane?.waiting.shift();
        if (!lane || !next) return;
        lane.sent += next.bytes;
        try {
          await wire.send(sealer.seal(next.clear, next.payload));
          next.resolve();
        } catch (error) {
          next.reject(gone(error));
          throw error;
        }
      }
    } finally {
      sending = false;
    }
  };
  const pump = (): void => {
    drain().catch((error: unknown) => failed(gone(error)));
  };

  return {
    send: (clear, payload) => {
      if (over) return Promise.reject(over);
      const bytes = costOf(Buffer.byteLength(payload));
      if (bytes > windowBytes / 2)
        return Promise.reject(
          new AegisError(
            'http.too_large',
            `A message of the channel has at most ${windowBytes / 2 - OVERHEAD_BYTES} bytes. Send it in pieces.`,
          ),
        );
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      laneOf(clear.channel).waiting.push({
        clear,
        payload,
        bytes: costOf(Buffer.byteLength(payload)),
        resolve,
        reject,
      });
      pump();
      return promise;
    },
    urgent: (clear, payload) => {
      if (over) return;
      first.push({ clear, payload, bytes: 0 });
      pump();
    },
    credit: (channel, total) => {
      const lane = lanes.get(channel);
      if (!lane || total <= lane.credited || total > lane.sent) return; // repeated, or of what was never sent
      lane.credited = total;
      pump();
    },
    end: (reason) => {
      if (over) return;
      over = reason;
      for (const { waiting } of lanes.values()) for (const { reject } of waiting.splice(0)) reject(reason);
      first.length = 0;
    },
  };
};

const gone = (error: unknown): AegisError =>
  error instanceof AegisError
    ? error
    : new AegisError('http.unavailable', 'The connection of the channel broke. It is made anew.', { cause: error });
