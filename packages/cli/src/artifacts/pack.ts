/** artifacts: what the CLI does with eBPF artifacts: templates, packing, signing, verifying, looking into objects and at what is pinned in
 *  the kernel, and showing what a server tells of nodes. Called by the topics; what brings zod, the archive or the loader they import
 *  lazily, from a bundle of its own (build.ts), and no other command pays for it. Invariant: what it writes is whole or not there, and a
 *  secret never leaves it but as a signature. Must not: parse a command line. */
import { dirname, isAbsolute, join } from 'node:path';
import { completeManifest, packBundle } from '@aegis/archive/bundle/pack';
import { parseStrictJson } from '@aegis/protocol/access/strict-json';
import { BUNDLE_LIMITS, type Manifest, ManifestSource } from '@aegis/protocol/artifacts/manifest';
import { AegisError } from '@aegis/protocol/errors';
import { validate } from '@aegis/protocol/validation';
import { readLocal, sha256Of, writeLocal } from './local-files.ts';
import { checkObjects } from './objects.ts';

/** From a folder with aegis.json and objects to `name-version.tar.zst`. */

export const SOURCE_FILE = 'aegis.json';

export interface Packed {
  file: string;
  name: string;
  version: string;
  sha256: string;
  size: number;
  /** False where the loader is not built: then programs, maps and constants were not looked for in the objects. */
  checked: boolean;
}

/** @throws AegisError artifacts.bad_manifest, artifacts.bad_object, artifacts.bundle_limit, cli.usage */
export const packFolder = async (source: string, output: string | undefined): Promise<Packed> => {
  const file = source.endsWith('.json') ? source : join(source, SOURCE_FILE);
  const described = readSource(file);
  const files = readObjects(described, dirname(file));
  const manifest = completeManifest(described, files);
  const checked = await checkObjects(manifest, files);
  const bytes = await packBundle({ manifest, files });
  const target = output ?? `${manifest.name}-${manifest.version}.tar.zst`;
  writeLocal(target, bytes);
  const { name, version }: Manifest = manifest;
  return { file: target, name, version, sha256: sha256Of(bytes), size: bytes.length, checked };
};

const readSource = (file: string): ManifestSource => {
  const bytes = readLocal(file, "Name the artifact's folder, or make one with 'aegis artifacts init NAME'.", {
    bytes: BUNDLE_LIMITS.manifestBytes,
    code: 'artifacts.bad_manifest',
  });
  let value: unknown;
  try {
    value = parseStrictJson(bytes.toString('utf8'));
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new AegisError('artifacts.bad_manifest', `${file} is not JSON as it has to be: ${reason}. Correct it.`);
  }
  const checked = validate(ManifestSource, value, SOURCE_FILE);
  if (checked.ok) return checked.value;
  const { field, reason, issues } = checked.refusal;
  throw new AegisError(
    'artifacts.bad_manifest',
    `${file}: ${field.slice(SOURCE_FILE.length + 1) || 'it'}: ${reason}.`,
    {
      details: { field, issues },
    },
  );
};

const readObjects = ({ objects }: ManifestSource, folder: string): Map<string, Buffer> => {
  const files = new Map<string, Buffer>();
  for (const { file, from = file } of objects)
    files.set(
      file,
      readLocal(isAbsolute(from) ? from : join(folder, from), "Build it first ('make'), or correct aegis.json."),
    );
  return files;
};
