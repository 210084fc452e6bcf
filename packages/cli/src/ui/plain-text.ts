/** Text from elsewhere (node names, labels, error messages, output lines) made safe for a terminal: control sequences and characters
 *  that move the cursor, set titles or turn the reading direction are taken out; tabs become spaces. Never used on the way through a pipe. */

// biome-ignore lint/suspicious/noControlCharactersInRegex: finding control characters is what it is for
const SEQUENCES = /\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])/g;
// biome-ignore lint/suspicious/noControlCharactersInRegex: as above
const CONTROLS = /[\x00-\x08\x0a-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

export const plainText = (text: string): string =>
  text.replace(SEQUENCES, '').replaceAll('\t', '  ').replace(CONTROLS, '');

/** A longer line is cut. */
const MAX_LINE_CHARS = 64 * 1024;

/** Takes bytes as they come, and writes their lines safe for a terminal. What follows the last line break is kept back. */
export const plainLines = (write: (text: string) => Promise<void>): ((bytes: Uint8Array) => Promise<void>) => {
  const decoder = new TextDecoder();
  let rest = '';
  return async (bytes) => {
    const lines = (rest + decoder.decode(bytes, { stream: true })).split('\n');
    rest = lines.pop() ?? '';
    if (rest.length > MAX_LINE_CHARS) {
      lines.push(rest);
      rest = '';
    }
    if (lines.length > 0) await write(lines.map((line) => `${plainText(line)}\n`).join(''));
  };
};

/** At most `width` characters, with an ellipsis in place of what was cut off. */
export const truncated = (text: string, width: number): string => {
  const characters = [...text];
  if (characters.length <= width) return text;
  return width <= 1 ? '…'.slice(0, width) : `${characters.slice(0, width - 1).join('')}…`;
};
