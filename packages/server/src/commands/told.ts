import type { Statement } from '../platform/storage/statements.ts';
import type { Told } from '../platform/told.ts';
import type { ExecutionRow } from './tables.ts';

/** What listeners learn of executions: each state that one takes on, in the transaction that stores it. */

/** Statements that make it told, to go with those that make it so. */
export type Tell = (told: readonly Told[]) => Statement[];

type Facts = Pick<ExecutionRow, 'id' | 'command_id' | 'node_uid' | 'node_name' | 'attempt' | 'state' | 'presumed'> &
  Partial<Pick<ExecutionRow, 'exit_code' | 'signal' | 'error_code' | 'error_message'>>;

export const toldOf = (row: Facts): Told => ({
  type: `execution.${row.state}`,
  node: { uid: row.node_uid, name: row.node_name },
  data: {
    execution_id: row.id,
    command_id: row.command_id,
    attempt: row.attempt,
    presumed: row.presumed === 1,
    exit_code: row.exit_code ?? null,
    signal: row.signal ?? null,
    error:
      row.error_code != null || row.error_message != null
        ? { code: row.error_code ?? '', message: (row.error_message ?? '').slice(0, MESSAGE_CHARS) }
        : null,
  },
});

const MESSAGE_CHARS = 2000;
