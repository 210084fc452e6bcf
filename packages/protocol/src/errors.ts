/** errors: every error code that Aegis shows, with its HTTP status and the CLI's exit code in one table.
 *  A code is `domain.snake_case` and stable: scripts match on it. `message` is a public sentence that says what to do next;
 *  `cause` stays inside and goes to the log only. */

const TABLE = {
  'http.malformed': [400, 2],
  'http.unsupported_media_type': [415, 2],
  'http.not_found': [404, 1],
  'http.method_not_allowed': [405, 1],
  'http.too_large': [413, 1],
  'http.rate_limited': [429, 1],
  'http.unavailable': [503, 251],
  'http.internal': [500, 254],
  'http.bad_cursor': [400, 2],
  'config.invalid': [422, 2],
  'access.unauthenticated': [401, 252],
  'access.forbidden': [403, 252],
  'access.bad_signature': [403, 252],
  'access.untrusted': [403, 252],
  'access.bad_directive': [403, 252],
  'access.wrong_target': [403, 252],
  'access.stale_directive': [403, 252],
  'access.policy': [403, 252],
  'access.unknown_token': [404, 1],
  'nodes.unknown_node': [404, 1],
  'nodes.name_taken': [409, 1],
  'nodes.bad_join_token': [401, 252],
  'nodes.bad_proof': [403, 252],
  'nodes.registration_expired': [409, 1],
  'nodes.unknown_registration': [404, 1],
  'nodes.keyless_disabled': [403, 252],
  'nodes.clock_skew': [403, 252],
  'nodes.retired': [403, 252],
  'nodes.deactivated': [403, 252],
  'nodes.already_enrolled': [409, 1],
  'nodes.not_enrolled': [409, 1],
  'commands.unknown_command': [404, 1],
  'commands.unknown_execution': [404, 1],
  'commands.unknown_target': [422, 2],
  'commands.no_target': [422, 251],
  'commands.bad_selector': [422, 2],
  'commands.invalid_payload': [422, 2],
  'commands.unsupported_type': [422, 2],
  'commands.idempotency_conflict': [409, 1],
  'commands.not_cancellable': [409, 1],
  'commands.not_retryable': [409, 1],
  'commands.offset_ahead': [409, 254],
  'commands.output_incomplete': [409, 254],
  'commands.output_limit': [422, 2],
  'commands.queue_full': [503, 251],
  'commands.report_mismatch': [422, 254],
  'commands.expired': [409, 251],
  'commands.lost': [409, 253],
  'commands.start_failed': [500, 254],
  'access.unknown_key': [404, 1],
  'access.bad_key': [422, 2],
  'access.bad_scope': [422, 2],
  'access.beyond_scope': [403, 252],
  'access.key_conflict': [409, 1],
  'access.root_key_absent': [409, 1],
  'access.bad_root': [422, 2],
  'access.bad_trust_bundle': [409, 252],
  'access.bad_password': [403, 252],
  'channel.bad_handshake': [403, 252],
  'channel.unsupported_version': [422, 252],
  'channel.bad_frame': [400, 254],
  'channel.bad_sequence': [400, 254],
  'channel.bad_seal': [403, 252],
  'channel.bad_signature': [403, 252],
  'channel.no_handler': [422, 1],
  'messages.queue_full': [503, 251],
  'messages.reserved_channel': [422, 2],
  'messages.unknown_message': [404, 1],
  'messages.expired': [409, 251],
  'messages.no_answer': [409, 253],
  'messages.bad_answer': [422, 1],
  'messages.hook_failed': [422, 1],
  'messages.unreadable': [422, 1],
  'artifacts.unknown_artifact': [404, 1],
  'artifacts.unknown_host': [404, 1],
  'artifacts.unknown_target': [422, 2],
  'artifacts.not_assigned': [404, 1],
  'artifacts.assigned': [409, 1],
  'artifacts.version_taken': [409, 1],
  'artifacts.field_mismatch': [422, 2],
  'artifacts.bad_manifest': [422, 2],
  'artifacts.bad_bundle': [422, 2],
  'artifacts.bundle_limit': [413, 2],
  'artifacts.bad_object': [422, 2],
  'artifacts.bad_constant': [422, 2],
  'artifacts.unknown_constant': [422, 2],
  'artifacts.not_settable': [422, 2],
  'artifacts.unsigned': [422, 252],
  'artifacts.bad_signature': [403, 252],
  'artifacts.unknown_signer': [403, 252],
  'artifacts.revoked_signer': [403, 252],
  'artifacts.digest_mismatch': [422, 1],
  'artifacts.stale_generation': [409, 1],
  'artifacts.generation_conflict': [409, 1],
  'artifacts.wrong_architecture': [422, 1],
  'artifacts.kernel_range': [422, 1],
  'artifacts.missing_feature': [422, 1],
  'artifacts.load_failed': [422, 1],
  'artifacts.attach_failed': [422, 1],
  'artifacts.hook_busy': [409, 1],
  'artifacts.vault_failed': [503, 1],
  'artifacts.unsupported': [422, 1],
  'artifacts.storage_full': [503, 1],
  'artifacts.limit': [409, 1],
  'artifacts.not_here': [404, 1],
  'backups.unknown_config': [404, 1],
  'backups.unknown_run': [404, 1],
  'backups.unknown_object': [404, 1],
  'backups.unknown_target': [422, 2],
  'backups.name_taken': [409, 1],
  'backups.conflict': [409, 1],
  'backups.bad_config': [422, 2],
  'backups.bad_destination': [422, 1],
  'backups.not_assigned': [403, 252],
  'backups.run_ended': [409, 1],
  'backups.run_conflict': [409, 1],
  'backups.sign_refused': [403, 252],
  'backups.upload_mismatch': [422, 1],
  'backups.destination_failed': [503, 1],
  'backups.destination_full': [503, 1],
  'backups.storage_full': [503, 1],
  'backups.limit': [413, 1],
  'backups.timeout': [504, 1],
  'backups.cancelled': [409, 1],
  'backups.busy': [409, 1],
  'backups.no_source': [422, 1],
  'backups.hook_failed': [422, 1],
  'backups.lost': [409, 1],
  'backups.agent_failed': [422, 1],
  'backups.untrusted_node': [403, 252],
  'backups.bad_statement': [422, 1],
  'backups.bad_manifest': [422, 1],
  'backups.bad_archive': [422, 1],
  'backups.bad_recipient': [422, 2],
  'backups.bad_identity': [422, 2],
  'backups.wrong_identity': [403, 1],
  'backups.unsafe_target': [422, 1],
  'backups.restore_incomplete': [422, 1],
  'backups.stale_generation': [409, 1],
  'backups.generation_conflict': [409, 1],
  'backups.unsupported': [422, 1],
  'backups.locked': [409, 1],
  'backups.no_link': [409, 1],
  'journal.full': [503, 251],
  'journal.failed': [500, 254],
  'cli.usage': [400, 2],
  'cli.unreachable': [503, 251],
  'cli.interrupted': [500, 130],
} as const satisfies Record<string, readonly [status: number, exit: number]>;

export type ErrorCode = keyof typeof TABLE;
export const ERROR_CODES = Object.keys(TABLE) as ErrorCode[];
export const isErrorCode = (text: string): text is ErrorCode => Object.hasOwn(TABLE, text);
export const httpStatusOf = (code: ErrorCode): number => TABLE[code][0];
export const exitCodeOf = (code: ErrorCode): number => TABLE[code][1];
/** Of everything but `submit`, which passes the remote command's own code on: only 1, 2 and 130. */
export const plainExitCodeOf = (code: ErrorCode): number => {
  const exit = exitCodeOf(code);
  return exit === 2 || exit === 130 ? exit : 1;
};

export type ErrorDetails = Readonly<Record<string, unknown>>;

const BRAND = Symbol.for('aegis.error');

export class AegisError extends Error {
  override readonly name = 'AegisError';
  readonly [BRAND] = true;
  readonly code: ErrorCode;
  readonly details: ErrorDetails;
  /** Seconds after which trying again may help; sent as Retry-After. */
  readonly retryAfterSec: number | undefined;

  constructor(
    code: ErrorCode,
    message: string,
    more: { details?: ErrorDetails; cause?: unknown; retryAfterSec?: number } = {},
  ) {
    super(message, more.cause === undefined ? undefined : { cause: more.cause });
    this.code = code;
    this.details = more.details ?? {};
    this.retryAfterSec = more.retryAfterSec;
  }

  /** By brand: the CLI's bundles each have a copy of this class, and an error thrown in one is caught in another. */
  static override [Symbol.hasInstance](value: unknown): value is AegisError {
    return typeof value === 'object' && value !== null && BRAND in value;
  }
}

/** The body of every error answer, on every door. */
export interface ErrorBody {
  error: { code: ErrorCode; message: string; details: ErrorDetails };
  request_id: string;
}

/** The message stays one line of bounded length that a terminal can show, also where it repeats a name that a caller made up. */
export const errorBody = (error: AegisError, requestId: string): ErrorBody => ({
  error: { code: error.code, message: oneLine(error.message), details: error.details },
  request_id: requestId,
});

const MAX_MESSAGE = 1500;
const oneLine = (text: string): string =>
  (text.length > MAX_MESSAGE ? `${text.slice(0, MAX_MESSAGE).toWellFormed()}…` : text).replaceAll(
    /\p{Cc}/gu,
    '\u{fffd}',
  );
