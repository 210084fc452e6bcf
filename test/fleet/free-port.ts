import { randomInt } from 'node:crypto';
import { createServer } from 'node:net';

/** Ports that the kernel gives to no one by itself (Linux: 32768 and up are for port 0 and outgoing connections). */
const FIRST = 10_000;
const END = 32_768;

const given = new Set<number>();

/** A port of loopback on which nobody listens, for a program that comes back on it after it was killed: meanwhile nobody gets it by
 *  chance. No port is given twice in a process. */
export const freePort = async (): Promise<number> => {
  for (let tries = 0; tries < 100; tries++) {
    const port = randomInt(FIRST, END);
    if (given.has(port) || !(await isFree(port))) continue;
    given.add(port);
    return port;
  }
  throw new Error(`none of 100 ports from ${FIRST} on is free`);
};

const isFree = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const probe = createServer();
    probe.once('error', () => resolve(false));
    probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(true)));
  });
