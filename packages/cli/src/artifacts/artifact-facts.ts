import { describeAttachTo } from '@aegis/protocol/artifacts/attach-point';
import type { ArtifactDetail } from '@aegis/protocol/artifacts/endpoints';
import type { Manifest } from '@aegis/protocol/artifacts/manifest';
import { facts, table } from '../ui/table.ts';
import { byteCount } from '../ui/time.ts';

/** An artifact for people: what it says of itself, as facts and tables. */

export const artifactFacts = (artifact: ArtifactDetail, signedBy: string, width: number | undefined): string => {
  const head = facts([
    ['artifact', `${artifact.name}@${artifact.version}`],
    ['id', artifact.artifact_id],
    ['description', artifact.description || null],
    ['published', `${artifact.created_at} by ${artifact.created_by}`],
    ['signed by', signedBy],
    ['nodes', String(artifact.assigned)],
    ['sha256', artifact.checksum],
    ['size', byteCount(artifact.size)],
    ...needsOf(artifact.manifest),
  ]);
  return head + manifestTables(artifact.manifest, width);
};

/** What it needs of a node, and the free facts. */
export const needsOf = (manifest: Manifest): (readonly [string, string | null])[] => [
  ['type', manifest.type],
  ['architecture', manifest.architecture],
  [
    'kernel',
    `${manifest.kernel_version} or newer${manifest.kernel_before ? `, before ${manifest.kernel_before}` : ''}`,
  ],
  ['needs', manifest.features.join(', ') || null],
  ['tags', manifest.tags.join(', ') || null],
  ...Object.entries(manifest.metadata).map(([key, value]) => [key, value] as const),
];

export const manifestTables = (manifest: Manifest, width: number | undefined): string => {
  const several = manifest.objects.filter(({ kind }) => kind === 'object').length > 1;
  const named = ({ name, object }: { name: string; object?: string | undefined }) =>
    several && object !== undefined ? `${object}:${name}` : name;
  const parts = [
    table(
      ['PROGRAM', 'ATTACHED'],
      manifest.programs.map((one) => [named(one), describeAttachTo(one.attach)]),
      width,
    ),
  ];
  if (manifest.constants.length > 0)
    parts.push(
      table(
        ['CONSTANT', 'TYPE', 'VALUE', 'SETTABLE', ''],
        manifest.constants.map((one) => [
          named(one),
          one.type,
          String(one.value),
          one.settable ? 'yes' : 'no',
          one.description ?? '',
        ]),
        width,
      ),
    );
  if (manifest.maps.length > 0)
    parts.push(
      table(
        ['MAP', 'ACROSS UPGRADES', 'SHARED AS', 'MAX ENTRIES'],
        manifest.maps.map((one) => [
          named(one),
          one.keep ? 'kept' : 'made anew',
          one.share ?? '-',
          one.max_entries === undefined ? "the object's" : String(one.max_entries),
        ]),
        width,
      ),
    );
  parts.push(
    table(
      ['FILE', 'KIND', 'SIZE', 'SHA256'],
      manifest.objects.map(({ file, kind, size, sha256 }) => [file, kind, byteCount(size), sha256]),
      width,
    ),
  );
  return parts.map((part) => `\n${part}`).join('');
};
