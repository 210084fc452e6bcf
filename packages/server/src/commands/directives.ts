import { type Directive, MAX_LIFETIME_MS, signDirectiveInPool } from '@aegis/protocol/access/directive';
import type { Envelope } from '@aegis/protocol/access/dsse';
import type { KeyPair } from '@aegis/protocol/access/keys';
import type { CancelBody, RunBody } from '@aegis/protocol/commands/carrier';
import { maxAttempts } from '@aegis/protocol/commands/state';
import { isoTime } from '../platform/clock.ts';
import { priorityNamed } from './priorities.ts';
import type { CommandRow, ExecutionRow } from './tables.ts';

/** The signed directives that an offer carries. Ed25519 is deterministic and every field comes from the database, so an offer
 *  that is repeated, by whichever process, is the same bytes. */

export interface Signer {
  fleet: string;
  key: KeyPair;
}
export interface Addressee {
  name: string;
  /** Null for a keyless poller: its directive names it by selector, which no daemon with a key obeys. */
  keyId: string | null;
}
export type CommandText = Pick<
  CommandRow,
  | 'id'
  | 'command_type'
  | 'payload'
  | 'priority'
  | 'delivery'
  | 'max_retries'
  | 'output_limit_bytes'
  | 'created_at'
  | 'scheduled_at'
  | 'expires_at'
  | 'result'
  | 'operator_directive'
>;

/** The nodes that one signature covers. */
export type Covered = Directive['targets'];

export const targetsOf = ({ name, keyId }: Addressee): Covered =>
  keyId === null ? { selector: `name=${name}` } : { node_keys: [keyId] };

export const runDirective = (
  signer: Signer,
  targets: Covered,
  command: CommandText,
  payload: unknown,
): Promise<Envelope> => {
  const body: RunBody = {
    command_type: command.command_type,
    payload,
    priority: priorityNamed(command.priority),
    delivery: command.delivery,
    output_limit_bytes: command.output_limit_bytes,
  };
  return signDirectiveInPool(
    {
      fleet: signer.fleet,
      id: command.id,
      kind: 'command.run',
      targets,
      issued_at: isoTime(command.created_at),
      ...(command.scheduled_at === null ? {} : { not_before: isoTime(command.scheduled_at) }),
      expires_at: isoTime(command.expires_at),
      max_attempts: maxAttempts({ maxRetries: command.max_retries, delivery: command.delivery }),
      body,
    },
    signer.key,
  );
};

export const cancelDirective = (
  signer: Signer,
  node: Addressee,
  execution: Pick<ExecutionRow, 'command_id'> & { cancel_id: string; cancel_at: number },
): Promise<Envelope> => {
  const body: CancelBody = { command_id: execution.command_id };
  return signDirectiveInPool(
    {
      fleet: signer.fleet,
      id: execution.cancel_id,
      kind: 'command.cancel',
      targets: targetsOf(node),
      issued_at: isoTime(execution.cancel_at),
      expires_at: isoTime(execution.cancel_at + MAX_LIFETIME_MS),
      max_attempts: 1,
      body,
    },
    signer.key,
  );
};
