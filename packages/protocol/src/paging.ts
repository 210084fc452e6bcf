import * as z from 'zod/mini';

/** Lists take `limit` (at most 1000) and an opaque `cursor`, and answer `next_cursor` (null at the end). */
export const Page = {
  limit: z._default(z.coerce.number().check(z.int(), z.minimum(1), z.maximum(1000)), 100),
  cursor: z.optional(z.string().check(z.maxLength(512))),
};
export const NextCursor = z.nullable(z.string());
