import type { Artifact } from '@aegis/protocol/artifacts/endpoints';
import { AegisError } from '@aegis/protocol/errors';
import { isUuid } from '@aegis/protocol/ids';
import type { Api } from '../api/client.ts';
import { everyPage } from '../api/pages.ts';
import { routes } from '../api/routes.ts';
import { plainText } from '../ui/plain-text.ts';

/** An artifact as people name it: `NAME` (its newest version), `NAME@VERSION`, or an id. */

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
  for await (const { artifacts } of pages) found.push(...artifacts);
  const [newest] = found.sort((a, b) => compareVersions(b.version, a.version));
  if (newest) return newest;
  throw new AegisError(
    'artifacts.unknown_artifact',
    version === undefined
      ? `There is no artifact '${plainText(text)}'. See 'aegis artifacts list'.`
      : `There is no version ${plainText(version)} of an artifact '${plainText(name)}'. See 'aegis artifacts list --name ${plainText(name)}'.`,
  );
};

/** By precedence (semver.org, item 11). Build metadata counts for nothing. */
export const compareVersions = (a: string, b: string): number => {
  const [left, right] = [partsOf(a), partsOf(b)];
  for (const [index, number] of left.core.entries()) {
    const other = right.core[index] ?? 0;
    if (number !== other) return number - other;
  }
  if (left.pre.length === 0 || right.pre.length === 0) return right.pre.length - left.pre.length;
  for (const [index, word] of left.pre.entries()) {
    const other = right.pre[index];
    if (other === undefined) return 1;
    const order = comparePre(word, other);
    if (order !== 0) return order;
  }
  return left.pre.length - right.pre.length;
};

const partsOf = (version: string) => {
  const [numbered = ''] = version.split('+', 1);
  const dash = numbered.indexOf('-');
  const core = (dash === -1 ? numbered : numbered.slice(0, dash)).split('.').map(Number);
  return { core, pre: dash === -1 ? [] : numbered.slice(dash + 1).split('.') };
};

const comparePre = (a: string, b: string): number => {
  const numeric = [/^\d+$/.test(a), /^\d+$/.test(b)];
  if (numeric[0] && numeric[1]) return Number(a) - Number(b);
  if (numeric[0] !== numeric[1]) return numeric[0] ? -1 : 1;
  return a < b ? -1 : a > b ? 1 : 0;
};
