/** Where a tcx program goes among those of ours at the same hook. Others' programs keep their places: ours are ordered among
 *  themselves, and stand at the tail when they are the first. */

export interface TcxWish {
  artifact: string;
  program: string;
  /** Lower runs first. */
  priority: number;
  before?: string | undefined;
  after?: string | undefined;
}

export interface Neighbour {
  programId: number;
  artifact: string;
  program: string;
  priority: number;
  /** It stands where it does for an anchor's sake: priorities are not measured by it. */
  anchored: boolean;
}

export type TcxOrder = 'last' | { before: number } | { after: number };

/** @param ours the programs of ours at the hook, in the order in which they run
 *  An anchor (`artifact/program`, or `program` of the same artifact) that is not there yet is passed over. */
export const tcxPlace = (wish: TcxWish, ours: readonly Neighbour[]): TcxOrder => {
  const anchor = (text: string | undefined): Neighbour | undefined => {
    if (text === undefined) return undefined;
    const [artifact, program] = text.includes('/') ? text.split('/') : [wish.artifact, text];
    return ours.find((one) => one.artifact === artifact && one.program === program);
  };
  const before = anchor(wish.before);
  if (before) return { before: before.programId };
  const after = anchor(wish.after);
  if (after) return { after: after.programId };
  const ranked = ours.filter(({ anchored }) => !anchored);
  const follower = ranked.find(({ priority }) => priority > wish.priority);
  if (follower) return { before: follower.programId };
  const last = ranked.at(-1) ?? ours.at(-1);
  return last ? { after: last.programId } : 'last';
};
