import { readFileSync } from 'node:fs';
import { AegisError } from '@aegis/protocol/errors';
import type { Output } from './output.ts';

/** A password from a file's first line (`-`: standard input), else asked for on the terminal without showing it. Never from the command line
 *  or the environment, which others can read. @throws AegisError cli.usage, cli.interrupted */
export const readPassword = async (output: Output, file: string | undefined, question: string): Promise<string> => {
  if (file !== undefined) return firstLine(file);
  if (process.stdin.isTTY !== true || !output.errIsTerminal)
    throw new AegisError(
      'cli.usage',
      'A password is needed, and without a terminal nobody can be asked: give --password-file FILE (-: standard input).',
    );
  const { createInterface } = await import('node:readline/promises');
  const { Writable } = await import('node:stream');
  // readline echoes through its output: one that swallows everything shows nothing.
  const silent = new Writable({ write: (_bytes, _encoding, done) => done() });
  const reader = createInterface({ input: process.stdin, output: silent, terminal: true });
  const interrupted = new AbortController();
  reader.on('SIGINT', () => interrupted.abort());
  await output.err(`${question} `);
  try {
    return await reader.question('', { signal: interrupted.signal });
  } catch {
    throw new AegisError('cli.interrupted', 'No password was given; nothing was done.');
  } finally {
    reader.close();
    await output.err('\n');
  }
};

const firstLine = (file: string): string => {
  try {
    return (readFileSync(file === '-' ? 0 : file, 'utf8').split('\n', 1)[0] ?? '').replace(/\r$/, '');
  } catch (error) {
    const reason = (error as NodeJS.ErrnoException).code ?? 'unknown reason';
    throw new AegisError('cli.usage', `The password file ${file} cannot be read (${reason}).`);
  }
};
