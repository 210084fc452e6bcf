import { randomUUID } from 'node:crypto';
import { AegisError, isErrorCode } from '@aegis/protocol/errors';
import type { Api } from '../api/client.ts';
import { routes } from '../api/routes.ts';
import { type CancelBodyOf, cancelQuietly } from '../api/submitting.ts';
import { exitStatus } from '../following/exit-status.ts';
import { interrupts } from '../following/interrupts.ts';
import { endText } from '../following/raw-sink.ts';
import { saidError } from '../following/said-error.ts';
import { followSession } from '../following/session.ts';
import type { Outcome } from '../following/sink.ts';
import { cancelBody, signedSubmission } from '../signing/directives.ts';
import { type KeyFlags, operatorSigner } from '../signing/operator-key.ts';
import type { Surroundings } from '../surroundings.ts';
import { ReaderGone } from '../ui/output.ts';
import { plainText } from '../ui/plain-text.ts';
import { byteCount } from '../ui/time.ts';

/** Reads maps, events and run times of one node by a command of its own (`artifacts.maps`, …), which the node's aegis carries out. Its stdout is handed on; what it says on stderr is its refusal, as JSON. Whoever stops listening cancels it: nothing goes on there. */

export interface RemoteRead {
  verb: 'artifacts.maps' | 'artifacts.events' | 'artifacts.measure';
  args: Readonly<Record<string, unknown>>;
  node: string;
  /** Which key signs it, where there is one. */
  flags: KeyFlags;
  /** What the reading may bring; more ends it. */
  mostBytes: number;
  out(bytes: Uint8Array): Promise<void>;
  say(text: string): Promise<void>;
}

const RECONNECT_FOR_MS = 600_000;
/** A short answer is not worth waiting for a node to come back. */
const TTL_SEC = 60;
/** What the server keeps of it: its head, which comes live, is at least half of that (daemon, commands/output-limit.ts). */
export const KEPT_BYTES = 1024 * 1024 * 1024;
const MAX_REFUSAL_CHARS = 64 * 1024;

/** @returns false when a person interrupted it
 *  @throws AegisError what the node said, or why it could not be asked */
export const readRemotely = async (api: Api, read: RemoteRead, around: Surroundings): Promise<boolean> => {
  const signer = await operatorSigner(api, read.flags, around);
  const asked = {
    verb: read.verb,
    args: read.args,
    targets: [read.node],
    ttl_sec: TTL_SEC,
    output_limit_bytes: KEPT_BYTES,
    idempotency_key: randomUUID(),
  };
  const answer = await api.call(routes.submitCommand, { body: await signedSubmission(signer, asked, around.now()) });
  const cancelling: CancelBodyOf = (of) => cancelBody(signer, of, undefined, around.now());
  const id = answer.command_id;
  const [target, other] = answer.targets;
  if (id === null || !target || other) {
    if (id !== null) await cancelQuietly(api, id, cancelling);
    throw new AegisError(
      'cli.usage',
      `--node takes one node, and '${read.node}' is ${answer.targets.length}: name it.`,
    );
  }
  const cancel = async () =>
    void (await api.call(routes.cancelCommand, { params: { id }, body: await cancelling(id) }));
  const stop = interrupts({ policy: 'cancel', ask: null, cancel, say: read.say });
  const full = new AbortController();
  let bytesRead = 0;
  let refusal = '';
  try {
    const outcome = await followSession(
      api,
      id,
      {
        chunk: async ({ stream, bytes }) => {
          if (stream === 'stdout') {
            await read.out(bytes);
            bytesRead += bytes.length;
            if (bytesRead >= read.mostBytes) full.abort();
          } else if (refusal.length < MAX_REFUSAL_CHARS) refusal += bytes.toString('utf8');
        },
        gap: async ({ gap }) => read.say(`${gap} bytes are missing here.`),
        state: async () => undefined,
        end: async () => undefined,
        close: async () => undefined,
      },
      {
        follow: true,
        signal: AbortSignal.any([stop.letGo, full.signal]),
        giveUpAfterMs: RECONNECT_FOR_MS,
        now: around.now,
        pause: around.pause,
        onOutage: (state) =>
          void read.say(state === 'lost' ? 'lost the server; trying to reach it again.' : 'the server is back.'),
      },
    );
    if (full.signal.aborted && !stop.interrupted) {
      await cancelQuietly(api, id, cancelling);
      throw tooMuch(read);
    }
    if (stop.interrupted || outcome === null) return false;
    refuse(outcome, refusal, read);
    return true;
  } catch (error) {
    if (error instanceof ReaderGone) await cancelQuietly(api, id, cancelling);
    throw error;
  } finally {
    stop.stop();
  }
};

const INSTEAD: Readonly<Record<RemoteRead['verb'], string>> = {
  'artifacts.maps': "choose a smaller --limit, or read it there with 'aegis daemon maps'",
  'artifacts.events': "start it again, or read it there with 'aegis daemon events'",
  'artifacts.measure': "measure one artifact, or do it there with 'aegis daemon attachments --measure'",
};

const tooMuch = ({ mostBytes, node, verb }: RemoteRead): AegisError =>
  new AegisError('http.too_large', `More than ${byteCount(mostBytes)} came from ${plainText(node)}: ${INSTEAD[verb]}.`);

/** @throws AegisError unless it succeeded */
const refuse = ({ executions }: Outcome, stderr: string, { node }: RemoteRead): void => {
  if (exitStatus(executions, false) === 0) return;
  const said = saidError(stderr);
  if (said) throw said;
  const [execution] = executions;
  const why = execution ? endText(execution) : null;
  const { code } = execution?.error ?? {};
  throw new AegisError(
    code !== undefined && isErrorCode(code) ? code : 'artifacts.not_here',
    why ??
      `${node} could not be asked (${stderr.trim().slice(0, 500) || 'it said nothing'}). See 'aegis nodes show ${node}'.`,
  );
};
