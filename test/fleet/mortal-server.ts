import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { showTrust } from '@aegis/protocol/access/endpoints';
import { generateKeyPair } from '@aegis/protocol/access/keys';
import { type EnrolledNode, enrolThrough } from '../../packages/server/test/start-test-server.ts';
import { Refused, type TestClient, testClient } from '../../packages/server/test/test-client.ts';
import { type ManagedProcess, managedProcess } from '../faults/process.ts';
import { waitFor } from '../faults/wait.ts';
import { cleanEnv, root } from './fleet.ts';

/** A server under --dev, in a process of its own, that dies where AEGIS_CRASH_AT says (protocol/src/fault-points.ts) and is started again on the
 *  same data; and whoever calls it until there is an answer. */
export interface MortalServer extends AsyncDisposable {
  readonly folder: string;
  readonly dataDir: string;
  readonly server: ManagedProcess;
  /** Not running: it died before it was ready. */
  start(env?: Record<string, string>): Promise<void>;
  /** Where it is now. */
  url(): string;
  /** At whatever address it has now. */
  client(token?: string): TestClient;
  /** A node with a key, by hand. */
  enrol(name: string): Promise<EnrolledNode>;
  /** Again until it is answered, as whoever got no answer does. What a repeat finds done (`doneCode`) is done, without an answer. */
  surely<T>(what: string, work: () => Promise<T>, doneCode?: string): Promise<T | undefined>;
  /** The server dies at each of these points, while lives (made of `surely`) go by: within one life at every `apart`th of them, each start after a
   *  death told of the next, and a point that this process did not pass in a life of its own. `judge` sees what became of a life, by a server that
   *  is not to die. Answers with the points that did not come about. */
  dying(points: readonly string[], apart: number, life: Life, judge: Judge): Promise<string[]>;
}
type Life = (name: string) => Promise<void>;
/** `deaths`: where the server died in that life, for what is said. */
type Judge = (name: string, deaths: string) => Promise<void>;

export const mortalServer = (settings: Record<string, unknown> = {}): MortalServer => {
  const folder = mkdtempSync(join(tmpdir(), 'aegis-mortal-'));
  const dataDir = join(folder, 'data');
  const flags = JSON.stringify({ dev: true, data_dir: dataDir, listen: ['127.0.0.1:0=all'], ...settings });
  const server = managedProcess(
    'the server',
    [process.execPath, join(root, 'packages/server/test/server-process.ts'), flags],
    join(folder, 'server.log'),
    // Its sources are compiled once, not with every start.
    cleanEnv(folder, { NODE_COMPILE_CACHE: join(folder, 'compiled') }),
  );
  let url = '';
  const start = async (env: Record<string, string> = {}): Promise<void> => {
    const ready = (await server.start(env)) as { addresses: { all: string } } | null;
    if (ready) url = ready.addresses.all;
  };
  const hasGone = (): Promise<boolean> =>
    server.gone(1000).then(
      () => true,
      () => false,
    );
  let whenDead: () => Promise<void> = start;
  const dying: MortalServer['dying'] = async (points, apart, life, judge) => {
    const missed: string[] = [];
    let lives = 0;
    for (let strand = 0; strand < apart; strand++) {
      const left = points.filter((_, nth) => nth % apart === strand);
      while (left.length > 0) {
        const name = `life-${lives++}`;
        const deaths: string[] = [];
        const next = (): Promise<void> => start(left[0] === undefined ? {} : { AEGIS_CRASH_AT: left[0] });
        const buried = (): void => {
          deaths.push(left.shift() ?? 'nowhere');
        };
        whenDead = () => {
          buried();
          return next();
        };
        await server.kill9();
        await next();
        await life(name);
        // It may die of its last answer a moment after that is here.
        if (left.length > 0 && (await hasGone())) buried();
        if (deaths.length === 0) missed.push(left.shift() ?? '');
        whenDead = start;
        await server.kill9();
        await start();
        await judge(name, deaths.join(', '));
      }
    }
    return missed;
  };
  const client = (token?: string): TestClient =>
    testClient(
      () => url,
      async () => token,
    );
  return {
    folder,
    dataDir,
    server,
    start,
    url: () => url,
    client,
    enrol: async (name) => {
      const dev = client();
      const trust = await dev.call(showTrust);
      const { fleet } = JSON.parse(Buffer.from(trust.trust_bundle.payload, 'base64').toString()) as { fleet: string };
      const keys = generateKeyPair();
      const identity = { fleet, rootFingerprint: trust.root_fingerprint };
      const { token, agent_uid: uid } = await enrolThrough(dev, { host_id: name }, keys, undefined, identity);
      return { ...client(token), uid, name, keys, token };
    },
    surely: async (what, work, doneCode) => {
      let answer: Awaited<ReturnType<typeof work>> | undefined;
      await waitFor(what, async () => {
        if (!server.running) await whenDead();
        try {
          answer = await work();
          return true;
        } catch (error) {
          if (!(error instanceof Refused)) return false;
          if (error.code === doneCode) return true;
          if (error.status === 503) return false;
          throw error;
        }
      });
      return answer;
    },
    dying,
    [Symbol.asyncDispose]: async () => {
      await server[Symbol.asyncDispose]();
      rmSync(folder, { recursive: true, force: true });
    },
  };
};
