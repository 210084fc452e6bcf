import {
  type CommandState,
  commandStateOf,
  type ExecutionState,
  type FinalState,
  isFinal,
  isFinalCommand,
  mayRetry,
  type Standing,
} from '@aegis/protocol/commands/state';
import type { Told } from '../platform/told.ts';
import { backoffMs, nextAttemptId } from './attempts.ts';
import type { CommandRow, ExecutionRow, LiveCommand, LiveExecution } from './tables.ts';
import { toldOf } from './told.ts';

/** What one transaction does to executions, and everything that follows from it: a retry, the commands' counts and states, the
 *  depth of the nodes' queues, and whom to wake afterwards. Pure: rows in, rows out. Every writer goes through it, so counts
 *  cannot drift from rows: they are taken from the difference between each row before and after. */

export interface ChangeRules {
  now: number;
  random: () => number;
  retentionMs: number;
}

export interface Changed<R> {
  id: string;
  before: R;
  after: R;
}
export interface Outcome {
  changed: Changed<LiveExecution>[];
  created: ExecutionRow[];
  commands: Changed<LiveCommand>[];
  /** Node uid → by how much its queue grew. */
  queued: Map<string, number>;
  topics: string[];
  /** Every state that an execution took on, in their order. */
  told: Told[];
}

/** Whether the node may hold it: then what the server decides alone is only presumed. */
export const wasOffered = (row: Pick<ExecutionRow, 'offered_at' | 'delivered_at'>): boolean =>
  row.offered_at !== null || row.delivered_at !== null;

/** How long after something came back from presumed final the loop looks at its command again. */
const RECHECK_MS = 60_000;

export const NODE_TOPICS = 'node';
export const nodeTopic = (uid: string): string => `${NODE_TOPICS}:${uid}`;
export const roomTopic = (uid: string): string => `node-room:${uid}`;
/** An execution's output or state. */
export const outputTopic = (executionId: string): string => `output:${executionId}`;
/** A command's state, or another attempt of it. */
export const commandTopic = (commandId: string): string => `command:${commandId}`;

export const standingOf = (row: Pick<ExecutionRow, 'state' | 'presumed'>): Standing => ({
  state: row.state,
  presumed: row.presumed === 1,
});
const holdsPlace = (state: string): boolean => state === 'delivered' || state === 'running';

export class Changes {
  readonly #rules: ChangeRules;
  readonly #commands: Map<string, { before: LiveCommand; after: LiveCommand }>;
  readonly #rows: Map<string, LiveExecution>;
  readonly #before: Map<string, LiveExecution>;
  readonly #touched = new Set<LiveExecution>();
  readonly #created: ExecutionRow[] = [];
  readonly #topics = new Set<string>();
  readonly #told: Told[] = [];

  constructor(executions: readonly LiveExecution[], commands: readonly LiveCommand[], rules: ChangeRules) {
    this.#rules = rules;
    this.#commands = new Map(commands.map((command) => [command.id, { before: command, after: { ...command } }]));
    this.#rows = new Map(executions.map((row) => [row.id, { ...row }]));
    this.#before = new Map(executions.map((row) => [row.id, row]));
  }

  get now(): number {
    return this.#rules.now;
  }

  /** The row as it stands now; change its fields only together with `touch` or `settle`. */
  execution(id: string): LiveExecution | undefined {
    return this.#rows.get(id);
  }

  executions(): Iterable<LiveExecution> {
    return this.#rows.values();
  }

  commandOf(row: LiveExecution): LiveCommand {
    const command = this.#commands.get(row.command_id)?.after;
    if (!command) throw new Error(`the command ${row.command_id} of execution ${row.id} was not loaded`);
    return command;
  }

  touch(row: LiveExecution): void {
    this.#touched.add(row);
  }

  wakeNode(uid: string): void {
    this.#topics.add(nodeTopic(uid));
  }

  /** What an event says of it (exit code, error) is set before. */
  settle(row: LiveExecution, standing: Standing): void {
    const isNew = row.state !== standing.state || (row.presumed === 1) !== standing.presumed;
    row.state = standing.state;
    row.presumed = standing.presumed ? 1 : 0;
    if (isNew) this.#told.push(toldOf(row));
    if (standing.state !== 'queued' && !standing.presumed && standing.state !== 'expired')
      row.delivered_at ??= this.now;
    if (isFinal(standing.state)) {
      row.finished_at ??= this.now;
      if (!standing.presumed) row.cancel_due_at = null; // nothing left to cancel
    } else {
      row.finished_at = null;
    }
    this.touch(row);
  }

  /** Makes the next attempt when the ended one may have one and it can still start before the command expires. */
  retryIfAllowed(row: LiveExecution, ended: FinalState): void {
    const command = this.commandOf(row);
    if (row.newest === 0 || row.cancel_id !== null) return;
    if (!mayRetry(ended, row.attempt, { maxRetries: command.max_retries, delivery: command.delivery })) return;
    const due = this.now + backoffMs(command.retry_backoff_ms, row.attempt, this.#rules.random);
    if (due >= row.expires_at) return;
    row.newest = 0;
    this.touch(row);
    command.retry_count += 1;
    const next = newExecution({
      id: nextAttemptId(row.id),
      command,
      node: { uid: row.node_uid, name: row.node_name },
      attempt: row.attempt + 1,
      notBefore: due,
      now: this.now,
    });
    this.#created.push(next);
    this.#told.push(toldOf(next));
    this.#topics.add(nodeTopic(row.node_uid)).add(commandTopic(row.command_id));
  }

  /** @throws RangeError when there are executions whose command was not loaded */
  outcome(): Outcome {
    const counts = new Map<string, Map<string, number>>();
    const queued = new Map<string, number>();
    const count = (commandId: string, state: string, by: number) => {
      const of = counts.get(commandId) ?? new Map<string, number>();
      counts.set(commandId, of.set(state, (of.get(state) ?? 0) + by));
    };
    const queue = (uid: string, by: number) => queued.set(uid, (queued.get(uid) ?? 0) + by);
    const changed: Changed<LiveExecution>[] = [];
    for (const row of this.#touched) {
      const before = this.#before.get(row.id);
      if (!before) throw new RangeError(`the execution ${row.id} was not loaded`);
      changed.push({ id: row.id, before, after: row });
      const executedAt = row.started_at ?? row.delivered_at;
      if (executedAt !== null) this.commandOf(row).executed_at ??= executedAt;
      this.#topics.add(outputTopic(row.id));
      if (before.state === row.state && before.newest === row.newest) continue;
      if (before.newest === 1) count(row.command_id, before.state, -1);
      if (row.newest === 1) count(row.command_id, row.state, 1);
      if (before.state === 'queued') queue(row.node_uid, -1);
      if (row.state === 'queued') queue(row.node_uid, 1);
      if (holdsPlace(before.state) && !holdsPlace(row.state)) this.#topics.add(roomTopic(row.node_uid));
    }
    for (const row of this.#created) {
      count(row.command_id, row.state, 1);
      queue(row.node_uid, 1);
    }
    for (const [uid, by] of queued) if (by === 0) queued.delete(uid);
    for (const [id, of] of counts) this.#recount(id, of);
    return {
      changed,
      created: this.#created,
      commands: [...this.#commands].map(([id, command]) => ({ id, ...command })),
      queued,
      topics: [...this.#topics],
      told: this.#told,
    };
  }

  #recount(id: string, differences: ReadonlyMap<string, number>): void {
    const command = this.#commands.get(id)?.after;
    if (!command) throw new RangeError(`the command ${id} was not loaded`);
    const result = JSON.parse(command.result) as Record<string, number>;
    for (const [state, by] of differences) {
      const now = (result[state] ?? 0) + by;
      if (now === 0) delete result[state];
      else result[state] = now;
    }
    command.result = JSON.stringify(result);
    this.#newState(command, commandStateOf(Object.keys(result) as ExecutionState[]));
  }

  #newState(command: LiveCommand, state: CommandState): void {
    if (state === command.state) return;
    if (isFinalCommand(state)) {
      command.completed_at = this.now;
      command.check_at = this.now + this.#rules.retentionMs;
    } else if (command.completed_at !== null) {
      command.completed_at = null;
      command.check_at = this.now + RECHECK_MS;
    }
    command.state = state;
    if (state === 'succeeded') command.error_message = null;
    this.#topics.add(commandTopic(command.id));
  }
}

export const newExecution = (of: {
  id: string;
  command: Pick<CommandRow, 'id' | 'priority' | 'expires_at' | 'scheduled_at'>;
  node: { uid: string; name: string };
  attempt: number;
  /** The end of a backoff; else the command's own schedule counts. */
  notBefore: number | null;
  now: number;
}): ExecutionRow => {
  const notBefore = of.notBefore ?? of.command.scheduled_at;
  return {
    id: of.id,
    command_id: of.command.id,
    node_uid: of.node.uid,
    node_name: of.node.name,
    attempt: of.attempt,
    newest: 1,
    priority: of.command.priority,
    state: 'queued',
    presumed: 0,
    due_at: notBefore ?? of.now,
    not_before: notBefore,
    expires_at: of.command.expires_at,
    offered_at: null,
    cancel_id: null,
    cancel_at: null,
    cancel_offered_at: null,
    cancel_due_at: null,
    created_at: of.now,
    delivered_at: null,
    started_at: null,
    finished_at: null,
    heard_at: of.now,
    exit_code: null,
    signal: null,
    error_code: null,
    error_message: null,
    usage: null,
    tree_empty: null,
    report_signed: 0,
    output_verified: null,
    stdout_next: 0,
    stdout_missing: 0,
    stdout_bytes: null,
    stdout_sha256: null,
    stderr_next: 0,
    stderr_missing: 0,
    stderr_bytes: null,
    stderr_sha256: null,
  };
};
