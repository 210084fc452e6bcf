import * as z from 'zod/mini';

/** What of a configuration's history stays: restic's `forget` rules, any of which keeps a run. No rule at all removes nothing. */

const Count = z.optional(
  z.int('a whole number, 0 to 1000000; -1 keeps all').check(z.minimum(-1), z.maximum(1_000_000)),
);
/** `2y5m7d3h`, as restic writes durations: years, months, days, hours, in this order. */
const Within = z.optional(
  z
    .string()
    .check(
      z.regex(
        /^(?=\d)(?:\d{1,4}y)?(?:\d{1,5}m)?(?:\d{1,6}d)?(?:\d{1,7}h)?$/,
        'a duration such as 30d, 6m or 2y5m7d3h (y, m = months, d, h)',
      ),
    ),
);
const Tag = z.string().check(z.regex(/^[A-Za-z0-9][A-Za-z0-9._:/=-]{0,63}$/, 'a tag of letters, digits and ._:/=-'));

export { Tag };

export const RetentionPolicy = z.strictObject({
  keep_last: Count,
  keep_hourly: Count,
  keep_daily: Count,
  keep_weekly: Count,
  keep_monthly: Count,
  keep_yearly: Count,
  keep_within: Within,
  keep_within_hourly: Within,
  keep_within_daily: Within,
  keep_within_weekly: Within,
  keep_within_monthly: Within,
  keep_within_yearly: Within,
  /** A run with all tags of one of these lists stays. */
  keep_tags: z.optional(z.array(z.array(Tag).check(z.minLength(1), z.maxLength(16))).check(z.maxLength(16))),
  /** The seed's retentionDays: what is younger stays. */
  days: z.optional(z.int().check(z.minimum(1), z.maximum(36_500))),
});
export type RetentionPolicy = z.infer<typeof RetentionPolicy>;
