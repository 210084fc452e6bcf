import * as z from 'zod/mini';
import { MANIFEST_FORMAT, ManifestSource } from './manifest.ts';

/** The JSON Schema (2020-12) of the manifest that an author writes, for editors: `docs/schemas/aegis-artifact-1.json`, and beside the
 *  template of `aegis artifacts init`. It knows forms and bounds; what one part says of another only `pack` checks. */
export const manifestSchema = (): Record<string, unknown> => ({
  ...z.toJSONSchema(ManifestSource, { io: 'input', target: 'draft-2020-12', unrepresentable: 'any' }),
  title: `An Aegis artifact's manifest (${MANIFEST_FORMAT})`,
});
