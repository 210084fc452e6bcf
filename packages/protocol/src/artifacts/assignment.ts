import * as z from 'zod/mini';
import { AttachTo } from './attach-point.ts';
import { ConstantValue } from './constants.ts';
import { ArtifactName, ArtifactVersion, MapRule, Sha256 } from './manifest.ts';

/** The body of an `artifacts.assign` directive: the wish for one artifact on one node, whole. `object_id` of the directive is the
 *  artifact's name, its `generation` grows with each change and never starts anew; an older one, or the same with another body, is
 *  refused. */

export const MAX_SIGNATURE_CHARS = 2048;

export const PresentBody = z.strictObject({
  state: z.literal('present'),
  artifact_id: z.uuid(),
  name: ArtifactName,
  version: ArtifactVersion,
  /** Of the bundle's bytes. */
  sha256: Sha256,
  size: z.int().check(z.positive()),
  /** minisign's text, or `vault:vN:…`; null for an unsigned upload, which no node loads. */
  signature: z.nullable(z.string().check(z.maxLength(MAX_SIGNATURE_CHARS))),
  /** Every constant's value, with what the assignment sets in place of the manifest's. */
  constants: z.record(z.string(), ConstantValue),
  /** As in the manifest: the node refuses a bundle that says otherwise. */
  programs: z.array(z.strictObject({ name: z.string(), object: z.optional(z.string()), attach: AttachTo })),
  maps: z.array(MapRule),
});
export type PresentBody = z.infer<typeof PresentBody>;
/** The tombstone. */
export const AbsentBody = z.strictObject({ state: z.literal('absent'), name: ArtifactName });
export type AbsentBody = z.infer<typeof AbsentBody>;
export const AssignmentBody = z.discriminatedUnion('state', [PresentBody, AbsentBody]);
export type AssignmentBody = z.infer<typeof AssignmentBody>;

/** Key of a constant in `constants`: its name, after its object where the manifest has one for it. */
export const constantKey = ({ name, object }: { name: string; object?: string | undefined }): string =>
  object === undefined ? name : `${object}:${name}`;
