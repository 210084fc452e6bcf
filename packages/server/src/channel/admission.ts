/** How many nodes may shake hands at once, and when the others are to come. After a restart a whole fleet is back within seconds, and a
 *  handshake takes a millisecond or two of the thread that answers operators too. So no more are under way than are done within WORK_MS at the
 *  pace that was measured; who comes beyond that is refused before the handshake begins, each with a later moment at that same pace. One
 *  address has a part of that room and no more: who opens connections and says nothing keeps nobody out but those behind the same address. */

/** An address from which connections have begun that have not shown who they are. */
export interface Place {
  /** So many. Whoever makes a place counts them. */
  held: number;
  /** When the next one of this address may come, once it holds its part. */
  nextAt: number;
}
export interface Admission {
  /** Null: it may begin. Else: to come back after so many milliseconds, and not to be let in now. */
  laterMs(place: Place): number | null;
  /** One has begun. What it gives is to be called once: when it is `connected`, or is gone without. */
  begin(): (connected: boolean) => void;
}

/** Of handshakes that wait at once. An operator's request waits about as long behind them. */
const WORK_MS = 1000;
/** A machine at rest does one in less. What is measured takes its place soon. */
const FIRST_GUESS_MS = 2;
/** Fewer say nothing of the pace: other work is more than theirs. */
const LEAST_AT_ONCE = 64;
/** Of those at once, what one address may hold: a part, and at least so many. */
const PART_OF_PLACE = 1 / 4;
const LEAST_OF_PLACE = 8;
/** The pace is that of about so long. */
const WINDOW_MS = 2000;
/** One that takes so long is not what keeps us busy: it says nothing, or is far away. */
const STALE_MS = 3000;
const LONGEST_MS = 30_000;
const SHORTEST_MS = 1000;

/** @param activeMs for how long this process has worked, and not waited: slow nodes cost nothing */
export const admission = (
  { monotonic, activeMs }: { monotonic(): number; activeMs(): number },
  most: number,
): Admission => {
  const underWay = new Set<{ beganAt: number }>();
  // Milliseconds and handshakes of the window; older ones weigh half at each turn of it.
  let busyMs = WINDOW_MS / 2;
  let done = busyMs / FIRST_GUESS_MS;
  let lastActive = 0;
  /** Where no address holds its part, and there is no room all the same. */
  const all = { nextAt: 0 };

  const eachMs = (): number => busyMs / done;
  const atMost = (): number => Math.min(most, Math.max(LEAST_AT_ONCE, WORK_MS / eachMs()));
  const after = (line: { nextAt: number }, now: number): number => {
    line.nextAt = Math.max(line.nextAt, now + SHORTEST_MS, now + underWay.size * eachMs()) + eachMs();
    // So many that nobody can say when: from the beginning of the longest pause.
    if (line.nextAt - now > LONGEST_MS) line.nextAt = now + LONGEST_MS / 2;
    return line.nextAt - now;
  };
  const forgetStale = (now: number): void => {
    for (const one of underWay) {
      if (now - one.beganAt < STALE_MS) return;
      underWay.delete(one);
    }
  };
  const measure = (active: number): void => {
    busyMs += active - lastActive;
    done++;
    if (busyMs < WINDOW_MS) return;
    busyMs /= 2;
    done /= 2;
  };
  return {
    laterMs: (place) => {
      const now = monotonic();
      forgetStale(now);
      if (place.held >= Math.max(LEAST_OF_PLACE, atMost() * PART_OF_PLACE)) return after(place, now);
      return underWay.size < atMost() ? null : after(all, now);
    },
    begin: () => {
      const one = { beganAt: monotonic() };
      underWay.add(one);
      if (underWay.size <= LEAST_AT_ONCE) lastActive = activeMs();
      return (connected) => {
        const active = activeMs();
        if (connected && underWay.size >= LEAST_AT_ONCE) measure(active);
        lastActive = active;
        underWay.delete(one);
      };
    },
  };
};
