import { createToken } from '@aegis/protocol/access/endpoints';
import type { Artifact } from '@aegis/protocol/artifacts/endpoints';
import { expect } from 'vitest';
import { type EnrolledNode, startTestServer, type TestServer } from '../../server/test/start-test-server.ts';
import { type ArtifactFolder, artifactFolder } from './artifact-folder.ts';
import type { Said } from './cli-process.ts';

/** The real server with three enrolled nodes, and an author's folder with `block-icmp` and a key that the fleet does not trust yet. */
export interface RegistryStage extends AsyncDisposable {
  author: ArtifactFolder;
  server: TestServer;
  nodes: ReadonlyMap<string, EnrolledNode>;
  /** What the command line needs to reach the server. */
  env: Record<string, string>;
  /** By version: what was pushed. */
  published: Map<string, Artifact>;
  aegis(...args: string[]): Promise<Said>;
  artifacts(...args: string[]): Promise<Said>;
  /** Packs and signs. */
  release(version: string): Promise<void>;
  push(version: string): Promise<void>;
  /** The id of the version that was pushed. */
  idOf(version: string): string;
}

export const bundleOf = (version: string): string => `block-icmp-${version}.tar.zst`;

export const registryStage = async (): Promise<RegistryStage> => {
  const author = await artifactFolder();
  const server = await startTestServer();
  const { token } = await server.as('admin').call(createToken, { body: { name: 'cli', role: 'admin' } });
  const env = { AEGIS_SERVER: server.url, AEGIS_TOKEN: token };
  const nodes = new Map<string, EnrolledNode>();
  for (const name of ['web-1', 'web-2', 'web-3']) nodes.set(name, await server.enrol(name));
  await author.build('block-icmp');
  author.newKey('release');
  const published = new Map<string, Artifact>();
  const aegis = (...args: string[]) => author.aegis(args, { env });
  const artifacts = (...args: string[]) => aegis('artifacts', ...args);
  const release = async (version: string): Promise<void> => {
    author.edit('block-icmp/aegis.json', (manifest) => Object.assign(manifest, { version }));
    expect(await artifacts('pack', 'block-icmp')).toMatchObject({ code: 0 });
    expect(await artifacts('sign', bundleOf(version), '--key', 'release.key')).toMatchObject({ code: 0 });
  };
  return {
    author,
    server,
    nodes,
    env,
    published,
    aegis,
    artifacts,
    release,
    push: async (version) => {
      await release(version);
      const { code, stdout } = await artifacts('push', bundleOf(version), '--json');
      expect(code).toBe(0);
      published.set(version, JSON.parse(stdout) as Artifact);
    },
    idOf: (version) => published.get(version)?.artifact_id ?? '',
    [Symbol.asyncDispose]: async () => {
      await server.close();
      author[Symbol.dispose]();
    },
  };
};
