import type { Destination } from '@aegis/protocol/backups/config';
import type { RunObject } from '@aegis/protocol/backups/run';
import type { Place } from './destinations-repository.ts';
import type { RunRow } from './tables.ts';

/** What runs need of the way to their destination. The s3 folder makes one; a folder on the node's own disk needs none. */
export interface RunAccess {
  /** For the answer to a start. */
  grant(
    run: RunRow,
    place: Place,
    node: { uid: string; sealingKey: Buffer | null },
  ): Promise<{ sealed_credentials: string | null; conditional_writes: boolean }>;
  /** Whether the objects of the run's attempt lie there whole: of these lengths, and of this content where it is known.
   *  @returns what is wrong, as a sentence, or null */
  check(
    run: RunRow,
    place: Place,
    objects: ReadonlyMap<RunObject, { bytes: number; content?: Buffer }>,
  ): Promise<string | null>;
  /** An attempt is over: another one began, it was cancelled, failed or is lost. What it left half-way may go. Must not throw. */
  attemptOver(run: RunRow, attempt: number): void;
}

/** Nothing of ours stands between a node and its own folders. */
export const folderAccess: RunAccess = {
  grant: async () => ({ sealed_credentials: null, conditional_writes: true }),
  check: async () => null,
  attemptOver: () => undefined,
};

export const accessByKind = (s3: RunAccess): RunAccess => {
  const of = ({ kind }: Destination): RunAccess => (kind === 's3' ? s3 : folderAccess);
  return {
    grant: (run, place, node) => of(place.destination).grant(run, place, node),
    check: (run, place, objects) => of(place.destination).check(run, place, objects),
    attemptOver: s3.attemptOver, // it knows by its uploads whether there is anything to do
  };
};
