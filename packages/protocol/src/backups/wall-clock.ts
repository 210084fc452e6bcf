/** Calendar dates of a time zone, for the rules of retention: what clocks on the wall show at a moment, and when they show it. */

export interface WallTime {
  year: number;
  /** 1–12. */
  month: number;
  day: number;
  hour: number;
  minute: number;
  second: number;
  millisecond: number;
}

/** Years, months, days and hours, all counted backwards. */
export interface Span {
  years: number;
  months: number;
  days: number;
  hours: number;
}

export interface WallClock {
  at(ms: number): WallTime;
  /** As Go's AddDate: years, months and days on the calendar, overflowing into the next month (31 March less a month is 3 March), hours as time. */
  before(ms: number, span: Span): number;
}

const HOUR_MS = 3_600_000;
/** Before it, zones had local mean time: one offset for all that is older. */
const OLDEST_MS = Date.UTC(1800, 0, 1);

/** @throws RangeError for a zone that does not exist */
export const wallClock = (timezone: string): WallClock => {
  const format = new Intl.DateTimeFormat('en-US', {
    timeZone: timezone,
    hourCycle: 'h23',
    year: 'numeric',
    month: '2-digit',
    day: '2-digit',
    hour: '2-digit',
    minute: '2-digit',
    second: '2-digit',
  });
  const offsetAt = (ms: number): number => {
    const whole = Math.floor(Math.max(ms, OLDEST_MS) / 1000) * 1000;
    const parts = new Map(format.formatToParts(whole).map(({ type, value }) => [type, Number(value)]));
    const part = (type: Intl.DateTimeFormatPartTypes) => parts.get(type) ?? 0;
    const wall = Date.UTC(part('year'), part('month') - 1, part('day'), part('hour'), part('minute'), part('second'));
    return wall - whole;
  };
  const at = (ms: number): WallTime => {
    const date = new Date(ms + offsetAt(ms));
    return {
      year: date.getUTCFullYear(),
      month: date.getUTCMonth() + 1,
      day: date.getUTCDate(),
      hour: date.getUTCHours(),
      minute: date.getUTCMinutes(),
      second: date.getUTCSeconds(),
      millisecond: date.getUTCMilliseconds(),
    };
  };
  /** Where clocks are put forward or back, Go's time.Date decides: the offset as of the wall's time taken for UTC, unless that one is not in force. */
  const momentOf = (wallMs: number): number => {
    const guess = offsetAt(wallMs);
    return guess === 0 ? wallMs : wallMs - offsetAt(wallMs - guess);
  };
  return {
    at,
    before: (ms, { years, months, days, hours }) => {
      const wall = at(ms);
      const date = new Date(0);
      date.setUTCFullYear(wall.year - years, wall.month - 1 - months, wall.day - days);
      date.setUTCHours(wall.hour, wall.minute, wall.second, wall.millisecond);
      return momentOf(date.getTime()) - hours * HOUR_MS;
    },
  };
};

/** Year and number of the week by ISO 8601: weeks begin on Monday, and the first has the year's first Thursday. */
export const isoWeekOf = ({ year, month, day }: WallTime): { year: number; week: number } => {
  const thursday = new Date(Date.UTC(year, month - 1, day));
  thursday.setUTCDate(day + 3 - ((thursday.getUTCDay() + 6) % 7));
  const newYear = Date.UTC(thursday.getUTCFullYear(), 0, 1);
  return { year: thursday.getUTCFullYear(), week: 1 + Math.floor((thursday.getTime() - newYear) / (7 * 24 * HOUR_MS)) };
};
