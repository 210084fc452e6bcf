import type { Executor } from './storage/statements.ts';

/** Something that happened, for whoever listens (the events domain keeps and tells it). */
export interface Told {
  /** One of protocol/events/event.ts. */
  type: string;
  /** Whom it is about; null: nobody who has a scope learns of it. */
  node: { uid: string; name: string } | null;
  /** What the type has beside these: no payload, no output, no secret. */
  data: Readonly<Record<string, unknown>>;
}
/** Part of the transaction that makes it so, after everything that it locks: told once that is durable, or never. */
export type Tell = (tx: Executor, told: readonly Told[]) => Promise<void>;
