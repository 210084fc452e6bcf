import type { Run } from '@aegis/protocol/backups/run';
import { AegisError } from '@aegis/protocol/errors';
import { isUuid } from '@aegis/protocol/ids';
import type { Api } from '../api/client.ts';
import { routes } from '../api/routes.ts';
import { plainText } from '../ui/plain-text.ts';

/** A run as people name it: its id, the beginning of one, `latest:CONFIG` or `latest:CONFIG@NODE`. */

export const RUN = "A run's id, its beginning as 'list' shows it, latest:CONFIG or latest:CONFIG@NODE";
const NEWEST = 1000;
const BEGINNING = /^[0-9a-f-]{8,35}$/;
/** Ids of one millisecond are the same up to here. */
const SHORTEST = 13;

/** @throws AegisError cli.usage, backups.unknown_run */
export const runNamed = async (api: Api, text: string): Promise<Run> => {
  if (isUuid(text) || text.startsWith('latest:')) return await api.call(routes.showRun, { params: { id: text } });
  const beginning = text.toLowerCase();
  if (!BEGINNING.test(beginning))
    throw new AegisError(
      'cli.usage',
      `'${plainText(text)}' names no run. Give an id as 'aegis backups list' shows it, latest:CONFIG or latest:CONFIG@NODE.`,
    );
  const { items } = await api.call(routes.listRuns, { query: { limit: NEWEST } });
  const [only, ...others] = items.filter(({ run_id }) => run_id.startsWith(beginning));
  if (only === undefined)
    throw new AegisError(
      'backups.unknown_run',
      `None of the newest ${NEWEST} runs has an id that begins with '${plainText(text)}'. See 'aegis backups list'.`,
    );
  if (others.length === 0) return only;
  throw new AegisError(
    'cli.usage',
    `${others.length + 1} of the newest runs have an id that begins with '${plainText(text)}': give more of it.`,
  );
};

/** Ids cut as short as they stay apart. */
export const shortIds = (ids: readonly string[]): ((id: string) => string) => {
  let length = SHORTEST;
  while (length < 36 && new Set(ids.map((id) => id.slice(0, length))).size < ids.length) length++;
  return (id) => id.slice(0, length).replace(/-$/, '');
};
