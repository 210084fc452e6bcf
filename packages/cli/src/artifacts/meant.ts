import { createHash } from 'node:crypto';
import { readBundle } from '@aegis/archive/bundle/read';
import { AssignmentBody, constantKey } from '@aegis/protocol/artifacts/assignment';
import type { Artifact } from '@aegis/protocol/artifacts/endpoints';
import * as z from 'zod/mini';
import type { Api } from '../api/client.ts';
import { downloaded } from './exchange.ts';

/** Whether a wish that the server shows for signing is what the operator asked for: held against the bundle itself, not against what the
 *  server says of it. */

/** @param given what --set named, as text */
export const isMeantAssignment = async (
  api: Api,
  artifact: Artifact,
  given: Readonly<Record<string, string>>,
): Promise<(body: unknown) => boolean> => {
  const bytes = await downloaded(api, artifact);
  const { manifest } = await readBundle(bytes);
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  const same = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b);
  return (shown) => {
    const parsed = z.safeParse(AssignmentBody, shown);
    if (!parsed.success || parsed.data.state !== 'present') return false;
    const body = parsed.data;
    const defaults = new Map(manifest.constants.map((one) => [constantKey(one), one]));
    const named = new Set(Object.keys(given));
    return (
      body.name === manifest.name &&
      body.version === manifest.version &&
      body.sha256 === sha256 &&
      body.size === bytes.length &&
      same(body.programs, manifest.programs) &&
      same(body.maps, manifest.maps) &&
      Object.keys(body.constants).length === defaults.size &&
      Object.entries(body.constants).every(([key, value]) => {
        const constant = defaults.get(key);
        if (!constant) return false;
        const text = named.has(key) ? given[key] : named.has(constant.name) ? given[constant.name] : undefined;
        return same(value, text ?? constant.value);
      })
    );
  };
};
