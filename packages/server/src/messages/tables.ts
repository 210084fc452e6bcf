import type { MessageType } from '@aegis/protocol/channel/messages';
import type { ErrorCode } from '@aegis/protocol/errors';
import type { MessageState } from '@aegis/protocol/messages/message';

/** Rows of the messages domain. Times are milliseconds since 1970. */
export interface MessagesTables {
  /** One for each node that a message is for: a broadcast's have one id. */
  message_queue: {
    /** UUIDv7, by which a channel's messages are in order. */
    id: string;
    /** The node's uid. */
    agent_id: string;
    /** What people know it by. */
    agent_name: string;
    channel: string;
    message_type: MessageType;
    /** base64(ciphertext | tag) of the message; the columns above and `expires_at` are its associated data. */
    encrypted_payload: string;
    nonce: string;
    status: MessageState;
    /** How often it was given to the node again because no answer came. */
    retry_count: number;
    max_retries: number;
    created_at: number;
    /** Null while it may still be given to the node, or answered. */
    processed_at: number | null;
    expires_at: number;
    error_code: ErrorCode | null;
    /** What the node answered, or why it failed: encrypted as the message is. */
    encrypted_outcome: string | null;
    outcome_nonce: string | null;
  };
}
