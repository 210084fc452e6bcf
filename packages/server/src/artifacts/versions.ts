import { ArtifactName, ArtifactVersion } from '@aegis/protocol/artifacts/manifest';
import { AegisError } from '@aegis/protocol/errors';
import { isUuid } from '@aegis/protocol/ids';
import * as z from 'zod/mini';

/** What an artifact is called in a request. */

/** `name`, `name@version`, or an artifact's id. */
export type Reference = { id: string } | { name: string; version: string | null };

/** @throws AegisError artifacts.unknown_artifact for what cannot name one */
export const parseReference = (text: string): Reference => {
  if (isUuid(text)) return { id: text };
  const [, name = '', version] = /^([^@]*)(?:@(.*))?$/s.exec(text) ?? [];
  if (
    z.safeParse(ArtifactName, name).success &&
    (version === undefined || z.safeParse(ArtifactVersion, version).success)
  )
    return { name, version: version ?? null };
  throw unknownArtifact(text);
};

export const unknownArtifact = (text: string): AegisError =>
  new AegisError(
    'artifacts.unknown_artifact',
    `There is no artifact '${text.slice(0, 192)}'. See 'aegis artifacts list'.`,
  );
