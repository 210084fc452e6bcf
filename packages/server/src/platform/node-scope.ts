import type { RawBuilder } from 'kysely';

/** The part of the fleet that a call is about: the nodes within the scope of the token that came with it. What is beyond does not
 *  exist for the caller: it is in no list and no total, and to name it is to name what is unknown. */
export interface NodeScope {
  /** The selector, as the token's maker wrote it. */
  readonly text: string;
  includes(node: { readonly site: string | null; readonly labels: Readonly<Record<string, string>> }): boolean;
  /** In SQL: whether the node whose uid stands in this column is within, retired or not; false for null.
   *  @param uidColumn with its table */
  holds(uidColumn: string): RawBuilder<boolean>;
  /** In SQL: the same of a row of `nodes` itself. */
  readonly row: RawBuilder<boolean>;
}
/** Null: the whole fleet. */
export type Within = NodeScope | null;
