import type { BackupSpec, Credentials, Destination } from '@aegis/protocol/backups/config';
import type { BackupConfig, ConfigAnswer, NewConfig } from '@aegis/protocol/backups/endpoints';
import { AegisError } from '@aegis/protocol/errors';
import { isUuid } from '@aegis/protocol/ids';
import * as z from 'zod/mini';
import type { Clock } from '../platform/clock.ts';
import type { Within } from '../platform/node-scope.ts';
import type { OneAtATime } from '../platform/one-at-a-time.ts';
import { decodeCursor, encodeCursor } from '../platform/paging.ts';
import { type AssignmentChanges, HostsGone, type Outcome, type Wish } from './assignments.ts';
import { bodyOf, checkSpec } from './config-checks.ts';
import { type ConfigViews, configView, specOf } from './config-views.ts';
import type { ConfigsRepository } from './configs-repository.ts';
import type { CredentialVault } from './credentials.ts';
import { type DestinationsRepository, type Place, type Probe, placeOf } from './destinations-repository.ts';
import { specDiff } from './diff.ts';
import type { DesiredDoor, NodeDoor } from './node-door.ts';
import { lastOf, withinPage } from './page-size.ts';
import { type NextPlace, nextPlace } from './places.ts';
import type { ConfigRow, DestinationRow } from './tables.ts';
import { parseTargets, unknownNames } from './targets.ts';

/** Configurations: created, changed, assigned and removed. A change and what follows from it for the nodes is one transaction; their
 *  polls are woken after it. One change at a time, so that each resolves its nodes after the one before. */

const Cursor = z.tuple([z.string(), z.string()]);
const TRIES = 3;
const NAMES_SHOWN = 5;

/** Tries a destination, leaving nothing behind. What it lacks is in the notes; `ok` is false where nothing could be stored there. */
export type ProbeDestination = (destination: Destination, credentials: Credentials | null) => Promise<Probe>;

type Change = Omit<NewConfig, 'spec'> & { if_revision?: number | undefined };

export const configsService = (on: {
  configs: ConfigsRepository;
  destinations: DestinationsRepository;
  changes: AssignmentChanges;
  views: ConfigViews;
  nodes: NodeDoor;
  desired: DesiredDoor;
  vault: CredentialVault;
  probe: ProbeDestination;
  /** What the server's own files may be used for. @throws AegisError backups.bad_config */
  checkOwn: (spec: BackupSpec) => void;
  inTurn: OneAtATime;
  clock: Clock;
  newId: () => string;
  maxConfigs: number;
}) => {
  const { configs, destinations } = on;

  /** @throws AegisError backups.unknown_config */
  const find = async (id: string): Promise<ConfigRow> => {
    const row = isUuid(id) ? await configs.byId(id) : await configs.byName(id);
    if (!row) throw unknownConfig(id);
    return row;
  };
  const shown = async (row: ConfigRow, within: Within = null): Promise<BackupConfig> => {
    const [view] = await on.views([row], within);
    if (!view) throw unknownConfig(row.id);
    return view;
  };

  /** @param before what it names already may be gone @throws AegisError backups.unknown_target */
  const wishFor = async (
    row: ConfigRow,
    spec: BackupSpec,
    before: ConfigRow | undefined,
    by: string,
    now: number,
  ): Promise<Wish> => {
    const targets = parseTargets(spec.nodes);
    const candidates = spec.nodes.length === 0 ? [] : await on.nodes.candidates();
    const known = new Set(before ? specOf(before).nodes : []);
    refuseUnknown(unknownNames(targets.names, candidates).filter((name) => !known.has(name)));
    return {
      configId: row.id,
      anew: before !== undefined && before.body !== row.body,
      bytes: Buffer.byteLength(row.body),
      hosts: candidates.filter(targets.includes).map(({ uid, name }) => ({ uid, name })),
      by,
      now,
    };
  };

  /** Before anybody's turn: a destination that hardly answers must not keep others from theirs. */
  const tryOut = async (
    spec: BackupSpec,
    change: Change,
    before: ConfigRow | undefined,
  ): Promise<{ of: string; probe: Probe } | null> => {
    if (!change.probe || spec.destination.kind === 'file') return null;
    const now = on.clock.now();
    const place = nextPlace({
      configId: before?.id ?? '',
      spec,
      given: change.credentials,
      was: before && (await destinations.byId(before.destination_id)),
      vault: on.vault,
      seal: () => '',
      now,
      newId: () => '',
    });
    await checkSpec(spec, place.credentials !== null, now);
    on.checkOwn(spec);
    if (place.row.probe !== null) return null;
    return { of: triedOut(spec, place), probe: await on.probe(spec.destination, place.credentials) };
  };
  const probed = (
    place: NextPlace,
    spec: BackupSpec,
    change: Change,
    before: ConfigRow | undefined,
    tried: Awaited<ReturnType<typeof tryOut>>,
  ): DestinationRow => {
    if (!change.probe || spec.destination.kind === 'file' || place.row.probe !== null) return place.row;
    if (tried?.of !== triedOut(spec, place)) throw conflict(spec.name, before?.revision);
    const { probe } = tried;
    if (!probe.ok)
      throw new AegisError(
        'backups.bad_destination',
        `The destination cannot be used: ${probe.notes.join(' ').slice(0, 1000)} Correct it, or store it as it is (--no-probe; in the API probe = false).`,
      );
    return { ...place.row, probe: JSON.stringify(probe) };
  };

  const apply = async (
    by: string,
    spec: BackupSpec,
    change: Change,
    before: ConfigRow | undefined,
    tried: Awaited<ReturnType<typeof tryOut>>,
  ): Promise<ConfigAnswer> => {
    const now = on.clock.now();
    const was = before && (await destinations.byId(before.destination_id));
    const id = before?.id ?? on.newId();
    // A dry run leaves nothing behind, a key neither.
    const seal = change.dry_run ? () => '' : (one: Credentials) => on.vault.encrypt(id, one);
    const place = nextPlace({
      configId: id,
      spec,
      given: change.credentials,
      was,
      vault: on.vault,
      seal,
      now,
      newId: on.newId,
    });
    await checkSpec(spec, place.credentials !== null, now);
    on.checkOwn(spec);
    const destination = probed(place, spec, change, before, tried);
    const text = JSON.stringify(spec);
    const diff = [...credentialsDiff(was, place), ...specDiff(before ? specOf(before) : null, spec)];
    const row: ConfigRow = {
      id,
      name: spec.name,
      revision: (before?.revision ?? 0) + 1,
      mode: spec.execution_mode,
      destination_id: destination.id,
      created_at: before?.created_at ?? now,
      created_by: before?.created_by ?? by,
      updated_at: now,
      updated_by: by,
      deleted_at: null,
      targets: JSON.stringify(spec.nodes),
      body: bodyOf(id, spec),
      spec: text,
    };
    const changed = before === undefined || diff.length > 0;
    const stored = changed ? row : before;
    if (change.dry_run) {
      const taken = await configs.byName(spec.name);
      if (taken && taken.id !== id) throw nameTaken(spec.name);
      const { added, removed, unchanged } = await on.changes.preview(
        configs.read,
        await wishFor(row, spec, before, by, now),
      );
      const [view] = before ? await on.views([stored], null) : [];
      return {
        config: {
          ...(view ?? configView(stored, { place: placeOf(destination), assigned: 0, last: undefined })),
          assigned: added.length + unchanged,
        },
        changed,
        diff,
        nodes: { added, removed, unchanged },
      };
    }
    const outcome = await resolved(async () => {
      const wish = await wishFor(row, spec, before, by, now);
      return configs.write('backups.config', async (tx) => {
        if (before) {
          const locked = await configs.lock(tx, id);
          if (!locked || locked.deleted_at !== null) throw unknownConfig(id);
          if (locked.revision !== before.revision) throw conflict(before.name, locked.revision);
          if (await configs.nameTakenIn(tx, spec.name, id)) throw nameTaken(spec.name);
          if (changed) await configs.update(tx, id, row);
        } else {
          if ((await configs.countIn(tx)) >= on.maxConfigs) throw tooMany(on.maxConfigs);
          if (!(await configs.insert(tx, row))) throw nameTaken(spec.name);
        }
        if (place.isNew) await destinations.insert(tx, destination);
        else if (place.changed || destination !== place.row)
          await destinations.update(tx, destination.id, {
            destination: destination.destination,
            access_key_id: destination.access_key_id,
            credentials: destination.credentials,
            probe: destination.probe,
          });
        return on.changes.apply(tx, wish, 'refuse');
      });
    });
    on.desired.changed(outcome.revisions);
    const { added, removed, unchanged } = outcome;
    return { config: await shown(stored), changed, diff, nodes: { added, removed, unchanged } };
  };

  /** Once more where a node was retired between the reading and the change. */
  const resolved = async (work: () => Promise<Outcome>): Promise<Outcome> => {
    for (let tries = 1; ; tries++) {
      try {
        return await work();
      } catch (error) {
        if (!(error instanceof HostsGone) || tries === TRIES) throw error;
      }
    }
  };

  return {
    find,
    /** @throws AegisError backups.name_taken, bad_config, bad_recipient, bad_destination, unknown_target, limit */
    create: async (by: string, { spec, ...change }: NewConfig): Promise<ConfigAnswer> => {
      const refuseTaken = async (): Promise<void> => {
        if (await configs.byName(spec.name)) throw nameTaken(spec.name);
      };
      await refuseTaken();
      const tried = await tryOut(spec, change, undefined);
      return on.inTurn(async () => {
        await refuseTaken();
        return apply(by, spec, change, undefined, tried);
      });
    },
    /** @throws as `create`, and backups.unknown_config, conflict */
    put: async (by: string, id: string, { spec, ...change }: NewConfig & Change): Promise<ConfigAnswer> => {
      const found = async (): Promise<ConfigRow | undefined> => {
        const before = isUuid(id) ? await find(id) : await configs.byName(id);
        if (!before && spec.name !== id)
          throw new AegisError(
            'backups.bad_config',
            `The path says '${id.slice(0, 64)}', which is not there, and the configuration '${spec.name}'. Let both say the same to create it.`,
          );
        if (change.if_revision !== undefined && before?.revision !== change.if_revision)
          throw conflict(spec.name, before?.revision);
        return before;
      };
      const tried = await tryOut(spec, change, await found());
      return on.inTurn(async () => apply(by, spec, change, await found(), tried));
    },
    /** @throws AegisError backups.unknown_config, unknown_target, bad_config, limit */
    assign: (
      by: string,
      id: string,
      request: { add: readonly string[]; remove: readonly string[]; dry_run: boolean },
    ): Promise<ConfigAnswer> =>
      on.inTurn(async () => {
        const before = await find(id);
        const spec = specOf(before);
        if (spec.execution_mode === 'server')
          throw new AegisError(
            'backups.bad_config',
            `'${spec.name}' backs up files of the control server itself and has no nodes.`,
          );
        const missing = request.remove.filter((text) => !spec.nodes.includes(text));
        if (missing.length > 0)
          throw new AegisError(
            'backups.unknown_target',
            `'${spec.name}' does not name ${quoted(missing)}: it names ${spec.nodes.length === 0 ? 'nothing' : quoted(spec.nodes)}. Nothing was changed.`,
          );
        const nodes = [...new Set([...spec.nodes.filter((text) => !request.remove.includes(text)), ...request.add])];
        if (nodes.length > 1000)
          throw new AegisError('backups.limit', 'A configuration takes 1000 names and selectors. Use a selector.');
        return apply(by, { ...spec, nodes }, { probe: false, dry_run: request.dry_run }, before, null);
      }),
    list: async (query: { node?: string | undefined; limit: number; cursor?: string | undefined }, within: Within) => {
      const node = query.node === undefined ? undefined : (await on.nodes.find(query.node, within)).uid;
      const after = query.cursor === undefined ? undefined : decodeCursor(query.cursor, Cursor);
      const heads = await configs.page(query.limit, after, node, within);
      const fitting = withinPage(heads, ({ chars }) => chars);
      const last = lastOf(fitting, heads, query.limit);
      const rows = await configs.byIds(fitting.map(({ id }) => id));
      return {
        items: await on.views(
          fitting.flatMap(({ id }) => rows.get(id) ?? []),
          within,
        ),
        next_cursor: last ? encodeCursor([last.name, last.id]) : null,
      };
    },
    /** Within a scope a configuration is there when one of its nodes is. @throws AegisError backups.unknown_config */
    show: async (id: string, within: Within): Promise<BackupConfig> => {
      const row = await find(id);
      if (within && !(await configs.isWithin(row.id, within))) throw unknownConfig(id);
      return shown(row, within);
    },
    /** Its nodes lose it; runs and archives stay. @throws AegisError backups.unknown_config */
    delete: (by: string, id: string): Promise<BackupConfig> =>
      on.inTurn(async () => {
        const before = await find(id);
        const view = await shown(before);
        const now = on.clock.now();
        const outcome = await configs.write('backups.delete-config', async (tx) => {
          const locked = await configs.lock(tx, before.id);
          if (!locked || locked.deleted_at !== null) throw unknownConfig(id);
          await configs.update(tx, before.id, { deleted_at: now, updated_at: now, updated_by: by });
          const wish: Wish = { configId: before.id, anew: false, bytes: 0, hosts: [], by, now };
          return on.changes.apply(tx, wish, 'refuse');
        });
        on.desired.changed(outcome.revisions);
        return view;
      }),
    /** Looks at the destination again. @throws AegisError backups.unknown_config, unsupported */
    probe: async (id: string): Promise<BackupConfig> => {
      const row = await find(id);
      const place = await destinations.byId(row.destination_id);
      if (!place || place.destination.kind === 'file')
        throw new AegisError(
          'backups.unsupported',
          `'${row.name}' goes to a folder of the machine that makes the backup: only that one can look at it.`,
        );
      const credentials = place.credentials === null ? null : on.vault.decrypt(row.id, place.credentials);
      await destinations.setProbe(place.id, await on.probe(place.destination, credentials));
      return shown(row);
    },
  };
};
export type ConfigsService = ReturnType<typeof configsService>;

/** Of what a probe speaks. */
const triedOut = (spec: BackupSpec, { credentials }: NextPlace): string =>
  JSON.stringify([spec.destination, credentials]);

/** The secret is not told; where it alone changed, both sides say the same. */
const credentialsDiff = (was: Place | undefined, place: NextPlace) => {
  const text = (id: string | null) => (id === null ? null : JSON.stringify({ access_key_id: id }));
  return place.credentialsChanged
    ? [{ field: 'credentials', before: text(was?.accessKeyId ?? null), after: text(place.row.access_key_id) }]
    : [];
};

export const unknownConfig = (id: string): AegisError =>
  new AegisError(
    'backups.unknown_config',
    `No backup configuration '${id.slice(0, 128)}'. See 'aegis backups configs list'.`,
  );
const nameTaken = (name: string): AegisError =>
  new AegisError(
    'backups.name_taken',
    `There is a backup configuration '${name}' already. Change it with 'aegis backups configs apply' or 'edit', or choose another name.`,
  );
const conflict = (name: string, revision: number | undefined): AegisError =>
  new AegisError(
    'backups.conflict',
    revision === undefined
      ? `'${name}' is not there any more, or never was: it has no revision. Leave if_revision out to create it.`
      : `'${name}' was changed meanwhile and is at revision ${revision}. Look at it again ('aegis backups configs show ${name}') and repeat your change.`,
    { details: { revision: revision ?? null } },
  );
const tooMany = (most: number): AegisError =>
  new AegisError(
    'backups.limit',
    `There are ${most} backup configurations already (backups.max_configs). Delete one, or raise that setting.`,
  );
const quoted = (names: readonly string[]): string => {
  const some = names.slice(0, NAMES_SHOWN).map((name) => `'${name.slice(0, 128)}'`);
  return `${some.join(', ')}${names.length > some.length ? ` and ${names.length - some.length} more` : ''}`;
};
const refuseUnknown = (names: readonly string[]): void => {
  if (names.length === 0) return;
  throw new AegisError(
    'backups.unknown_target',
    `No node named ${quoted(names)}: nothing was changed. See 'aegis nodes list'.`,
    { details: { unknown: names.slice(0, 100).map((name) => name.slice(0, 128)) } },
  );
};
