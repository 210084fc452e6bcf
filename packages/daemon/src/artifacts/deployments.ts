import { isDeepStrictEqual } from 'node:util';
import type { PresentBody } from '@aegis/protocol/artifacts/assignment';
import type { Feature } from '@aegis/protocol/artifacts/manifest';
import { AegisError } from '@aegis/protocol/errors';
import type { BundleStore } from './bundle-store.ts';
import type { DeployedConstant, Deployment } from './deployment.ts';
import type { ArtifactsRepository } from './repository.ts';
import type { Verified } from './verify.ts';

/** A verified wish, as the journal keeps it: enough to compare the kernel with it. To load from it the bundle is verified anew. */
export interface StoredDeployment {
  body: PresentBody;
  generation: number;
  revision: string;
  constants: readonly DeployedConstant[];
  features: readonly Feature[];
  signer: { keyid: string; name: string };
}

export type Bytes = Awaited<ReturnType<Deployment['bytes']>>;

export type Deployments = ReturnType<typeof deployments>;

export const deployments = ({
  repository,
  store,
  verify,
}: {
  repository: ArtifactsRepository;
  store: Pick<BundleStore, 'read'>;
  verify(bytes: Buffer, body: PresentBody): Promise<Verified>;
}) => {
  /** What runs: by name, the last version that was attached well. */
  const applied = new Map(
    repository.applied().map(({ name, deployment }) => [name, JSON.parse(deployment) as StoredDeployment]),
  );
  const bytesOf = ({ objects, kernelBtf }: Verified): Bytes => ({ objects, ...(kernelBtf ? { kernelBtf } : {}) });

  const readVerified = async (body: PresentBody): Promise<Verified> => {
    const bytes = await store.read(body);
    if (!bytes)
      throw new AegisError(
        'artifacts.not_here',
        `The bundle of '${body.name}' ${body.version} is not on this node: it is fetched again when the server answers.`,
      );
    return verify(bytes, body);
  };

  return {
    applied: applied as ReadonlyMap<string, StoredDeployment>,
    /** Reads and verifies. The objects go along for the load that follows.
     *  @throws AegisError artifacts.not_here when the bundle is to be fetched, else what the verification says */
    prepare: async (body: PresentBody, generation: number): Promise<{ stored: StoredDeployment; bytes: Bytes }> => {
      const verified = await readVerified(body);
      const { revision, constants, features, signer } = verified;
      return {
        stored: { body, generation, revision, constants, features, signer },
        bytes: bytesOf(verified),
      };
    },
    /** What was verified before for this very wish. */
    known: (body: PresentBody, generation: number): StoredDeployment | null => {
      const before = applied.get(body.name);
      return before && isDeepStrictEqual(before.body, body) ? { ...before, generation } : null;
    },
    /** For the engine. What was just verified spares it the disk, until `fresh` is emptied. */
    deploymentOf: (stored: StoredDeployment, fresh: { bytes: Bytes | null } = { bytes: null }): Deployment => {
      const { body, generation, revision, constants, features } = stored;
      const { name, version, programs, maps } = body;
      return {
        name,
        version,
        generation,
        revision,
        programs,
        constants,
        maps,
        features,
        bytes: async () => fresh.bytes ?? bytesOf(await readVerified(body)),
      };
    },
    /** Inside a transaction; `afterApplied` once it is committed. */
    putApplied: (stored: StoredDeployment, atMs: number): void =>
      repository.putApplied({
        name: stored.body.name,
        generation: stored.generation,
        deployment: JSON.stringify(stored),
        appliedAtMs: atMs,
      }),
    afterApplied: (stored: StoredDeployment): void => void applied.set(stored.body.name, stored),
    removeApplied: (name: string): void => repository.removeApplied(name),
    afterRemoved: (name: string): void => void applied.delete(name),
  };
};
