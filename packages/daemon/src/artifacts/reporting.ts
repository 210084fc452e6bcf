import type { StatusReport } from '@aegis/protocol/artifacts/status';
import { MAX_VERIFIER_LOG_CHARS } from '@aegis/protocol/artifacts/status';
import { type Clock, isoTime } from '../platform/clock.ts';
import type { Journal } from '../platform/journal/journal.ts';
import type { EngineState } from './deployment.ts';
import type { ArtifactsRepository } from './repository.ts';

/** What is said of each artifact, and when it is worth saying again: at once when something changed, seldom when only counters did. */

export interface Reason {
  code: string;
  message: string;
  /** That failed, when another one runs. */
  version?: string | undefined;
}

export interface Saying {
  name: string;
  generation: number;
  version: string | null;
  state: StatusReport['state'];
  engine: EngineState | null;
  reason?: Reason | undefined;
  verifierLog?: string | undefined;
  /** Where it is posted. */
  address: string;
}

const MAX_ITEMS = 1024;
const MAX_DRIFT = 32;
const MAX_LINE = 1024;

export type Reporting = ReturnType<typeof reporting>;

export const reporting = ({
  repository,
  journal,
  release,
  countersMs,
  onReport,
  clock,
}: {
  repository: ArtifactsRepository;
  journal: Pick<Journal, 'group' | 'lazily'>;
  /** Of the kernel. */
  release: string;
  /** Between two reports that say nothing new but counters. */
  countersMs: number;
  onReport(): void;
  clock: Clock;
}) => {
  const rows = repository.reports().filter(({ slot }) => slot === 'state');
  const last = new Map(
    rows.map(({ name, report, address }) => [name, said(report, address, Number.NEGATIVE_INFINITY)]),
  );

  const compose = ({ name, generation, version, state, engine, reason, verifierLog }: Saying): StatusReport => {
    const told = last.get(name)?.drift ?? [];
    // What could not be repaired is found again at each look.
    const fresh = (engine?.drift ?? []).filter(
      ({ what, detail, repaired }) => repaired || !told.some((one) => one.what === what && one.detail === detail),
    );
    const drift = [...told, ...fresh].slice(-MAX_DRIFT);
    return {
      name,
      ...(version === null ? {} : { version }),
      generation,
      state,
      at: isoTime(clock.now()),
      attachments: (engine?.attachments ?? []).slice(0, MAX_ITEMS).map((one) => ({
        ...one,
        ...(one.reason === undefined ? {} : { reason: clipped(one.reason, MAX_LINE) }),
      })),
      maps: (engine?.maps ?? []).slice(0, MAX_ITEMS),
      drift: state === 'detached' ? [] : drift,
      ...(reason === undefined
        ? {}
        : { reason: { ...reason, code: clipped(reason.code, 64), message: clipped(reason.message, 4096) } }),
      // The end of a log names the reason.
      ...(verifierLog === undefined ? {} : { verifier_log: verifierLog.slice(-MAX_VERIFIER_LOG_CHARS) }),
      kernel: clipped(release, MAX_LINE),
    };
  };

  return {
    /** Journals what is new, `also` in the same commit. Resolves when it is on disk; at once when nothing changed. */
    say: async (saying: Saying, also?: { label: string; change: () => void }): Promise<void> => {
      const { name, address } = saying;
      const report = compose(saying);
      const before = last.get(name);
      const next = said(report, address, clock.monotonic());
      const changed = before?.facts !== next.facts || before.log !== next.log || before.address !== address;
      const due = !changed && before.counters !== next.counters && next.at - before.at >= countersMs;
      const put = (): void => repository.putReport('state', address, report);
      if (also)
        await journal.group(also.label, () => {
          also.change();
          if (changed || due) put();
        });
      else if (changed) await journal.group('artifact-report', put);
      else if (due) await journal.lazily('artifact-report', put);
      if (!changed && !due) return;
      last.set(name, next);
      onReport();
    },
    /** Nothing more is said of it. */
    forget: (name: string): void => void last.delete(name),
  };
};

/** What was said, in the parts by which the next is compared with it. */
interface Said {
  /** All but the time and what counts up by itself, and that. */
  facts: string;
  counters: string;
  /** As long as a megabyte: compared as it is. */
  log: string | undefined;
  drift: StatusReport['drift'];
  address: string;
  /** Monotonic. */
  at: number;
}
const said = ({ verifier_log: log, ...report }: StatusReport, address: string, at: number): Said => ({
  facts: JSON.stringify({
    ...report,
    at: '',
    attachments: report.attachments.map(({ run_count: _runs, run_time_ns: _time, ...one }) => one),
    maps: report.maps.map(({ entries: _entries, ...one }) => one),
  }),
  counters: JSON.stringify([
    report.attachments.map(({ run_count, run_time_ns }) => [run_count, run_time_ns]),
    report.maps.map(({ entries }) => entries),
  ]),
  log,
  drift: report.drift,
  address,
  at,
});

const clipped = (text: string, most: number): string => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
