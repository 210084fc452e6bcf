import type { ManifestLine } from './lines.ts';

/** What must hold between the lines: `backup` first, entries without gap from the tar's first byte, frames that add up, `end` last with the counts. */

const END_BLOCKS = 1024;
/** GNU tar fills its last record of 20 blocks. */
const MAX_END_BYTES = END_BLOCKS + 10_240;

export interface ManifestOrder {
  accept(line: ManifestLine, number: number): void;
  /** Once no line follows. */
  finish(): void;
}

export const manifestOrder = (
  limits: { entries: number; errors: number },
  plain: boolean,
  refusal: (reason: string, fault: string) => Error,
): ManifestOrder => {
  const seen = { entries: 0, errors: 0, tarBytes: 0, framedBytes: 0, packedBytes: 0 };
  let ended = false;
  const refuse = (fault: string) => refusal('order', fault);
  const onEnd = (line: ManifestLine & { type: 'end' }): void => {
    ended = true;
    if (line.entries !== seen.entries || line.errors !== seen.errors)
      throw refuse(`it has ${seen.entries} entries and ${seen.errors} errors, and its end says otherwise`);
    const endBytes = line.tar_bytes - seen.tarBytes;
    if (endBytes < END_BLOCKS || endBytes > MAX_END_BYTES || line.tar_bytes !== seen.framedBytes)
      throw refuse('its entries, its frames and its end disagree about the length of the tar');
    if (plain ? line.archive.bytes !== seen.packedBytes : line.archive.bytes <= seen.packedBytes)
      throw refuse('its frames and its end disagree about the length of the archive');
  };
  return {
    accept: (line, number) => {
      if ((line.type === 'backup') !== (number === 1))
        throw refuse("its first line, and no other, is of type 'backup'");
      if (ended) throw refuse('something stands behind its end');
      if (line.type === 'entry') {
        if (++seen.entries > limits.entries) throw refusal('limit', `it has more than ${limits.entries} entries`);
        if (line.offset !== seen.tarBytes) throw refuse(`line ${number} does not begin where the entry before ends`);
        seen.tarBytes += line.length;
      } else if (line.type === 'error') {
        if (++seen.errors > limits.errors) throw refusal('limit', `it has more than ${limits.errors} errors`);
      } else if (line.type === 'frames') {
        for (const [tarBytes, packedBytes] of line.frames) {
          seen.framedBytes += tarBytes;
          seen.packedBytes += packedBytes;
        }
      } else if (line.type === 'end') onEnd(line);
    },
    finish: () => {
      if (!ended) throw refusal('truncated', 'it has no end');
    },
  };
};
