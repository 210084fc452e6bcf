import { AegisError } from '@aegis/protocol/errors';
import type { Output } from './output.ts';

/** Lets what cannot be undone happen only when it was meant. @throws AegisError cli.usage, or cli.interrupted after a no */
export const confirmed = async (output: Output, yes: boolean, question: string): Promise<void> => {
  if (yes) return;
  if (process.stdin.isTTY !== true || !output.errIsTerminal)
    throw new AegisError('cli.usage', 'Without a terminal nobody can be asked: add --yes if it is meant.');
  const { createInterface } = await import('node:readline/promises');
  const reader = createInterface({ input: process.stdin, output: process.stderr });
  try {
    const answer = await reader.question(`${question} [y/N] `);
    if (/^y(es)?$/i.test(answer.trim())) return;
    throw new AegisError('cli.interrupted', 'Nothing was changed.');
  } finally {
    reader.close();
  }
};
