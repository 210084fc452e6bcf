import type { Figure, Unit } from './figure.ts';
import type { Machine } from './machine.ts';

/** The figures as a table for people, of which docs/performance.md holds the last. */

/** The machine's load average when each section began, by its name: on a shared machine it explains much. */
export type Loads = Readonly<Record<string, number>>;

const HEAD = ['figure', 'median', 'min – max', 'bar', 'ratio', ''];

export const tableOf = (machine: Machine, figures: readonly Figure[], loads: Loads): string => {
  const rows = figures.map((one) => [
    one.name,
    judgedText(one),
    `${amount(one.min, null)} – ${amount(one.max, null)}`,
    barText(one),
    one.ratio === null ? '' : `${amount(one.ratio, null)} ×`,
    one.met === null ? '' : one.met ? 'met' : 'MISSED',
  ]);
  const widths = HEAD.map((head, at) => Math.max(head.length, ...rows.map((row) => row[at]?.length ?? 0)));
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, at) =>
        at === 0 || at === 3 || at === 5 ? cell.padEnd(widths[at] ?? 0) : cell.padStart(widths[at] ?? 0),
      )
      .join('  ')
      .trimEnd();
  const body = figures.flatMap((one, at) => [
    ...(one.section === figures[at - 1]?.section
      ? []
      : ['', `${one.section} (load ${loads[one.section]?.toFixed(1) ?? 'unknown'})`]),
    `  ${line(rows[at] ?? [])}`,
    ...(one.note ? [`      ${one.note}`] : []),
  ]);
  return [machineText(machine), '', `  ${line(HEAD)}`, ...body].join('\n');
};

const machineText = (machine: Machine): string =>
  [
    `${machine.cpu}, ${machine.cores} cores, ${machine.memoryMb} MB, Linux ${machine.kernel}, Node.js ${machine.node}`,
    machine.date,
  ].join('\n');

/** The median, or what the bar is about where that is another number. */
const judgedText = ({ bar, unit, ...numbers }: Figure): string =>
  bar && bar.of !== 'ratio' && bar.of !== 'median'
    ? `${bar.of} ${amount(numbers[bar.of], unit)}`
    : amount(numbers.median, unit);

const barText = ({ bar, unit, comparedWith }: Figure): string => {
  if (!bar) return comparedWith ? `(${comparedWith})` : '';
  const sign = bar.sense === 'at most' ? '≤' : '≥';
  if (bar.of === 'ratio') return `${sign} ${bar.value} × ${comparedWith}`;
  return `${sign} ${bar.value} ${unit}`;
};

/** Three digits that mean something. */
const amount = (value: number, unit: Unit | null): string => {
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : Math.abs(value) >= 1 ? 2 : 3;
  return Number.isFinite(value) ? `${value.toFixed(digits)}${unit ? ` ${unit}` : ''}` : '—';
};
