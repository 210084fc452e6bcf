import { AegisError, type ErrorDetails } from '@aegis/protocol/errors';

/** The sentences of a restore that more than one file says. */

export const badArchive = (reason: string, fault: string, details: ErrorDetails = {}): AegisError =>
  new AegisError('backups.bad_archive', `The backup's archive is damaged or was altered: ${fault}.`, {
    details: { reason, ...details },
  });

export const badManifest = (reason: string, fault: string, details: ErrorDetails = {}): AegisError =>
  new AegisError('backups.bad_manifest', `The backup's manifest is refused: ${fault}.`, {
    details: { reason, ...details },
  });

/** @throws AegisError backups.cancelled */
export const throwIfCancelled = (signal: AbortSignal | undefined): void => {
  if (signal?.aborted)
    throw new AegisError('backups.cancelled', 'It was cancelled. What was restored so far is whole and stays.');
};
