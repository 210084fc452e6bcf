import { AegisError } from '@aegis/protocol/errors';
import type * as z from 'zod/mini';
import { safeParse } from 'zod/mini';

/** Cursors: the order values of the last row of a page, opaque to callers. */

export const encodeCursor = (values: readonly (string | number)[]): string =>
  Buffer.from(JSON.stringify(values)).toString('base64url');

/** @throws AegisError http.bad_cursor */
export const decodeCursor = <S extends z.ZodMiniType>(cursor: string, shape: S): z.infer<S> => {
  try {
    const result = safeParse(shape, JSON.parse(Buffer.from(cursor, 'base64url').toString('utf8')));
    if (result.success) return result.data;
  } catch {
    // not JSON: the same refusal as for JSON of another shape
  }
  throw new AegisError(
    'http.bad_cursor',
    "This cursor is not one of ours. Take 'next_cursor' of the page before, or none.",
  );
};
