import { readdirSync } from 'node:fs';
import { parentPort, Worker } from 'node:worker_threads';
import { namespaceFacts } from '../src/network.ts';
import { loadObject } from '../src/object.ts';
import { programBytes } from './programs.ts';

/** Run by terminated.test.ts: ends workers while their tasks are under way, and says how many descriptors were left open. */

const ROUNDS = 18;
const descriptors = (): number => readdirSync('/proc/self/fd').length;

const inWorker = async (port: NonNullable<typeof parentPort>): Promise<void> => {
  const bytes = programBytes('globals');
  const tasks = Array.from({ length: 12 }, async (_, at) => {
    if (at % 3 === 0) await namespaceFacts('/proc/self/ns/nothing');
    else await loadObject(at % 3 === 1 ? bytes : bytes.subarray(0, 100)).catch(() => null);
  });
  port.postMessage('under way');
  await Promise.all(tasks);
};

const round = async (at: number): Promise<void> => {
  const worker = new Worker(new URL(import.meta.url));
  await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
  // At another moment each time, in the middle of an answer too.
  const until = performance.now() + ((at * 0.7) % 12) + Math.random();
  while (performance.now() < until);
  await worker.terminate();
};

if (parentPort) await inWorker(parentPort);
else {
  await round(0);
  const before = descriptors();
  for (let at = 0; at < ROUNDS; at++) await round(at);
  console.log(descriptors() - before);
}
