import { randomUUID } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** A command that goes on when it is told to, so that no test has to be faster than what it looks at.
 *  @param folder where the word to go on is left; the command has to be able to read it */
export const heldCommand = (folder: string, { before = 'true', after }: { before?: string; after: string }) => {
  const word = join(folder, `go-${randomUUID()}`);
  return {
    cmd: `${before}; until [ -e ${word} ]; do sleep 0.01; done; ${after}`,
    go: (): void => writeFileSync(word, ''),
  };
};
