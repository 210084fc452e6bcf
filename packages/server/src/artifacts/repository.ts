import { isUuid } from '@aegis/protocol/ids';
import { type SelectQueryBuilder, sql } from 'kysely';
import { compiledOnce } from '../platform/storage/compiled.ts';
import { forUpdate } from '../platform/storage/for-update.ts';
import type { Storage, Tables, Tx } from '../tables.ts';
import type { ArtifactRow } from './tables.ts';

/** What most questions are about: everything but the manifest, which may be a megabyte. */
export type ArtifactHead = Omit<ArtifactRow, 'manifest'>;
export const HEAD = [
  'id',
  'name',
  'version',
  'description',
  'type',
  'architecture',
  'kernel_version',
  'tags',
  'metadata',
  'sha256',
  'size',
  'signature',
  'signer_keyid',
  'signer_name',
  'created_at',
  'created_by',
  'deleted_at',
  'manifest_bytes',
] as const satisfies readonly (keyof ArtifactHead)[];

export interface ArtifactFilter {
  name?: string | undefined;
  version?: string | undefined;
  tag?: string | undefined;
  type?: string | undefined;
  architecture?: string | undefined;
}
export type Signature = Pick<ArtifactRow, 'signature' | 'signer_keyid' | 'signer_name'>;

/** The SQL of the published artifacts. A deleted one is found by its version alone. */
export const artifactsRepository = (storage: Storage) => {
  const { read } = storage;
  const live = () => read.selectFrom('artifacts').where('deleted_at', 'is', null);
  const filtered = <O>(query: SelectQueryBuilder<Tables, 'artifacts', O>, filter: ArtifactFilter) => {
    let rows = query;
    if (filter.name !== undefined) rows = rows.where('name', '=', filter.name);
    if (filter.version !== undefined) rows = rows.where('version', '=', filter.version);
    if (filter.type !== undefined) rows = rows.where('type', '=', filter.type);
    if (filter.architecture !== undefined) rows = rows.where('architecture', '=', filter.architecture);
    // A tag holds neither quotes nor backslashes, so a piece of JSON is found by its text.
    if (filter.tag !== undefined)
      rows = rows.where(
        storage.kind === 'sqlite'
          ? sql<boolean>`instr(tags, ${JSON.stringify(filter.tag)}) > 0`
          : sql<boolean>`strpos(tags, ${JSON.stringify(filter.tag)}) > 0`,
      );
    return rows;
  };
  const headWith = compiledOnce((of: { id: string }) => live().select(HEAD).where('id', '=', of.id));
  const manifestWith = compiledOnce((of: { id: string }) =>
    read.selectFrom('artifacts').select('manifest').where('id', '=', of.id),
  );

  return {
    byId: async (id: string): Promise<ArtifactHead | undefined> =>
      isUuid(id) ? (await headWith(read, { id }))[0] : undefined,
    manifestOf: async (id: string): Promise<string | undefined> => (await manifestWith(read, { id }))[0]?.manifest,
    byVersion: (name: string, version: string): Promise<ArtifactHead | undefined> =>
      live().select(HEAD).where('name', '=', name).where('version', '=', version).executeTakeFirst(),
    versionsOf: (name: string): Promise<{ id: string; version: string }[]> =>
      live().select(['id', 'version']).where('name', '=', name).execute(),

    /** Deleted ones too. */
    versionsById: async (ids: readonly string[]): Promise<Map<string, string>> => {
      if (ids.length === 0) return new Map();
      const rows = await read.selectFrom('artifacts').select(['id', 'version']).where('id', 'in', ids).execute();
      return new Map(rows.map(({ id, version }) => [id, version]));
    },

    /** The newest first, those before `before`. */
    page: (filter: ArtifactFilter, limit: number, before: string | undefined): Promise<ArtifactHead[]> => {
      const rows = filtered(live(), filter).select(HEAD).orderBy('id', 'desc').limit(limit);
      return (before === undefined ? rows : rows.where('id', '<', before)).execute();
    },
    count: async (filter: ArtifactFilter): Promise<number> => {
      const { total } = await filtered(live(), filter)
        .select((of) => of.fn.countAll<number>().as('total'))
        .executeTakeFirstOrThrow();
      return total;
    },
    /** Those of the digests whose blobs are needed. */
    needed: async (digests: readonly string[]): Promise<Set<string>> => {
      if (digests.length === 0) return new Set();
      const rows = await live().select('sha256').where('sha256', 'in', digests).execute();
      return new Set(rows.map(({ sha256 }) => sha256));
    },

    /** Locked until the transaction ends, deleted ones included. */
    byVersionIn: (tx: Tx, name: string, version: string): Promise<ArtifactHead | undefined> =>
      forUpdate(
        storage,
        tx.selectFrom('artifacts').select(HEAD).where('name', '=', name).where('version', '=', version),
      ).executeTakeFirst(),
    /** Locked until the transaction ends: whoever assigns it or deletes it waits. */
    byIdIn: (tx: Tx, id: string): Promise<ArtifactHead | undefined> =>
      forUpdate(
        storage,
        tx.selectFrom('artifacts').select(HEAD).where('id', '=', id).where('deleted_at', 'is', null),
      ).executeTakeFirst(),
    counts: async (tx: Tx): Promise<{ live: number; ever: number }> =>
      tx
        .selectFrom('artifacts')
        .select((of) => [
          of.fn.countAll<number>().as('ever'),
          of.fn.countAll<number>().filterWhere('deleted_at', 'is', null).as('live'),
        ])
        .executeTakeFirstOrThrow(),
    /** False when the version is taken. */
    insert: async (tx: Tx, row: ArtifactRow): Promise<boolean> => {
      const { numInsertedOrUpdatedRows } = await tx
        .insertInto('artifacts')
        .values(row)
        .onConflict((conflict) => conflict.doNothing())
        .executeTakeFirst();
      return numInsertedOrUpdatedRows === 1n;
    },
    update: async (tx: Tx, id: string, change: Partial<ArtifactRow>): Promise<void> => {
      await tx.updateTable('artifacts').set(change).where('id', '=', id).execute();
    },
    manifestBytesIn: async (tx: Tx, ids: readonly string[]): Promise<Map<string, number>> => {
      if (ids.length === 0) return new Map();
      const rows = await tx.selectFrom('artifacts').select(['id', 'manifest_bytes']).where('id', 'in', ids).execute();
      return new Map(rows.map(({ id, manifest_bytes }) => [id, manifest_bytes]));
    },
    write: storage.write,
  };
};
export type ArtifactsRepository = ReturnType<typeof artifactsRepository>;
