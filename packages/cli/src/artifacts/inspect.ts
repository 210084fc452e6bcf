import { readBundle } from '@aegis/archive/bundle/read';
import type { Manifest } from '@aegis/protocol/artifacts/manifest';
import { AegisError } from '@aegis/protocol/errors';
import { readLocal, sha256Of } from './local-files.ts';
import { inspectObject, type ObjectInspection } from './objects.ts';

/** What a file holds: a bundle, or one eBPF object, told apart by how it begins. */

export interface Inspection {
  file: string;
  kind: 'bundle' | 'object';
  size: number;
  sha256: string;
  /** Null of an object. */
  manifest: Manifest | null;
  objects: ObjectInspection[];
  /** A word on what could not be looked into. */
  note: string | null;
}

const ELF = Buffer.from('\x7fELF', 'latin1');
const NOT_BUILT = 'the eBPF loader is not built here, so objects were not looked into. See bin/setup.';

/** @throws AegisError artifacts.bad_bundle and its like, artifacts.bad_object, artifacts.unsupported, cli.usage */
export const inspectFile = async (file: string): Promise<Inspection> => {
  const bytes = readLocal(file, "Name a bundle that 'aegis artifacts pack' made, or an object of the compiler.");
  const common = { file, size: bytes.length, sha256: sha256Of(bytes) };
  if (bytes.subarray(0, 4).equals(ELF)) {
    const object = await inspectObject(file, bytes);
    if (object === null)
      throw new AegisError(
        'artifacts.unsupported',
        'Looking into objects needs the eBPF loader, which is not built here: run bin/setup.',
      );
    return { ...common, kind: 'object', manifest: null, objects: [object], note: null };
  }
  const { manifest, files } = await readBundle(bytes);
  const objects: ObjectInspection[] = [];
  let note: string | null = null;
  for (const { file: name, kind } of manifest.objects) {
    if (kind !== 'object') continue;
    const object = await inspectObject(name, files.get(name) ?? Buffer.alloc(0));
    if (object) objects.push(object);
    else note = NOT_BUILT;
  }
  return { ...common, kind: 'bundle', manifest, objects, note };
};
