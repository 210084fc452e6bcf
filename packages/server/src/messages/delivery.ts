import type { AegisError } from '@aegis/protocol/errors';
import type { GivenMessage } from '@aegis/protocol/messages/message';
import type { Bus } from '../platform/bus.ts';
import { type Clock, isoTime } from '../platform/clock.ts';
import type { MessageRow, MessagesRepository } from './repository.ts';
import type { MessageVault } from './vault.ts';
import { type Ending, endedBy, verdictOf } from './verdict.ts';

/** One message from the queue to its node and back, whichever way it goes: noted as sent before it goes, ended by what the node answers. */

/** Something waits for the node, or did. */
export const queueTopic = (agentId: string): string => `messages:${agentId}`;
/** What became of a message. */
export const messageTopic = (id: string): string => `message:${id}`;

export type Given = MessageRow & { given: GivenMessage };

export const delivery = (on: { repository: MessagesRepository; vault: MessageVault; bus: Bus; clock: Clock }) => {
  const { repository, vault, bus, clock } = on;
  const finish = async (row: MessageRow, ending: Ending): Promise<void> => {
    const sealed = ending.outcome === null ? null : vault.seal('outcome', row, ending.outcome);
    await repository.finish(row, { ...ending, sealed }, clock.now());
    bus.publish(messageTopic(row.id));
  };
  return {
    finish,
    /** Null when it is not to be given: it has ended. */
    claim: async (head: MessageRow): Promise<Given | null> => {
      const row = await repository.claim(head.agent_id, head.id, clock.now());
      bus.publish(messageTopic(head.id));
      if (!row) return null;
      try {
        const message = vault.open('message', row, { text: row.encrypted_payload, nonce: row.nonce });
        return {
          ...row,
          given: {
            message_id: row.id,
            message_type: row.message_type,
            message: message as GivenMessage['message'],
            expires_at: isoTime(row.expires_at),
          },
        };
      } catch {
        await finish(row, endedBy('failed', 'messages.unreadable'));
        return null;
      }
    },
    /** What the node said to it. @returns null when it has ended, else when to try again */
    answered: async (
      row: MessageRow,
      answer: { result: unknown } | { error: AegisError },
    ): Promise<{ againInMs: number | null } | null> => {
      const verdict = verdictOf(answer);
      if ('end' in verdict) {
        await finish(row, verdict.end);
        return null;
      }
      await repository.putBack(row);
      bus.publish(messageTopic(row.id));
      return verdict;
    },
  };
};
export type Delivery = ReturnType<typeof delivery>;
