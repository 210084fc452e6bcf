import { Priority, priorityRank } from '@aegis/protocol/commands/submission';

const BY_RANK = new Map(Priority.options.map((name) => [priorityRank(name), name]));

/** The word for a stored rank. @throws RangeError for a rank that there is not */
export const priorityNamed = (rank: number): Priority => {
  const name = BY_RANK.get(rank);
  if (!name) throw new RangeError(`no priority has the rank ${rank}`);
  return name;
};
