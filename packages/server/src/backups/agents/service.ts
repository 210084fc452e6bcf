import { createHash } from 'node:crypto';
import type * as api from '@aegis/protocol/backups/agent-endpoints';
import type { BackupSpec, S3Destination } from '@aegis/protocol/backups/config';
import type { SealedCredentials } from '@aegis/protocol/backups/node-endpoints';
import { type FileError, MAX_RUN_ERRORS } from '@aegis/protocol/backups/run';
import type { BodyOf, ResponseOf } from '@aegis/protocol/endpoint';
import { AegisError } from '@aegis/protocol/errors';
import { isUuid } from '@aegis/protocol/ids';
import { type Clock, isoTime } from '../../platform/clock.ts';
import type { NodeActor } from '../../platform/http/actor.ts';
import type { AfterEnd } from '../after-end.ts';
import type { AssignmentsRepository } from '../assignments-repository.ts';
import { specOf } from '../config-views.ts';
import type { ConfigsRepository } from '../configs-repository.ts';
import type { CredentialVault } from '../credentials.ts';
import type { DestinationsRepository, Place } from '../destinations-repository.ts';
import { type LogService, refuseLongMetadata } from '../log.ts';
import { ended, isFinal, isOver, unknownRun } from '../run-refusals.ts';
import { AGENT_ARCHIVE, prefixOf } from '../run-views.ts';
import type { RunsService } from '../runs.ts';
import type { RunsRepository } from '../runs-repository.ts';
import { assumeRole } from '../s3/sts.ts';
import type { Stores } from '../stores.ts';
import type { RunRow, UploadRow } from '../tables.ts';
import type { UploadsRepository } from '../uploads-repository.ts';
import { linkUploads } from './link-upload.ts';

/** Runs of seed 004's own minimal agent: one archive, made and uploaded by the agent in one of the ways that hand something out. It has no
 *  key, so nothing is signed: what the server can see for itself is that the object is there, and how large it is. */

/** Of a link for one upload. */
const MOST_LINK_SEC = 86_400;

type Complete = BodyOf<typeof api.agentComplete>;
type AgentConfig = ResponseOf<typeof api.agentConfigs>['configs'][number];
type Start = ResponseOf<typeof api.agentStart>;

export const agentRunsService = (on: {
  runs: RunsRepository;
  began: Pick<RunsService, 'begin' | 'placeOfRun'>;
  configs: ConfigsRepository;
  assignments: AssignmentsRepository;
  destinations: DestinationsRepository;
  stores: Stores;
  vault: CredentialVault;
  uploads: UploadsRepository;
  /** Aborts what a run left open. Throws nothing. */
  attemptOver: (run: RunRow, attempt: number) => Promise<void>;
  lines: LogService;
  after: AfterEnd;
  clock: Clock;
  newId: () => string;
}) => {
  const { runs, clock } = on;
  const links = linkUploads({ uploads: on.uploads, clock });

  const credentialsOf = (place: Place) =>
    place.credentials === null ? null : on.vault.decrypt(place.configId, place.credentials);
  const staticOnes = (place: Place): SealedCredentials => {
    const own = credentialsOf(place);
    if (own === null)
      throw new AegisError(
        'backups.bad_destination',
        "destination.access = 'static' hands the configuration's own credentials out, and it has none. Give it credentials.",
      );
    return own;
  };
  const accessFor = async (
    place: Place,
    destination: S3Destination,
    prefix: string,
    run: { id: string; seconds: number },
  ): Promise<{ access: Pick<Start, 's3Config' | 'uploadUrl'>; upload: UploadRow | null }> => {
    const key = `${prefix}${AGENT_ARCHIVE}`;
    const store = on.stores.of(place);
    if (destination.access === 'presigned') {
      const { row, url } = await links.open(store, run.id, key, Math.min(MOST_LINK_SEC, run.seconds));
      return { access: { uploadUrl: url }, upload: row };
    }
    const given =
      destination.access === 'static'
        ? staticOnes(place)
        : await assumeRole({
            destination,
            credentials: credentialsOf(place),
            bounds: store.bounds,
            prefix,
            purpose: 'write',
            sessionName: `aegis-write-${run.id}`,
          });
    const s3Config = {
      accessKeyId: given.access_key_id,
      secretAccessKey: given.secret_access_key,
      ...(given.session_token === undefined ? {} : { sessionToken: given.session_token }),
      region: destination.region,
      ...(destination.endpoint === undefined ? {} : { endpoint: destination.endpoint }),
      bucket: destination.bucket,
      forcePathStyle: destination.path_style,
      key,
    };
    return { access: { s3Config }, upload: null };
  };

  /** How it ended by the agent's word, checked against what lies there. @throws AegisError backups.upload_mismatch, limit */
  const endOf = async (run: RunRow, told: Complete, digest: string) => {
    const now = clock.now();
    const errors = (told.errors ?? []).map(errorOf);
    const common = { heard_at: now, silent_since: null, finished_at: now, end_sha256: digest, progress: null };
    const listed = JSON.stringify(errors.slice(0, MAX_RUN_ERRORS));
    if (told.status === 'failed') {
      const message = errors[0]?.message ?? 'The agent said that the backup failed, and not why.';
      const reason = JSON.stringify({ code: 'backups.agent_failed', message });
      return { ...common, state: 'failed' as const, reason, errors: listed };
    }
    const store = on.stores.of(await on.began.placeOfRun(run));
    await links.complete(store, run.id, run.max_bytes);
    const object = await store.head(`${run.prefix}${AGENT_ARCHIVE}`);
    if (object === null)
      throw new AegisError(
        'backups.upload_mismatch',
        `There is no object ${run.prefix}${AGENT_ARCHIVE} at the destination. Upload the archive under the key that the start gave, or complete with status "failed".`,
      );
    if (object.bytes > run.max_bytes)
      throw new AegisError(
        'backups.limit',
        `The archive has ${object.bytes} bytes; the run may write ${run.max_bytes}. Exclude something, or raise limits.archive_bytes.`,
      );
    return {
      ...common,
      state: errors.length > 0 ? ('completed_with_errors' as const) : ('completed' as const),
      reason: null,
      errors: listed,
      archive_bytes: object.bytes,
      uploaded_bytes: object.bytes,
      totals: JSON.stringify({
        files: told.filesProcessed ?? 0,
        directories: 0,
        others: 0,
        bytes: told.bytesTransferred ?? object.bytes,
        errors: errors.length,
      }),
    };
  };

  return {
    /** Those that an agent can carry out or has to know of. */
    configs: async (actor: NodeActor): Promise<ResponseOf<typeof api.agentConfigs>> => {
      const rows = await on.configs.byIds([...(await on.assignments.presentOf(actor.uid))]);
      const configs = [...rows.values()]
        .filter(({ deleted_at }) => deleted_at === null)
        .sort((a, b) => (a.name < b.name ? -1 : 1))
        .flatMap((row): AgentConfig[] => {
          const spec = specOf(row);
          return spec.destination.kind === 's3' ? [configView(row.id, spec, spec.destination)] : [];
        });
      return { success: true, configs };
    },

    /** @throws AegisError backups.unsupported, not_assigned, busy, limit, bad_destination, destination_failed */
    start: async (actor: NodeActor, configId: string): Promise<Start> => {
      if (actor.keyId !== null)
        throw new AegisError(
          'backups.unsupported',
          'This node has a key, and signs what it backs up: its runs begin at /v1/backups/runs.',
        );
      const config = isUuid(configId) ? await on.configs.byId(configId) : undefined;
      const assignment = config && (await on.assignments.one(actor.uid, config.id));
      // Of one that is not there nothing else is said: an agent may not find out what there is.
      if (!config || assignment?.present !== 1)
        throw new AegisError(
          'backups.not_assigned',
          `The configuration '${configId}' is not assigned to this agent. Fetch /api/agent/configs.`,
        );
      const spec = specOf(config);
      const destination = suitable(config.name, spec);
      const place = await on.destinations.byId(config.destination_id);
      if (!place) throw new AegisError('http.internal', 'The destination of a configuration is not there.');
      const id = on.newId();
      const prefix = prefixOf(destination, { nodeUid: actor.uid, configId: config.id, runId: id, attempt: 1 });
      // First: a run that cannot get at its destination does not begin.
      const { access, upload } = await accessFor(place, destination, prefix, { id, seconds: spec.limits.run_sec });
      const began = runs.write('backups.agent-start', async (tx) => {
        await on.began.begin(tx, actor, config, {
          run_id: id,
          config_id: config.id,
          generation: assignment.generation,
          attempt: 1,
          trigger: 'agent',
        });
        if (upload) await on.uploads.insert(tx, upload);
      });
      await began.catch(async (error: unknown) => {
        const { key, upload_id } = upload ?? {};
        // What S3 does not take now, the sweep does.
        if (key && upload_id)
          await on.stores
            .of(place)
            .abortUpload(key, upload_id)
            .catch(() => undefined);
        throw error;
      });
      return { success: true, logId: id, ...access };
    },

    /** A repeat changes nothing. @throws AegisError backups.unknown_run, run_ended, upload_mismatch, limit, destination_failed */
    complete: async (actor: NodeActor, told: Complete): Promise<{ success: true }> => {
      const { logId } = told;
      const digest = createHash('sha256').update(JSON.stringify(told)).digest('hex');
      const isOpen = (run: RunRow | undefined): run is RunRow => {
        if (!run || run.node_uid !== actor.uid || run.cause !== 'agent') throw unknownRun(logId);
        if (isFinal(run.state) && run.end_sha256 === digest) return false;
        if (isOver(run)) throw ended(run);
        return true;
      };
      const before = isUuid(logId) ? await runs.ofNode(actor.uid, logId) : undefined;
      if (!isOpen(before)) return { success: true };
      const change = await endOf(before, told, digest);
      const run = await runs.write('backups.agent-complete', async (tx) => {
        const locked = await runs.lock(tx, logId);
        if (!isOpen(locked)) return null; // the same came twice at once
        const after: RunRow = { ...locked, ...change };
        await runs.update(tx, logId, change);
        await on.after.inTransaction(tx, after);
        return after;
      });
      if (run) on.after.afterwards(run);
      if (run?.state === 'failed') await on.attemptOver(run, run.attempt);
      return { success: true };
    },

    /** @throws AegisError http.too_large */
    log: async (
      actor: NodeActor,
      { level, message, metadata }: BodyOf<typeof api.agentLog>,
    ): Promise<{ success: true }> => {
      const line = { at: isoTime(clock.now()), level, message, metadata };
      refuseLongMetadata([line]);
      await on.lines.addToNode(actor.uid, line);
      return { success: true };
    },
  };
};
export type AgentRunsService = ReturnType<typeof agentRunsService>;

const configView = (id: string, spec: BackupSpec, destination: S3Destination): AgentConfig => ({
  id,
  name: spec.name,
  sources: spec.sources.map((path) => ({ path })),
  destination: {
    bucket: destination.bucket,
    region: destination.region,
    prefix: destination.prefix,
    ...(destination.endpoint === undefined ? {} : { endpoint: destination.endpoint }),
    forcePathStyle: destination.path_style,
  },
  options: {
    type: spec.type,
    compression: true,
    encryption: spec.encryption.recipients.length > 0,
    ...(spec.retention.days === undefined ? {} : { retentionDays: spec.retention.days }),
  },
});

/** @throws AegisError backups.unsupported: what the seed's agent has no way to do is not half done */
const suitable = (name: string, { destination, encryption }: BackupSpec): S3Destination => {
  const refused = (why: string): AegisError =>
    new AegisError('backups.unsupported', `'${name}' cannot be carried out by an agent without a key: ${why}`);
  if (destination.kind !== 's3') throw refused("its destination is a folder. Use destination.kind = 's3'.");
  if (destination.access === 'signed')
    throw refused(
      "destination.access = 'signed' needs a node that asks for each signature. Use 'presigned', 'sts' or 'static', or enrol it with 'aegis register'.",
    );
  if (encryption.recipients.length > 0)
    throw refused("it is encrypted to recipients, which this API cannot ask for. Enrol it with 'aegis register'.");
  if (destination.object_lock_days !== undefined)
    throw refused("its objects are to be locked, which this API cannot ask for. Enrol it with 'aegis register'.");
  return destination;
};

/** An agent's errors may be anything: texts, or objects with a message. */
const errorOf = (given: unknown): FileError => {
  const { path, file, code, message } = (typeof given === 'object' && given !== null ? given : {}) as Record<
    string,
    unknown
  >;
  const text = (value: unknown, most: number, otherwise: string): string =>
    typeof value === 'string' && value !== '' ? storable(value).slice(0, most).toWellFormed() : otherwise;
  const whole = typeof given === 'string' ? given : JSON.stringify(given);
  return {
    path: text(path ?? file, 4096, ''),
    code: text(code, 64, 'agent'),
    message: text(message ?? whole, 1000, 'an error without a message'),
  };
};
/** As any database takes it. */
const storable = (text: string): string => text.replaceAll('\0', '\uFFFD').toWellFormed();
