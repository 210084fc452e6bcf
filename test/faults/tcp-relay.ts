import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { seededRandom } from './bad-network.ts';

/** Between a node and its server, byte for byte, as TCP shows what a network does: connections are cut, blocked, slow, late, stalled or
 *  half-open. Bytes never change and never change places: bad-link.ts does that to packets. */
export interface TcpRelay extends AsyncDisposable {
  readonly url: string;
  /** Cuts what is up; what comes is cut at once until `mend`. */
  cut(): void;
  /** Ends every fault, but for connections that are frozen: those are lost. */
  mend(): void;
  /** Cuts channels, and lets none come about: HTTP goes on. */
  blockChannels(blocked: boolean): void;
  /** Nothing passes any more on what is up, and nobody is told: half-open connections. What comes afterwards passes. */
  freeze(): void;
  /** Nothing passes on any connection until told otherwise; nothing is lost. */
  stall(stalled: boolean): void;
  /** Each piece is under way for so long, and up to `jitterMs` longer. */
  delay(ms: number, jitterMs: number): void;
  /** Each way of each connection; null: as fast as it goes. */
  throttle(bytesPerSec: number | null): void;
  /** What loss does to TCP: a piece in so many waits to be sent again, and a connection is reset. */
  lose(parts: { stalls: number; resets: number }): void;
  /** What comes from now on goes there, and what is up is cut: a load balancer whose server has gone. */
  retarget(target: string): void;
  /** Channels that are up. */
  channels(): number;
  /** Channels that ever came about. */
  opened(): number;
}

const CHANNEL = 'GET /ws/agent';
/** Above it the sender has to wait. */
const HELD_BYTES = 64 * 1024;
const PIECES_PER_SEC = 10;
const RETRANSMISSION_MS = 300;

interface Pair {
  from: Socket;
  to: Socket;
  frozen: boolean;
  over: AbortController;
}

export const startTcpRelay = async (first: string, seed = 1): Promise<TcpRelay> => {
  const random = seededRandom(seed);
  const pairs = new Set<Pair>();
  const channels = new Set<Pair>();
  let target = new URL(first);
  let opened = 0;
  const none = { cut: false, blocked: false, stalled: false, delayMs: 0, jitterMs: 0, rate: 0, stalls: 0, resets: 0 };
  let faults = { ...none };

  const end = (pair: Pair, reset = false): void => {
    pair.over.abort();
    for (const socket of [pair.from, pair.to]) {
      if (reset) socket.resetAndDestroy();
      else socket.destroy();
    }
    pairs.delete(pair);
    channels.delete(pair);
  };
  const endAll = (): void => {
    for (const pair of [...pairs]) end(pair);
  };
  const pass = async (pair: Pair, sink: Socket, bytes: Buffer): Promise<void> => {
    const { signal } = pair.over;
    if (random() < faults.resets) return end(pair, true);
    if (random() < faults.stalls) await sleep(RETRANSMISSION_MS * (1 + random()), undefined, { signal });
    for (let at = 0; at < bytes.length; ) {
      while (pair.frozen || faults.stalled) await sleep(20, undefined, { signal });
      const size = faults.rate > 0 ? Math.max(1, Math.floor(faults.rate / PIECES_PER_SEC)) : bytes.length;
      if (faults.rate > 0) await sleep(1000 / PIECES_PER_SEC, undefined, { signal });
      if (!sink.write(bytes.subarray(at, at + size)))
        await new Promise<void>((resolve) => {
          sink.once('drain', resolve);
          signal.addEventListener('abort', () => resolve(), { once: true });
        });
      at += size;
    }
  };
  /** One way. */
  const carry = (pair: Pair, source: Socket, sink: Socket): void => {
    const held: { bytes: Buffer | null; due: number }[] = [];
    const { signal } = pair.over;
    let heldBytes = 0;
    let due = 0;
    let running = false;
    const run = async (): Promise<void> => {
      for (let next = held.shift(); next && !signal.aborted; next = held.shift()) {
        const waitMs = next.due - performance.now();
        if (waitMs > 0) await sleep(waitMs, undefined, { signal });
        if (next.bytes === null) return void sink.end();
        await pass(pair, sink, next.bytes);
        heldBytes -= next.bytes.length;
        if (heldBytes < HELD_BYTES) source.resume();
      }
    };
    const push = (bytes: Buffer | null): void => {
      due = Math.max(due, performance.now() + faults.delayMs + random() * faults.jitterMs); // order stays
      held.push({ bytes, due });
      heldBytes += bytes?.length ?? 0;
      if (heldBytes >= HELD_BYTES) source.pause();
      if (running) return;
      running = true;
      run()
        .catch(() => undefined) // the pair is over
        .finally(() => {
          running = false;
        });
    };
    source.on('data', push);
    source.on('end', () => push(null));
  };

  const server = createServer({ allowHalfOpen: true }, (from) => {
    from.on('error', () => undefined);
    if (faults.cut) return void from.destroy();
    const to = connect({ port: Number(target.port), host: target.hostname, allowHalfOpen: true });
    const pair: Pair = { from, to, frozen: false, over: new AbortController() };
    pairs.add(pair);
    for (const socket of [from, to]) {
      socket.on('error', () => end(pair));
      socket.on('close', () => from.closed && to.closed && end(pair));
    }
    from.once('data', (head: Buffer) => {
      if (head.subarray(0, CHANNEL.length).toString('latin1') !== CHANNEL) return;
      if (faults.blocked) return end(pair);
      opened++;
      channels.add(pair);
    });
    carry(pair, from, to);
    carry(pair, to, from);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port: own } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${own}`,
    cut: () => {
      faults.cut = true;
      endAll();
    },
    mend: () => {
      faults = { ...none };
    },
    blockChannels: (blocked) => {
      faults.blocked = blocked;
      if (blocked) for (const pair of [...channels]) end(pair);
    },
    freeze: () => {
      for (const pair of pairs) pair.frozen = true;
      channels.clear();
    },
    stall: (stalled) => {
      faults.stalled = stalled;
    },
    delay: (delayMs, jitterMs) => {
      faults = { ...faults, delayMs, jitterMs };
    },
    throttle: (rate) => {
      faults.rate = rate ?? 0;
    },
    lose: (parts) => {
      faults = { ...faults, ...parts };
    },
    retarget: (other) => {
      target = new URL(other);
      endAll();
    },
    channels: () => channels.size,
    opened: () => opened,
    [Symbol.asyncDispose]: async () => {
      endAll();
      await new Promise((resolve) => server.close(resolve));
    },
  };
};
