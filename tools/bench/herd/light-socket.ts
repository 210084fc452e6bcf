import { randomBytes } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { CHANNEL_PATH } from '@aegis/protocol/channel/call';

/** A WebSocket client of a few hundred bytes, so that one process holds thousands: RFC 6455 as far as a server of ours speaks it. It masks
 *  with zeros, which leaves the bytes as they are; nothing in between is to be protected here. */

export interface LightSocket {
  readonly bufferedAmount: number;
  send(text: string, done?: (error?: Error) => void): void;
  /** What came is given in order. */
  listen(to: { text(frame: string): void; closed(code: number): void }): void;
  close(code: number): void;
  /** At once, without a word. */
  cut(): void;
}

/** The server answered, and not with a WebSocket. */
export class UpgradeRefused extends Error {
  readonly status: number;
  readonly retryAfterMs: number;
  constructor(status: number, retryAfterMs: number) {
    super(`refused with ${status}`);
    this.status = status;
    this.retryAfterMs = retryAfterMs;
  }
}

const TEXT = 1;
const CLOSE = 8;
const PING = 9;
const PONG = 10;
const NO_CODE = 1006;
const CLOSED_WITHOUT = 1005;
const END_OF_HEAD = '\r\n\r\n';
/** As the daemon's own. */
const UPGRADE_MS = 15_000;

export interface LightOptions {
  host: string;
  port: number;
  tls: boolean;
  /** So that the herd comes from many addresses, as a fleet does. */
  localAddress: string;
  headers: Readonly<Record<string, string>>;
}

/** @throws UpgradeRefused; Error when there is no connection */
export const openLightSocket = (options: LightOptions): Promise<LightSocket> =>
  new Promise((resolve, reject) => {
    const { host, port, tls, localAddress, headers } = options;
    const at = { host, port, localAddress };
    const socket: Socket = tls
      ? connectTls({ ...at, rejectUnauthorized: false, ALPNProtocols: ['http/1.1'] })
      : connect(at);
    socket.setNoDelay(true);
    const late = setTimeout(() => socket.destroy(new Error('no answer to the upgrade in time')), UPGRADE_MS);
    let head: Buffer = Buffer.alloc(0);
    const failed = (error?: Error | boolean): void => {
      clearTimeout(late);
      reject(error instanceof Error ? error : new Error('the connection broke in its upgrade'));
    };
    const onData = (chunk: Buffer): void => {
      head = head.length === 0 ? chunk : Buffer.concat([head, chunk]);
      const end = head.indexOf(END_OF_HEAD);
      if (end < 0) return;
      clearTimeout(late);
      const text = head.toString('latin1', 0, end);
      const status = Number(text.split(' ', 2)[1]);
      socket.off('data', onData);
      socket.off('close', failed);
      if (status !== 101) {
        socket.destroy();
        const seconds = /^retry-after: *([\d.]+)/im.exec(text)?.[1];
        reject(new UpgradeRefused(status, Number(seconds ?? 0) * 1000));
        return;
      }
      socket.pause();
      resolve(overSocket(socket, head.subarray(end + END_OF_HEAD.length)));
    };
    socket.on('error', failed); // later ones come with a close, which says enough
    socket.on('close', failed);
    socket.on('data', onData);
    const lines = Object.entries({
      ...headers,
      host: `${host}:${port}`,
      connection: 'Upgrade',
      upgrade: 'websocket',
      'sec-websocket-version': '13',
      'sec-websocket-key': randomBytes(16).toString('base64'),
    }).map(([name, value]) => `${name}: ${value}\r\n`);
    socket.write(`GET ${CHANNEL_PATH} HTTP/1.1\r\n${lines.join('')}\r\n`);
  });

const overSocket = (socket: Socket, first: Buffer): LightSocket => {
  let rest = first;
  let closeCode = NO_CODE;
  let to: Parameters<LightSocket['listen']>[0] | null = null;
  const write = (opcode: number, payload: Buffer, done?: (error?: Error) => void): void => {
    if (socket.destroyed) done?.(new Error('the connection is over'));
    else socket.write(framed(opcode, payload), (error) => done?.(error ?? undefined));
  };
  const read = (): void => {
    for (;;) {
      const frame = frameOf(rest);
      if (!frame) return;
      rest = rest.subarray(frame.length);
      if (frame.opcode === TEXT) to?.text(frame.payload.toString('utf8'));
      else if (frame.opcode === PING) write(PONG, frame.payload);
      else if (frame.opcode === CLOSE) {
        closeCode = frame.payload.length >= 2 ? frame.payload.readUInt16BE(0) : CLOSED_WITHOUT;
        write(CLOSE, frame.payload);
        socket.end();
      }
    }
  };
  return {
    get bufferedAmount() {
      return socket.writableLength;
    },
    send: (text, done) => write(TEXT, Buffer.from(text), done),
    listen: (listener) => {
      to = listener;
      socket.on('data', (chunk: Buffer) => {
        rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
        read();
      });
      socket.on('close', () => listener.closed(closeCode));
      if (socket.destroyed) return listener.closed(closeCode);
      read();
      socket.resume();
    },
    close: (code) => {
      const payload = Buffer.alloc(2);
      payload.writeUInt16BE(code);
      write(CLOSE, payload);
      socket.end();
    },
    cut: () => void socket.destroy(),
  };
};

const framed = (opcode: number, payload: Buffer): Buffer => {
  const { length } = payload;
  const extra = length < 126 ? 0 : length < 65_536 ? 2 : 8;
  const frame = Buffer.alloc(2 + extra + 4 + length);
  frame[0] = 0x80 | opcode;
  frame[1] = 0x80 | (extra === 0 ? length : extra === 2 ? 126 : 127);
  if (extra === 2) frame.writeUInt16BE(length, 2);
  if (extra === 8) frame.writeBigUInt64BE(BigInt(length), 2);
  payload.copy(frame, 6 + extra);
  return frame;
};

/** The first whole frame, unmasked as servers send it; null: not yet. */
const frameOf = (bytes: Buffer): { opcode: number; payload: Buffer; length: number } | null => {
  const [first = 0, second = 0] = bytes;
  if (bytes.length < 2) return null;
  const extra = second < 126 ? 0 : second === 126 ? 2 : 8;
  if (bytes.length < 2 + extra) return null;
  const length = extra === 0 ? second : extra === 2 ? bytes.readUInt16BE(2) : Number(bytes.readBigUInt64BE(2));
  const end = 2 + extra + length;
  return bytes.length < end ? null : { opcode: first & 0x0f, payload: bytes.subarray(2 + extra, end), length: end };
};
