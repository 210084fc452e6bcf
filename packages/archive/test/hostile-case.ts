import type { ErrorCode } from '@aegis/protocol/errors';

/** A bundle that no reader takes, and how it is refused. */
export interface HostileCase {
  name: string;
  bytes: () => Buffer;
  code: Extract<ErrorCode, `artifacts.${string}`>;
  /** `details.reason`. */
  reason: string;
  /** The whole sentence. */
  says: string;
}
