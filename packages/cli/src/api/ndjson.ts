import type { IncomingMessage } from 'node:http';

/** The lines of an NDJSON answer, as bytes; an empty line (a sign of life) is empty. Pulls only as fast as the caller reads.
 *  @throws when the connection breaks, or nothing comes for `silenceMs` (0: wait for ever) */
export async function* ndjson(response: IncomingMessage, silenceMs: number): AsyncGenerator<Buffer> {
  const pieces = (response as AsyncIterable<Buffer>)[Symbol.asyncIterator]();
  let partial: Buffer[] = [];
  let size = 0;
  try {
    for (;;) {
      const { value: piece, done } = await withinSilence(pieces.next(), response, silenceMs);
      if (done) break;
      let start = 0;
      for (let end = piece.indexOf(0x0a); end !== -1; end = piece.indexOf(0x0a, start)) {
        const line =
          partial.length > 0 ? Buffer.concat([...partial, piece.subarray(start, end)]) : piece.subarray(start, end);
        partial = [];
        size = 0;
        start = end + 1;
        yield line;
      }
      if (start < piece.length) {
        partial.push(piece.subarray(start));
        size += piece.length - start;
        if (size > MAX_LINE_BYTES) throw new Error('a line has no end');
      }
    }
    // A last line without its line feed was cut off, or the server would have sent it whole.
    if (size > 0) throw new Error('the last line was cut off');
  } finally {
    response.destroy();
  }
}

const MAX_LINE_BYTES = 64 * 1024 * 1024;

/** The timer runs only while the server owes us something, not while our own reader is slow. */
const withinSilence = async <T>(next: Promise<T>, response: IncomingMessage, silenceMs: number): Promise<T> => {
  if (silenceMs === 0) return next;
  const timer = setTimeout(() => response.destroy(new Error('the server fell silent')), silenceMs);
  try {
    return await next;
  } finally {
    clearTimeout(timer);
  }
};
