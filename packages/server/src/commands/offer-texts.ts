import type { Envelope } from '@aegis/protocol/access/dsse';
import type { OfferedCommand } from '@aegis/protocol/commands/carrier';
import { type Addressee, type CommandText, runDirective, type Signer, targetsOf } from './directives.ts';
import type { DispatchRepository, DueRun } from './dispatch-repository.ts';

/** What offers of one command have in common: its text and, for up to COVERED nodes, one signed directive that names them all.
 *  Kept for a moment, since a command's nodes fetch it one soon after the other. Nothing of it ever changes: a directive that is
 *  made again, after it was dropped or by another process, is the same bytes. */

/** Signing costs more than naming so many nodes; for more of them, whom else a command goes to would outweigh the command. */
const COVERED = 64;
const KEPT = 512;
/** Larger payloads are read again for each offer. */
const KEPT_CHARS = 64 * 1024;

/** The key ids of nodes, retired ones included; null for those without. */
export type KeyIdsOf = (nodeUids: readonly string[]) => Promise<readonly (string | null)[]>;

interface OfferText {
  command: CommandText;
  payload: unknown;
  operators: OfferedCommand['operator_directive'] | null;
  /** Whoever has its key id here gets the shared directive. */
  covered: Promise<ReadonlySet<string>> | null;
  shared: Promise<OfferedCommand['directive']> | null;
  /** The key that signed it: once the server has another, that one signs. */
  sharedBy: string;
}

export const offerTexts = (on: {
  repository: Pick<DispatchRepository, 'commandTexts' | 'targetsOf'>;
  signer: Signer;
  keyIdsOf: KeyIdsOf;
}) => {
  const { repository, signer } = on;
  const kept = new Map<string, OfferText>();

  const textOf = (command: CommandText): OfferText => {
    const known = kept.get(command.id);
    if (known) return known;
    const text: OfferText = {
      command,
      payload: JSON.parse(command.payload),
      operators: command.operator_directive === null ? null : (JSON.parse(command.operator_directive) as Envelope), // as checked when it came
      covered: null,
      shared: null,
      sharedBy: '',
    };
    if (command.payload.length > KEPT_CHARS) return text;
    if (kept.size >= KEPT) kept.delete(kept.keys().next().value ?? '');
    kept.set(command.id, text);
    return text;
  };

  const coveredBy = async ({ command }: OfferText): Promise<ReadonlySet<string>> => {
    const nodes = Object.values(JSON.parse(command.result) as Record<string, number>).reduce((sum, n) => sum + n, 0);
    if (nodes < 2 || nodes > COVERED) return new Set();
    const keyIds = await on.keyIdsOf(await repository.targetsOf(command.id, COVERED));
    return new Set(keyIds.filter((keyId) => keyId !== null).sort());
  };

  const directiveFor = async (node: Addressee, text: OfferText): Promise<OfferedCommand['directive']> => {
    const { command, payload } = text;
    text.covered ??= coveredBy(text).catch((error: unknown) => {
      text.covered = null; // the next offer asks again
      throw error;
    });
    const covered = await text.covered;
    if (node.keyId === null || !covered.has(node.keyId)) return runDirective(signer, targetsOf(node), command, payload);
    const { keyId } = signer.key;
    if (text.sharedBy !== keyId) Object.assign(text, { shared: null, sharedBy: keyId });
    text.shared ??= runDirective(signer, { node_keys: [...covered] }, command, payload);
    return text.shared;
  };

  const offered = async (node: Addressee, run: DueRun, text: OfferText): Promise<OfferedCommand> => ({
    kind: 'command.run',
    command_id: run.command_id,
    execution_id: run.id,
    attempt: run.attempt,
    ...(node.keyId === null ? { command_type: text.command.command_type, payload: text.payload } : {}),
    directive: await directiveFor(node, text),
    ...(text.operators && node.keyId !== null ? { operator_directive: text.operators } : {}),
  });

  /** Runs whose command was deleted since (its retention ended) are left out. */
  return async (node: Addressee, runs: readonly DueRun[]): Promise<OfferedCommand[]> => {
    const texts = new Map<string, OfferText>();
    const missing = new Set<string>();
    for (const { command_id } of runs) {
      const known = kept.get(command_id);
      if (known) texts.set(command_id, known);
      else missing.add(command_id);
    }
    if (missing.size > 0)
      for (const command of await repository.commandTexts([...missing])) texts.set(command.id, textOf(command));
    return Promise.all(
      runs.flatMap((run) => {
        const text = texts.get(run.command_id);
        return text ? [offered(node, run, text)] : [];
      }),
    );
  };
};
