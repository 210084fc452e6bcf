import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { PresentBody } from '@aegis/protocol/artifacts/assignment';
import { expect } from 'vitest';
import type { RunningDaemon } from '../src/daemon.ts';
import type { ArtifactServer } from './artifact-server.ts';
import { artifactStage } from './artifact-stage.ts';
import type { FakeKernel } from './fake-kernel.ts';
import { waitFor } from './wait-for.ts';

/** One daemon that takes everything that is hostile, while generation 5 of `steady` runs on it unharmed. */
export interface HostileStage extends AsyncDisposable {
  server: ArtifactServer;
  daemon: RunningDaemon;
  kernel: FakeKernel;
  dataDir: string;
  steady: PresentBody;
  /** The bundles on disk, and those that `steady` needs. */
  onDisk(): string[];
  steadyFile(): string[];
  /** Gives the node these directives and waits until it has taken them in. */
  give(envelopes: readonly unknown[]): Promise<void>;
  /** The engine got no call since there were so many, and only `steady` runs. */
  unharmed(calls: number): void;
}

export const hostileStage = async (): Promise<HostileStage> => {
  const stage = await artifactStage();
  const { server, node, kernel } = stage;
  const daemon = await stage.start({ random: () => 0, flags: { journal_max_artifacts: 60 } });
  const steady = server.bodyOf(await server.publish({ name: 'steady' }));
  server.give([server.signed(server.directiveOf(steady, 5))]);
  await waitFor('the steady one', () => server.last('steady')?.state === 'attached');
  const fetched = () => server.requests.filter((key) => key.endsWith('/v1/desired')).length;
  return {
    server,
    daemon,
    kernel,
    dataDir: node.dataDir,
    steady,
    onDisk: () => readdirSync(join(node.dataDir, 'artifacts')).sort(),
    steadyFile: () => [`${steady.sha256}.tar.zst`],
    give: async (envelopes) => {
      const before = fetched();
      server.give(envelopes);
      await waitFor('the fetch', () => fetched() > before);
      await waitFor('the revision to be held', () => daemon.desiredRevision() === server.revision());
    },
    unharmed: (calls) => {
      expect(kernel.calls.slice(calls)).toEqual([]);
      expect([...kernel.held.keys()]).toEqual(['steady']);
    },
    [Symbol.asyncDispose]: () => stage[Symbol.asyncDispose](),
  };
};
