import type { Attachment } from '@aegis/bpf-loader/attach';

/** Sockets with filters: the only attachments that this process itself holds. They end with it and are made again at its start. */

export interface HeldSocket {
  attachment: Attachment;
  programId: number;
}
/** By the path that a link of theirs would have. */
export type HeldSockets = Map<string, HeldSocket>;

export const closeSocket = (sockets: HeldSockets, path: string): void => {
  sockets.get(path)?.attachment[Symbol.dispose]();
  sockets.delete(path);
};
