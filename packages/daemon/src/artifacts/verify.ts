import { createHash } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { readBundle } from '@aegis/archive/bundle/read';
import { constantKey, type PresentBody } from '@aegis/protocol/artifacts/assignment';
import { encodeConstant } from '@aegis/protocol/artifacts/constants';
import { BUNDLE_LIMITS, type Constant, type Feature, type Manifest } from '@aegis/protocol/artifacts/manifest';
import { type ArtifactKey, verifyBundleSignature } from '@aegis/protocol/artifacts/signature';
import { AegisError, type ErrorCode } from '@aegis/protocol/errors';
import type { DeployedConstant } from './deployment.ts';
import { compareVersions, type KernelFacts } from './kernel-facts.ts';

/** Whether a bundle is the one that was assigned, signed by a key that this fleet trusts, consistent with its assignment, and made for
 *  this kernel: in this order, over bytes in memory, which are then the ones that are loaded. */

export interface Verified {
  revision: string;
  signer: { keyid: string; name: string };
  constants: readonly DeployedConstant[];
  features: readonly Feature[];
  objects: ReadonlyMap<string, Buffer>;
  kernelBtf: Buffer | null;
}

export interface VerifyOptions {
  keys: readonly ArtifactKey[];
  kernel: KernelFacts;
}

/** What can be refused before a byte is fetched. @throws AegisError artifacts.unsigned | artifacts.bundle_limit */
export const checkBeforeFetch = (body: PresentBody): void => {
  if (body.signature === null)
    throw new AegisError(
      'artifacts.unsigned',
      `'${body.name}' ${body.version} is not signed: sign it ('aegis artifacts sign') and publish it again under another version.`,
    );
  if (body.size > BUNDLE_LIMITS.packedBytes)
    throw new AegisError(
      'artifacts.bundle_limit',
      `'${body.name}' ${body.version} has ${body.size} bytes: a bundle has at most ${BUNDLE_LIMITS.packedBytes}.`,
    );
};

/** @throws AegisError artifacts.* */
export const verifyBundle = async (
  bytes: Buffer,
  body: PresentBody,
  { keys, kernel }: VerifyOptions,
): Promise<Verified> => {
  checkBeforeFetch(body);
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  if (sha256 !== body.sha256 || bytes.length !== body.size)
    throw new AegisError(
      'artifacts.digest_mismatch',
      `The bundle has ${bytes.length} bytes and the SHA-256 ${sha256}; the assignment names ${body.size} bytes and ${body.sha256}.`,
    );
  const { name, version, signature } = body;
  const signer = verifyBundleSignature({ bundle: bytes, name, version, signature, keys });
  const { manifest, files } = await readBundle(bytes);
  agree(manifest, body);
  const constants = settle(manifest.constants, body);
  suit(manifest, kernel);
  const objects = new Map<string, Buffer>();
  let kernelBtf: Buffer | null = null;
  for (const { file, kind } of manifest.objects) {
    const content = files.get(file);
    if (content && kind === 'object') objects.set(file, content);
    else if (content) kernelBtf ??= content;
  }
  return {
    revision: revisionOf(body),
    signer: { keyid: signer.keyid, name: signer.name },
    constants,
    features: manifest.features,
    objects,
    kernelBtf,
  };
};

/** Of digest, constants, programs and maps: two wishes of one revision want the same of the kernel. */
export const revisionOf = ({ sha256, constants, programs, maps }: PresentBody): string =>
  createHash('sha256')
    .update(JSON.stringify([sha256, Object.entries(constants).sort(), programs, maps]))
    .digest('hex')
    .slice(0, 16);

const refused = (code: ErrorCode, message: string): AegisError => new AegisError(code, message);

/** What the assignment binds is what the signed manifest says. */
const agree = (manifest: Manifest, body: PresentBody): void => {
  const odd = (what: string): AegisError =>
    refused(
      'artifacts.field_mismatch',
      `The assignment of '${body.name}' ${body.version} and the signed manifest are at odds in ${what}: nothing is loaded. Publish and assign it again; if that does not help, do not trust the server.`,
    );
  if (manifest.name !== body.name) throw odd(`the name ('${manifest.name}')`);
  if (manifest.version !== body.version) throw odd(`the version ('${manifest.version}')`);
  if (!isDeepStrictEqual(manifest.programs, body.programs)) throw odd('the programs');
  if (!isDeepStrictEqual(manifest.maps, body.maps)) throw odd('the maps');
};

/** The manifest's constants with the assignment's values. */
const settle = (constants: readonly Constant[], body: PresentBody): DeployedConstant[] => {
  const known = constants.map(constantKey);
  for (const key of Object.keys(body.constants))
    if (!known.includes(key))
      throw refused(
        'artifacts.unknown_constant',
        `'${body.name}' ${body.version} has no constant '${key}'; it has ${known.join(', ') || 'none'}.`,
      );
  return constants.map((constant) => {
    const { name, object, type, settable } = constant;
    const key = constantKey(constant);
    const value = Object.hasOwn(body.constants, key) ? body.constants[key] : undefined;
    if (value === undefined)
      throw refused(
        'artifacts.field_mismatch',
        `The assignment of '${body.name}' ${body.version} gives no value for the constant '${key}': assign it again.`,
      );
    const encoded = encodeConstant(type, value);
    if (!settable && !encoded.equals(encodeConstant(type, constant.value)))
      throw refused(
        'artifacts.not_settable',
        `The constant '${key}' of '${body.name}' ${body.version} may not be set by an assignment; its manifest says ${JSON.stringify(constant.value)}.`,
      );
    return { name, ...(object === undefined ? {} : { object }), type, value };
  });
};

const suit = (manifest: Manifest, kernel: KernelFacts): void => {
  const { name, version, architecture, kernel_version: least, kernel_before: before, features } = manifest;
  if (architecture !== 'any' && architecture !== kernel.architecture)
    throw refused(
      'artifacts.wrong_architecture',
      `'${name}' ${version} is for ${architecture}, this node is ${kernel.architecture}.`,
    );
  if (compareVersions(kernel.release, least) < 0)
    throw refused(
      'artifacts.kernel_range',
      `'${name}' ${version} needs Linux ${least} or newer, this node runs ${kernel.release}.`,
    );
  if (before !== undefined && compareVersions(kernel.release, before) >= 0)
    throw refused(
      'artifacts.kernel_range',
      `'${name}' ${version} is for kernels before ${before}, this node runs ${kernel.release}.`,
    );
  for (const feature of features) {
    const why = kernel.missing(feature);
    if (why !== null)
      throw refused(
        'artifacts.missing_feature',
        `'${name}' ${version} needs ${feature}, which this node lacks: ${why}.`,
      );
  }
};
