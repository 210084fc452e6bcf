import type { TrustBundle } from '@aegis/protocol/access/trust-bundle';
import {
  type ArtifactKey,
  type ArtifactSigner,
  artifactKeysOf,
  verifyBundleSignature,
} from '@aegis/protocol/artifacts/signature';
import { AegisError } from '@aegis/protocol/errors';
import type { ArtifactHead } from './repository.ts';
import type { SignerState } from './views.ts';

/** What artifacts need of the access domain: the trust bundle that holds now. */
export interface Trust {
  current(): { readonly bundle: TrustBundle; readonly version: number };
}

/** Who signed what, by the trust bundle of this moment. */
export const signers = (trust: Trust) => {
  let read: { bundle: TrustBundle; keys: readonly ArtifactKey[] } | undefined;
  /** Of the bundle that holds now, read once. */
  const keys = (): readonly ArtifactKey[] => {
    const { bundle } = trust.current();
    if (read?.bundle !== bundle) read = { bundle, keys: artifactKeysOf(bundle) };
    return read.keys;
  };
  const stateOf = (keyid: string): SignerState => keys().find((key) => key.keyid === keyid)?.state ?? 'unknown';
  return {
    stateOf,
    version: (): number => trust.current().version,
    /** @throws AegisError artifacts.bad_signature, unknown_signer, revoked_signer */
    verify: (signed: { bundle: Uint8Array; name: string; version: string; signature: string }): ArtifactSigner =>
      verifyBundleSignature({ ...signed, keys: keys() }),
    /** No node would load it, so it is not assigned in the first place. Unsigned ones are: under --dev they are there to be looked at.
     *  @throws AegisError artifacts.revoked_signer, artifacts.unknown_signer */
    refuseUntrusted: ({ name, version, signer_keyid, signer_name }: ArtifactHead): void => {
      if (signer_keyid === null) return;
      const state = stateOf(signer_keyid);
      if (state === 'active') return;
      const says = state === 'revoked' ? 'is revoked' : 'is no longer in the trust bundle';
      throw new AegisError(
        state === 'revoked' ? 'artifacts.revoked_signer' : 'artifacts.unknown_signer',
        `${name} ${version} is signed by the key '${signer_name}', which ${says}: no node loads it. Sign the same bundle with another key and push it again.`,
      );
    },
  };
};
export type Signers = ReturnType<typeof signers>;
