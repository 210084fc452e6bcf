import { AegisError, exitCodeOf, plainExitCodeOf } from '@aegis/protocol/errors';
import { findCommand } from './command-table.ts';
import { aegisConfig, loadCommand } from './oclif.ts';
import { pause, type Surroundings } from './surroundings.ts';
import { ReaderGone, standardOutput } from './ui/output.ts';
import { plainText } from './ui/plain-text.ts';
import { unknownCommand, usageOf } from './usage-errors.ts';

/** The process of every command but the version: finds it, runs it, turns what it throws into one sentence and an exit code. */

const beforeDashes = (argv: readonly string[]): readonly string[] => {
  const end = argv.indexOf('--');
  return end === -1 ? argv : argv.slice(0, end);
};

const asksHelp = (argv: readonly string[]): boolean =>
  argv.length === 0 || argv[0] === 'help' || beforeDashes(argv).some((word) => word === '--help' || word === '-h');

export const runCli = async (argv: readonly string[], around: Surroundings): Promise<number> => {
  try {
    const config = await aegisConfig(__dirname, around);
    if (asksHelp(argv)) return await (await import('./help.ts')).showHelp(config, beforeDashes(argv));
    const found = findCommand(argv);
    if (!found) return await (await import('./help.ts')).showTopic(config, argv, unknownCommand);
    return (await (await loadCommand(found.id)).start(found.rest, config)) ?? 0;
  } catch (error) {
    if (error instanceof ReaderGone) return 0;
    const known = usageOf(error) ?? error;
    await around.output.err(shown(known, beforeDashes(argv).includes('--json'), around));
    const code = known instanceof AegisError ? known.code : 'http.internal';
    if (findCommand(argv)?.id !== 'submit') return plainExitCodeOf(code);
    // Lost contact with a command that was submitted is not "not reached": what became of it is unknown.
    return known instanceof AegisError && known.details.unknown === true
      ? exitCodeOf('commands.lost')
      : exitCodeOf(code);
  }
};

const shown = (error: unknown, json: boolean, around: Surroundings): string => {
  const known = error instanceof AegisError ? error : internal(error, around);
  const { code, message, details } = known;
  return json ? `${JSON.stringify({ error: { code, message, details } })}\n` : `aegis: ${plainText(message)}\n`;
};

/** A mistake of ours. The stack is for whoever sets AEGIS_DEBUG. */
const internal = (error: unknown, { env }: Surroundings): AegisError => {
  const message = error instanceof Error ? error.message : String(error);
  const stack = env.AEGIS_DEBUG && error instanceof Error ? ` ${error.stack}` : '';
  return new AegisError(
    'http.internal',
    `Something went wrong inside: ${message} (AEGIS_DEBUG=1 shows where).${stack}`,
  );
};

export const main = async (): Promise<void> => {
  const { env } = process;
  const around: Surroundings = { env, output: standardOutput(env), now: Date.now, pause };
  process.exit(await runCli(process.argv.slice(2), around));
};
