import type { Duplex } from 'node:stream';

export const LINGER_MS = 5000;

/** The last that is said on a socket that has left HTTP: no timeout of HTTP looks after it any more, and its half stays open for as long as
 *  the other side likes. So it goes when the answer is out, and when nobody takes the answer. */
export const endSocket = (socket: Duplex, answer: string): void => {
  socket.once('finish', () => socket.destroy());
  setTimeout(() => socket.destroy(), LINGER_MS).unref();
  socket.end(answer);
};
