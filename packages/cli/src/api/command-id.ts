import { AegisError } from '@aegis/protocol/errors';
import { isUuid } from '@aegis/protocol/ids';
import type { Api } from './client.ts';
import { routes } from './routes.ts';

/** A command id as people type it: whole, or its beginning, which is looked for among the newest commands. */

const NEWEST = 1000;
const BEGINNING = /^[0-9a-f-]{8,35}$/;

/** @throws AegisError cli.usage, commands.unknown_command */
export const commandIdOf = async (api: Api, text: string): Promise<string> => {
  if (isUuid(text)) return text;
  const beginning = text.toLowerCase();
  if (!BEGINNING.test(beginning))
    throw new AegisError(
      'cli.usage',
      `'${text}' is not a command id. Give one as 'aegis commands list' shows it, or its first 8 characters at least.`,
    );
  const { items } = await api.call(routes.listCommands, { query: { limit: NEWEST } });
  const [only, ...others] = items.map((command) => command.command_id).filter((id) => id.startsWith(beginning));
  if (only === undefined)
    throw new AegisError(
      'commands.unknown_command',
      `None of the newest ${NEWEST} commands has an id that begins with '${text}'. See 'aegis commands list'.`,
    );
  if (others.length === 0) return only;
  throw new AegisError(
    'cli.usage',
    `${others.length + 1} of the newest commands have an id that begins with '${text}': give more of it.`,
  );
};
