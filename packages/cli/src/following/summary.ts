import type { Execution } from '@aegis/protocol/commands/submission';
import { table } from '../ui/table.ts';
import { took } from '../ui/time.ts';
import type { Outcome } from './sink.ts';

/** The table that stands at the end of a command on several nodes. */
export const summary = ({ command, executions }: Outcome, now: number, width?: number): string => {
  const rows = executions.map((execution) => [
    execution.node,
    execution.state,
    exitText(execution),
    took(execution.started_at, execution.finished_at, now),
    execution.error?.message ?? (execution.attempt > 1 ? `attempt ${execution.attempt}` : ''),
  ]);
  const good = executions.filter(({ state }) => state === 'succeeded').length;
  const counts = `${good} of ${executions.length} succeeded. Output again: aegis logs ${command.command_id}`;
  return `${table(['NODE', 'STATE', 'EXIT', 'TIME', 'NOTE'], rows, width)}${counts}\n`;
};

export const exitText = ({ exit_code, signal }: Pick<Execution, 'exit_code' | 'signal'>): string =>
  exit_code !== null ? String(exit_code) : (signal ?? '');
