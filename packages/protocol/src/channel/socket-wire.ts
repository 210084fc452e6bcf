import type { Wire } from './outbox.ts';

/** Above it, who sends waits until the socket has taken what it holds. */
const ROOM_BYTES = 256 * 1024;

/** What of a WebSocket (the package ws, on both sides) a wire needs. */
interface Socket {
  readonly bufferedAmount: number;
  send(frame: string, done?: (error?: Error) => void): void;
}

/** Waits only where the socket holds much: a slow one slows who sends to it, and nobody else. */
export const socketWire = (socket: Socket): Wire => ({
  send: (frame) => {
    if (socket.bufferedAmount < ROOM_BYTES) return socket.send(frame);
    return new Promise((resolve, reject) => socket.send(frame, (error) => (error ? reject(error) : resolve())));
  },
});
