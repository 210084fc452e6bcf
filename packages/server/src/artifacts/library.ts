import type { Artifact, ArtifactDetail, ArtifactList, ArtifactQuery } from '@aegis/protocol/artifacts/endpoints';
import type { Constant } from '@aegis/protocol/artifacts/manifest';
import { compareVersions, newestOf } from '@aegis/protocol/artifacts/versions';
import { AegisError } from '@aegis/protocol/errors';
import * as z from 'zod/mini';
import { BlobFault, type Blobs } from '../platform/blobs.ts';
import type { Clock } from '../platform/clock.ts';
import type { Within } from '../platform/node-scope.ts';
import type { OneAtATime } from '../platform/one-at-a-time.ts';
import { decodeCursor, encodeCursor } from '../platform/paging.ts';
import type { AssignmentsRepository } from './assignments-repository.ts';
import type { ArtifactHead, ArtifactsRepository } from './repository.ts';
import type { Signers } from './signers.ts';
import { parseReference, unknownArtifact } from './versions.ts';
import { artifactView, detailView } from './views.ts';

/** What is published: lists, shows, hands out the bytes, deletes. */

export interface Binary {
  bytes: Buffer;
  sha256: string;
  fileName: string;
}

const Cursor = z.tuple([z.uuid()]);
const NAMES_SHOWN = 5;
const VERSIONS_SHOWN = 10;
const PAGE_CHARS = 8 * 1024 * 1024;

export const libraryService = (on: {
  repository: ArtifactsRepository;
  assignments: AssignmentsRepository;
  blobs: Blobs;
  signers: Signers;
  inTurn: OneAtATime;
  clock: Clock;
}) => {
  const { repository, assignments } = on;
  const views = async (rows: readonly ArtifactHead[], within: Within): Promise<Artifact[]> => {
    const counts = await assignments.countsOf(
      rows.map(({ id }) => id),
      within,
    );
    return rows.map((row) => artifactView(row, counts.get(row.id) ?? 0, on.signers.stateOf));
  };
  const find = async (id: string): Promise<ArtifactHead> => {
    const row = await repository.byId(id);
    if (!row) throw unknownArtifact(id);
    return row;
  };
  const show = async (id: string, within: Within): Promise<Artifact> => {
    const [view] = await views([await find(id)], within);
    if (!view) throw unknownArtifact(id);
    return view;
  };
  const binary = async (of: { name: string; version: string; sha256: string }): Promise<Binary> => {
    try {
      const bytes = await on.blobs.read(of.sha256);
      return { bytes, sha256: of.sha256, fileName: `${of.name}-${of.version}.tar.zst` };
    } catch (cause) {
      if (!(cause instanceof BlobFault)) throw cause;
      throw new AegisError(
        'http.internal',
        `The stored bundle of ${of.name} ${of.version} is ${cause.reason}. Push the same file again: that mends it.`,
        { cause },
      );
    }
  };

  return {
    find,
    show,
    views,
    list: async (query: ArtifactQuery, within: Within): Promise<z.infer<typeof ArtifactList>> => {
      const [before] = query.cursor === undefined ? [] : decodeCursor(query.cursor, Cursor);
      const found = await repository.page(query, query.limit, before);
      const rows = withinSize(found);
      const last = rows.length < found.length || found.length === query.limit ? rows.at(-1) : undefined;
      return {
        artifacts: await views(rows, within),
        total: await repository.count(query),
        next_cursor: last ? encodeCursor([last.id]) : null,
      };
    },
    detail: async (id: string, within: Within): Promise<ArtifactDetail> => {
      const artifact = await show(id, within);
      const manifest = await repository.manifestOf(id);
      if (manifest === undefined) throw unknownArtifact(id);
      return detailView(artifact, manifest);
    },
    constantsOf: async (id: string): Promise<Constant[]> => {
      const manifest = await repository.manifestOf(id);
      if (!manifest) throw unknownArtifact(id); // deleted this moment
      return (JSON.parse(manifest) as ArtifactDetail['manifest']).constants;
    },
    binary: async (id: string): Promise<Binary> => binary(await find(id)),
    /** To a node: of what it is to run, and of nothing else. @throws AegisError artifacts.not_assigned */
    binaryFor: async (uid: string, id: string): Promise<Binary> => {
      const found = await assignments.bundleFor(uid, id);
      if (!found)
        throw new AegisError(
          'artifacts.not_assigned',
          'This artifact is not assigned to this node. Ask for what is: GET /artifacts/for-host/{its own uid}.',
        );
      return binary(found);
    },
    /** `name`, `name@version` or an id, to the artifact that it means now. @throws AegisError artifacts.unknown_artifact */
    resolve: async (text: string): Promise<ArtifactHead> => {
      const reference = parseReference(text);
      if ('id' in reference) return find(reference.id);
      const { name, version } = reference;
      if (version !== null) {
        const exact = await repository.byVersion(name, version);
        if (exact) return exact;
      }
      const versions = await repository.versionsOf(name);
      const newest = newestOf(versions);
      if (!newest) throw unknownArtifact(name);
      if (version !== null) throw unknownVersion(name, version, versions);
      return find(newest.id);
    },
    /** @throws AegisError artifacts.unknown_artifact, artifacts.assigned */
    delete: (id: string): Promise<Artifact> =>
      on.inTurn(async () => {
        const artifact = await show(id, null);
        await repository.write('artifacts.delete', async (tx) => {
          if (!(await repository.byIdIn(tx, id))) throw unknownArtifact(id);
          const holders = await assignments.holdersIn(tx, id, null);
          if (holders.length > 0) throw stillAssigned(artifact, holders);
          await repository.update(tx, id, { deleted_at: on.clock.now(), manifest: '', signature: null });
        });
        await on.blobs.remove(artifact.checksum);
        return artifact;
      }),
    /** Blobs that no artifact names, which a crash between the two left. Answers how many there were. */
    sweep: (): Promise<number> => on.inTurn(() => on.blobs.sweep(repository.needed)),
  };
};
export type LibraryService = ReturnType<typeof libraryService>;

const withinSize = (rows: readonly ArtifactHead[]): ArtifactHead[] => {
  let chars = 0;
  const tooMuch = rows.findIndex(({ description, metadata, tags, signature }) => {
    chars += description.length + metadata.length + tags.length + (signature?.length ?? 0);
    return chars > PAGE_CHARS;
  });
  return tooMuch < 0 ? [...rows] : rows.slice(0, Math.max(1, tooMuch));
};

const unknownVersion = (name: string, version: string, versions: readonly { version: string }[]): AegisError => {
  const shown = versions
    .map((one) => one.version)
    .sort((a, b) => compareVersions(b, a))
    .slice(0, VERSIONS_SHOWN);
  const more = versions.length > shown.length ? `, and ${versions.length - shown.length} more` : '';
  return new AegisError(
    'artifacts.unknown_artifact',
    `There is no version ${version} of '${name}'. There is ${shown.join(', ')}${more}.`,
  );
};

const stillAssigned = ({ name, version }: Artifact, holders: readonly { node_name: string }[]): AegisError => {
  const names = holders.slice(0, NAMES_SHOWN).map(({ node_name }) => node_name);
  const more = holders.length > names.length ? ` and ${holders.length - names.length} more` : '';
  return new AegisError(
    'artifacts.assigned',
    `${name} ${version} is assigned to ${names.join(', ')}${more}. Unassign it there first.`,
    { details: { assigned: holders.length } },
  );
};
