/** Fair turns of the process's one event loop. What sockets bring goes before timers and immediates, up to some fifty thousand events in a row
 *  (libuv's uv__io_poll): where thousands of connected nodes answer one command, that would be many seconds in which no transaction begins,
 *  no heartbeat goes out and no operator is answered. So what is dear takes turns, and a round of the loop has few of them. */
export interface Turns {
  /** Does `work` at once, where this round of the loop has time left and nobody waits; otherwise when its turn comes: first come, first served.
   *  @returns whether it was at once */
  run(work: () => void): boolean;
  /** Resolves when a turn comes, for work that goes on for a while: many who are woken by one event take turns. */
  turn(): Promise<void>;
}

export interface TurnLimits {
  /** Of a round that is spent on what comes. */
  roundMs: number;
  /** Turns in a round. */
  turns: number;
}
/** Before they are let go of. */
const KEPT = 4096;
const LIMITS: TurnLimits = { roundMs: 20, turns: 64 };

export const fairTurns = (now: () => number = () => performance.now(), limits: TurnLimits = LIMITS): Turns => {
  let waiting: (() => void)[] = [];
  /** Of `waiting`, those that had their turn. */
  let done = 0;
  let scheduled = 0;
  let roundEnds = 0;
  let taken = 0;
  let inRound = false;

  const beginRound = (): void => {
    if (inRound) return;
    inRound = true;
    roundEnds = now() + limits.roundMs;
    taken = 0;
    setImmediate(() => {
      inRound = false;
    });
  };
  const isFree = (): boolean => {
    beginRound();
    return waiting.length === 0 && now() < roundEnds;
  };
  // Each in an immediate of its own: the loop lets what follows from one (its microtasks) happen before the next.
  const next = (): void => {
    const work = waiting[done++];
    if (done === waiting.length || done >= KEPT) {
      waiting = waiting.slice(done);
      done = 0;
    }
    if (waiting.length - done >= scheduled) setImmediate(next);
    else scheduled--;
    work?.();
  };
  const wait = (work: () => void): void => {
    waiting.push(work);
    if (scheduled >= limits.turns) return;
    scheduled++;
    setImmediate(next);
  };
  return {
    run: (work) => {
      if (!isFree()) {
        wait(work);
        return false;
      }
      work();
      return true;
    },
    turn: () => {
      if (!isFree() || taken >= limits.turns) return new Promise((resolve) => wait(resolve));
      taken++;
      return Promise.resolve();
    },
  };
};

/** There is one event loop. */
export const turns: Turns = fairTurns();
