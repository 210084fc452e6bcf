import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { completeManifest, packBundle } from '@aegis/archive/bundle/pack';
import { formatMinisignPublicKey, signMinisign } from '@aegis/protocol/access/minisign';
import { generateMinisignKey } from '@aegis/protocol/access/minisign-secret-key';
import type { Artifact } from '@aegis/protocol/artifacts/endpoints';
import { ManifestSource } from '@aegis/protocol/artifacts/manifest';
import { trustedCommentOf } from '@aegis/protocol/artifacts/signature';
import * as z from 'zod/mini';
import { programPath } from '../../packages/bpf-loader/test/programs.ts';
import type { Operator } from './bench-fleet.ts';

/** Packs and signs an artifact of one program, under a key that the fleet trusts from now on; `push` uploads it. */
export const publisher = async (
  operator: Operator,
  object: string,
  program: { name: string; attach: Readonly<Record<string, unknown>> },
): Promise<(name: string) => Promise<{ push(): Promise<Artifact> }>> => {
  const key = generateMinisignKey();
  await operator.ask('POST', '/api/v1/keys', {
    name: `bench-${randomBytes(3).toString('hex')}`,
    public_key: formatMinisignPublicKey({ minisignId: key.minisignId, raw: key.publicRaw }),
    usage: ['artifacts'],
  });
  const file = `${object}.bpf.o`;
  const files = new Map([[file, readFileSync(programPath(object))]]);
  return async (name) => {
    const version = '1.0.0';
    const source = z.parse(ManifestSource, { name, version, objects: [{ file }], programs: [program] });
    const bundle = await packBundle({ manifest: completeManifest(source, files), files });
    const signature = signMinisign(bundle, key, { trustedComment: trustedCommentOf(name, version, Date.now()) });
    const body = { name, version, data: bundle.toString('base64'), signature };
    return { push: () => operator.ask<Artifact>('POST', '/artifacts', body) };
  };
};
