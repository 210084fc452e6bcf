import type { Artifact } from '@aegis/protocol/artifacts/endpoints';
import { newestOf } from '@aegis/protocol/artifacts/versions';
import { AegisError } from '@aegis/protocol/errors';
import { isUuid } from '@aegis/protocol/ids';
import type { Api } from '../api/client.ts';
import { everyPage } from '../api/pages.ts';
import { routes } from '../api/routes.ts';
import { plainText } from '../ui/plain-text.ts';

/** An artifact as people name it: `NAME` (its newest version, by the rule of the server), `NAME@VERSION`, or an id. */

export interface Reference {
  name: string;
  version: string | undefined;
}

export const referenceOf = (text: string): Reference => {
  const at = text.indexOf('@');
  return at === -1 ? { name: text, version: undefined } : { name: text.slice(0, at), version: text.slice(at + 1) };
};

/** @throws AegisError artifacts.unknown_artifact */
export const artifactNamed = async (api: Api, text: string): Promise<Artifact> => {
  if (isUuid(text)) {
    const { manifest: _manifest, ...artifact } = await api.call(routes.showArtifact, { params: { id: text } });
    return artifact;
  }
  const { name, version } = referenceOf(text);
  const found: Artifact[] = [];
  const pages = everyPage((cursor) =>
    api.call(routes.listArtifacts, { query: { name, version, limit: 1000, cursor } }),
  );
  for await (const { artifacts } of pages)
    found.push(...artifacts.filter((one) => one.name === name && (version === undefined || one.version === version)));
  const newest = newestOf(found);
  if (newest) return newest;
  throw new AegisError(
    'artifacts.unknown_artifact',
    version === undefined
      ? `There is no artifact '${plainText(text)}'. See 'aegis artifacts list'.`
      : `There is no version ${plainText(version)} of an artifact '${plainText(name)}'. See 'aegis artifacts list --name ${plainText(name)}'.`,
  );
};
