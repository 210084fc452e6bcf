import type { RunningDaemon } from '../src/daemon.ts';
import { type HttpDoor, nodeHttpDoor } from '../src/platform/http/door.ts';
import { type ArtifactServer, startArtifactServer } from './artifact-server.ts';
import { type FakeKernel, fakeKernel } from './fake-kernel.ts';
import { type TestNode, testNode } from './test-node.ts';
import { waitFor } from './wait-for.ts';

/** A server that knows artifacts, a node, and one kernel in memory behind every daemon that is started there. */
export interface ArtifactStage extends AsyncDisposable {
  server: ArtifactServer;
  node: TestNode;
  kernel: FakeKernel;
  start: TestNode['start'];
  /** Starts a daemon and has `block-icmp` 1.0.0 attached, reported, and the server's answer to that heard: a daemon that is closed
   *  then has nothing left to say. */
  attached: TestNode['start'];
}

export const artifactStage = async (): Promise<ArtifactStage> => {
  const server = await startArtifactServer();
  const node = testNode(server);
  const kernel = fakeKernel();
  const start = (options: Parameters<TestNode['start']>[0] = {}): Promise<RunningDaemon> =>
    node.start({ kernelEngine: kernel.engine, ...options });
  const door = nodeHttpDoor();
  let heard = 0;
  const listening: HttpDoor = async (asked) => {
    const answer = await door(asked);
    if (new URL(asked.url).pathname.endsWith('/status')) heard++;
    return answer;
  };
  return {
    server,
    node,
    kernel,
    start,
    attached: async (options) => {
      const daemon = await start({ request: listening, ...options });
      server.assign(await server.publish());
      await waitFor('the report', () => server.last());
      await waitFor('its answer to be heard', () => heard > 0);
      return daemon;
    },
    [Symbol.asyncDispose]: async () => {
      await node[Symbol.asyncDispose]();
      door.close();
      await server.close();
    },
  };
};
