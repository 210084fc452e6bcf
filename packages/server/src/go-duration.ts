/** Durations as Go writes them (time.ParseDuration), which is how the seeds' variables have them: "24h", "1h30m", "90s", "1500ms". */

const UNIT_MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };

/** Whole seconds; null for what is no such duration, or no whole number of seconds. */
export const secondsOf = (text: string): number | null => {
  if (!/^(?:\d+(?:\.\d+)?(?:ms|s|m|h))+$/.test(text)) return null;
  let ms = 0;
  for (const [, amount = '', unit = ''] of text.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h)/g))
    ms += Number(amount) * (UNIT_MS[unit] ?? Number.NaN);
  const seconds = Math.round(ms) / 1000;
  return Number.isInteger(seconds) ? seconds : null;
};
