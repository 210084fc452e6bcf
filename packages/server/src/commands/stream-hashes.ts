import { createHash, type Hash } from 'node:crypto';
import type { Stream } from '@aegis/protocol/commands/carrier';

/** SHA-256 of what is stored of each stream, kept up as output comes in, so that a final report is checked without reading
 *  gigabytes back. Bounded; whoever was dropped is read back from storage once. */

const KEPT = 4096;

export interface StreamHashes {
  /** Call after the commit, in its order. An entry that does not end at `from` is dropped: it is made anew when needed. */
  add(executionId: string, stream: Stream, from: number, bytes: Uint8Array): void;
  put(executionId: string, stream: Stream, position: number, hash: Hash): void;
  /** Hex digest of the first `length` bytes followed by `more`; null when that prefix is not known here. */
  digest(executionId: string, stream: Stream, length: number, more: readonly Uint8Array[]): string | null;
  forget(executionId: string): void;
  size(): number;
}

export const streamHashes = (kept = KEPT): StreamHashes => {
  const entries = new Map<string, { position: number; hash: Hash }>();
  const keyOf = (executionId: string, stream: Stream) => `${executionId}:${stream}`;
  const put = (key: string, position: number, hash: Hash) => {
    entries.delete(key); // to the end: the first is the one longest unused
    if (entries.size >= kept) entries.delete(entries.keys().next().value ?? '');
    entries.set(key, { position, hash });
  };
  return {
    add: (executionId, stream, from, bytes) => {
      const key = keyOf(executionId, stream);
      const known = from === 0 ? { position: 0, hash: createHash('sha256') } : entries.get(key);
      if (known?.position !== from) {
        entries.delete(key);
        return;
      }
      put(key, from + bytes.length, known.hash.update(bytes));
    },
    put: (executionId, stream, position, hash) => put(keyOf(executionId, stream), position, hash),
    digest: (executionId, stream, length, more) => {
      const known = length === 0 ? undefined : entries.get(keyOf(executionId, stream));
      if (length > 0 && known?.position !== length) return null;
      const hash = known ? known.hash.copy() : createHash('sha256');
      for (const bytes of more) hash.update(bytes);
      return hash.digest('hex');
    },
    forget: (executionId) => {
      entries.delete(keyOf(executionId, 'stdout'));
      entries.delete(keyOf(executionId, 'stderr'));
    },
    size: () => entries.size,
  };
};
