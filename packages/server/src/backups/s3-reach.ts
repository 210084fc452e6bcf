import { AegisError } from '@aegis/protocol/errors';
import { isoTime } from '../platform/clock.ts';
import type { ProbeDestination } from './configs.ts';
import { grantsRepository } from './grants-repository.ts';
import { readingService } from './reading.ts';
import { accessByKind } from './run-access.ts';
import { unknownRun } from './run-refusals.ts';
import type { S3Bounds } from './s3/client.ts';
import { probeStore } from './s3/probe.ts';
import { s3Access, sealedCredentials } from './s3-access.ts';
import type { BackupParts } from './service.ts';
import { requestSigning } from './signer.ts';
import { destinationStores } from './stores.ts';
import type { RunRow } from './tables.ts';
import { uploadSweep } from './upload-sweep.ts';
import { uploadsService } from './uploads.ts';
import { uploadsRepository } from './uploads-repository.ts';
import { runVerification } from './verify-run.ts';

/** The way to S3, put together: who may write and read there, and what the server itself does. Nothing of the AWS SDK is loaded before the
 *  first destination is used. */

/** How long what seldom changes is taken from memory for signing. */
const KEEP_MS = 1000;

export interface S3Settings {
  bounds: Partial<S3Bounds>;
  /** Uploads that belong to no run are aborted when they are older. */
  sweepOlderThanMs: number;
}

export const s3Reach = (parts: BackupParts, settings: S3Settings) => {
  const { storage, runs, destinations, vault, audit, nodes, clock, log } = parts;
  const uploads = uploadsRepository(storage);
  const stores = destinationStores({ vault, clock, bounds: settings.bounds });
  const placeOf = async (run: RunRow) => {
    const place = await destinations.byId(run.destination_id);
    if (!place) throw unknownRun(run.id);
    return place;
  };
  const sealed = sealedCredentials({ stores, vault });
  const reading = readingService({
    runs,
    grants: grantsRepository(storage),
    stores,
    placeOf,
    sealed,
    nodes,
    clock,
    log,
  });
  const signing = requestSigning({
    runs,
    uploads,
    stores,
    placeOf,
    isGranted: reading.isGranted,
    audit,
    clock,
    keepMs: KEEP_MS,
  });
  const { beginning, changed } = signing;
  const service = uploadsService({ runs, uploads, stores, placeOf, audit, beginning, changed, clock, log });
  const probe: ProbeDestination = async (destination, credentials) => {
    if (destination.kind === 'file') return { at: isoTime(clock.now()), ok: true, conditional_writes: true, notes: [] };
    const store = stores.once(destination, credentials);
    try {
      return await probeStore(store, { clock, credentials });
    } catch (error) {
      if (!(error instanceof AegisError)) throw error;
      return { at: isoTime(clock.now()), ok: false, conditional_writes: false, notes: [error.message] };
    } finally {
      await store.close();
    }
  };
  return {
    access: accessByKind(s3Access({ stores, sealed, uploads: service, clock })),
    probe,
    stores,
    placeOf,
    signing,
    uploads: service,
    reading,
    verification: runVerification({ runs, stores, placeOf, nodes, serverKeyOf: parts.serverKeyOf, clock }),
    sweep: uploadSweep({
      runs,
      uploads,
      service,
      destinations,
      stores,
      clock,
      olderThanMs: settings.sweepOlderThanMs,
      log,
    }),
  };
};
export type S3Reach = ReturnType<typeof s3Reach>;
