import { AegisError, isErrorCode } from '@aegis/protocol/errors';

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null;

/** The refusal that a node's own `aegis --json` wrote to its stderr; null where there is none, only words for people. */
export const saidError = (stderr: string): AegisError | null => {
  for (const line of stderr.split('\n')) {
    try {
      const value: unknown = JSON.parse(line);
      const error = isRecord(value) && isRecord(value.error) ? value.error : {};
      if (typeof error.code === 'string' && isErrorCode(error.code) && typeof error.message === 'string')
        return new AegisError(error.code, error.message, { details: isRecord(error.details) ? error.details : {} });
    } catch {
      // a word for people
    }
  }
  return null;
};
