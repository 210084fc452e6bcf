import type { Figure } from './figure.ts';

/** One group of figures that shares its setting. Runs alone or among the others; leaves nothing behind. */
export interface Section {
  name: string;
  what: string;
  run(context: BenchContext): Promise<Figure[]>;
}

export interface BenchContext {
  /** Fewer and smaller runs, to see that everything works. */
  quick: boolean;
  /** Says on stderr what is going on. */
  say(line: string): void;
}

/** How often: `full`, or the smaller number with --quick. */
export const times = ({ quick }: BenchContext, full: number, small: number): number => (quick ? small : full);
