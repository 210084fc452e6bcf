import { median, quantile } from './statistics.ts';

/** One line of the table: what was measured, against which bar, and whether it was met. */

export type Unit = 'ms' | 's' | '/s' | 'MB' | 'MB/s' | 'KiB' | '%';

export interface Bar {
  sense: 'at most' | 'at least';
  value: number;
  /** Which number it holds for: a ratio is that of the medians. */
  of: 'ratio' | 'median' | 'p99' | 'max' | 'min';
}

export interface Figure {
  section: string;
  name: string;
  unit: Unit;
  runs: number;
  median: number;
  p99: number;
  min: number;
  max: number;
  /** Median over the median of what it was compared with, alternately in the same run. */
  ratio: number | null;
  comparedWith: string | null;
  bar: Bar | null;
  /** Null where there is no bar: for information. */
  met: boolean | null;
  note: string;
}

export interface Measured {
  name: string;
  unit: Unit;
  samples: readonly number[];
  comparedWith?: { name: string; samples: readonly number[] };
  bar?: Bar;
  note?: string;
}

export const figure = (section: string, measured: Measured): Figure => {
  const { name, unit, samples, comparedWith, bar, note = '' } = measured;
  const numbers = {
    median: median(samples),
    p99: quantile(samples, 0.99),
    min: Math.min(...samples),
    max: Math.max(...samples),
    ratio: comparedWith ? median(samples) / median(comparedWith.samples) : null,
  };
  return {
    section,
    name,
    unit,
    runs: samples.length,
    ...numbers,
    comparedWith: comparedWith?.name ?? null,
    bar: bar ?? null,
    met: bar ? holds(bar, numbers[bar.of]) : null,
    note,
  };
};

/** A bar that nothing was measured for is missed. */
const holds = (bar: Bar, value: number | null): boolean =>
  value !== null && (bar.sense === 'at most' ? value <= bar.value : value >= bar.value);

export const atMost = (value: number, of: Bar['of']): Bar => ({ sense: 'at most', value, of });
export const atLeast = (value: number, of: Bar['of']): Bar => ({ sense: 'at least', value, of });
