import type { Generated } from 'kysely';

/** Rows of the events domain. Times are milliseconds since 1970. */
export interface EventsTables {
  events: {
    /** Rises with the commits, see repository.ts. */
    id: Generated<number>;
    at: number;
    type: string;
    node_uid: string | null;
    node_name: string | null;
    /** JSON object: what the type has beside these. */
    data: string;
  };
  /** One row: up to which id events were removed. Whoever removes holds it locked. */
  events_floor: { id: number; removed_through: number };
  /** Now and then the newest id, and how many there have been up to it: what retention counts by. */
  events_marks: { id: number; at: number; total: number };
  events_presence: { node_uid: string; carrier: 'ws' | 'poll' | null; session: string };
}
export type EventRow = {
  id: number;
  at: number;
  type: string;
  node_uid: string | null;
  node_name: string | null;
  data: string;
};
