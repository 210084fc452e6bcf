import { Envelope } from '@aegis/protocol/access/dsse';
import { AssignmentBody } from '@aegis/protocol/artifacts/assignment';
import { ArtifactName } from '@aegis/protocol/artifacts/manifest';
import type { StatusReport } from '@aegis/protocol/artifacts/status';
import type { ErrorCode } from '@aegis/protocol/errors';
import * as z from 'zod/mini';
import { type Clock, isoTime } from '../platform/clock.ts';
import type { Journal } from '../platform/journal/journal.ts';
import type { Logger } from '../platform/log.ts';
import type { ArtifactsRepository, ArtifactsState, DesiredRow } from './repository.ts';

/** Which directives of desired state this node takes. What it takes is in the journal before anything is done about it; what it
 *  refuses changes nothing but a log line and, where the directive is genuine and for this node, a report. */

/** What access says of a directive; typed here because domains do not know each other. */
export type DesiredVerdict =
  | { kind: 'good'; directive: Genuine; issuedAtMs: number; byOperators: boolean }
  | { kind: 'refused'; code: ErrorCode; message: string; directive: Genuine | null };
interface Genuine {
  kind: string;
  object_id: string;
  generation: number;
  issued_at: string;
  body?: unknown;
}

export interface DesiredOptions {
  repository: ArtifactsRepository;
  state: ArtifactsState;
  journal: Pick<Journal, 'group'>;
  verify(envelope: Envelope): DesiredVerdict;
  /** Artifacts that may be assigned at once. */
  maxArtifacts: number;
  /** The version that runs here of this artifact, if one does. */
  runningVersion(name: string): string | null;
  clock: Clock;
  log: Logger;
}

/** Directives live seven days at most and may be five minutes ahead: what a tombstone forbids has expired by then. */
const TOMBSTONE_MS = 7 * 24 * 3_600_000 + 3_600_000;
/** Tombstones that may be kept besides, for each artifact that may be assigned. */
const TOMBSTONES = 4;
/** Directives that are verified before the event loop gets a turn: thousands must not hold up a command. */
const TURN = 32;

type Decision =
  | { kind: 'accept'; row: Omit<DesiredRow, 'done'> }
  | { kind: 'refuse'; refusal: Refusal }
  /** No word of this fleet's to this node: there is nobody to tell but the log. */
  | { kind: 'unheard'; reason: Reason }
  | null;
interface Reason {
  code: ErrorCode;
  message: string;
}
interface Refusal {
  directive: Genuine;
  reason: Reason;
  version: string | undefined;
}

export type Desired = ReturnType<typeof desiredState>;

export const desiredState = (options: DesiredOptions) => {
  const { repository, state, journal, verify, maxArtifacts, runningVersion, clock, log } = options;
  const rows = new Map(repository.desired().map((row) => [row.name, row]));
  /** The last refusal of each name. */
  const refusals = new Map(
    repository
      .reports()
      .filter(({ slot }) => slot === 'refusal')
      .map(({ name, report }) => [name, report]),
  );

  const refuse = (reason: Reason, directive: Genuine | null, version?: string): Decision => {
    if (!directive || !z.safeParse(ArtifactName, directive.object_id).success) return { kind: 'unheard', reason };
    const before = refusals.get(directive.object_id);
    if (before?.generation === directive.generation && before.reason?.code === reason.code) return null; // told already
    return { kind: 'refuse', refusal: { directive, reason, version } };
  };

  /** Once for each name, however many of its directives were refused: an answer may hold thousands. */
  const reportOf = ({ directive, reason, version }: Refusal): { address: string; report: StatusReport } => {
    const { object_id: name, generation } = directive;
    log.warn(
      { code: reason.code, artifact: name, generation },
      `refused a directive of desired state: ${reason.message}`,
    );
    const running = runningVersion(name);
    // What runs goes on: it is told along as it was last seen.
    const last = running === null ? null : repository.report(name, 'state');
    const report: StatusReport = {
      name,
      ...(running === null ? {} : { version: running }),
      generation,
      state: running === null ? 'failed' : 'attached',
      at: isoTime(clock.now()),
      attachments: last?.report.attachments ?? [],
      maps: last?.report.maps ?? [],
      drift: last?.report.drift ?? [],
      reason: { ...reason, ...(version === undefined ? {} : { version }) },
    };
    return { address: addressOf(directive), report };
  };

  const decide = (one: unknown, pending: ReadonlyMap<string, Omit<DesiredRow, 'done'>>): Decision => {
    const envelope = z.safeParse(Envelope, one);
    if (!envelope.success)
      return { kind: 'unheard', reason: { code: 'access.bad_directive', message: 'It is no signed directive.' } };
    const verdict = verify(envelope.data);
    const { directive } = verdict;
    if (directive && directive.kind !== 'artifacts.assign')
      return refuse({ code: 'access.bad_directive', message: `A '${directive.kind}' is no desired state.` }, null);
    if (verdict.kind === 'refused') {
      const known = directive && rows.get(directive.object_id);
      // The very wish that is carried out already: nothing to refuse in it, its copy has merely grown old.
      if (known && directive && known.generation === directive.generation && known.body === textOf(directive))
        return null;
      return refuse({ code: verdict.code, message: verdict.message }, directive);
    }
    const good = verdict.directive;
    const { object_id: name, generation } = good;
    const body = z.safeParse(AssignmentBody, good.body);
    if (!body.success)
      return refuse(
        {
          code: 'access.bad_directive',
          message:
            "The directive's body is no assignment that this release understands. Give server and node the same release.",
        },
        good,
      );
    if (body.data.name !== name)
      return refuse(
        {
          code: 'access.bad_directive',
          message: `The directive is about '${name}', its body about '${body.data.name}'.`,
        },
        good,
      );
    const version = body.data.state === 'present' ? body.data.version : undefined;
    const known = pending.get(name) ?? rows.get(name);
    const text = textOf(good);
    if (known && generation < known.generation)
      return refuse(
        {
          code: 'artifacts.stale_generation',
          message: `Generation ${generation} of '${name}' is older than ${known.generation}, which this node holds. If the server was restored from a backup, assign it again until its generation is greater.`,
        },
        good,
        version,
      );
    if (known && generation === known.generation) {
      if (known.body === text) return null;
      return refuse(
        {
          code: 'artifacts.generation_conflict',
          message: `Generation ${generation} of '${name}' came with another body before: the first one stays. Assign it again to make a new generation.`,
        },
        good,
        version,
      );
    }
    // Who only carries it numbers it: of what operators sign, the later word counts, whatever its number.
    if (known && verdict.byOperators && verdict.issuedAtMs < known.issuedAtMs)
      return refuse(
        {
          code: 'access.stale_directive',
          message: `The directive was issued at ${good.issued_at}, before the one that this node holds (${isoTime(known.issuedAtMs)}). If it is meant, assign it again; see that the operators' clocks are right.`,
        },
        good,
      );
    if (!known && verdict.issuedAtMs <= state.floorMs())
      return refuse(
        {
          code: 'access.stale_directive',
          message: `The directive was issued at ${good.issued_at}, before what this node still remembers: assign it again.`,
        },
        good,
        version,
      );
    if (body.data.state === 'present' && !roomFor(name, pending))
      return refuse(
        {
          code: 'artifacts.storage_full',
          message: `This node holds ${maxArtifacts} artifacts already: unassign one, or raise its journal_max_artifacts.`,
        },
        good,
        version,
      );
    return {
      kind: 'accept',
      row: {
        name,
        generation,
        present: body.data.state === 'present',
        body: text,
        envelope: JSON.stringify(envelope.data),
        issuedAtMs: verdict.issuedAtMs,
        acceptedAtMs: clock.now(),
      },
    };
  };

  const roomFor = (name: string, pending: ReadonlyMap<string, Omit<DesiredRow, 'done'>>): boolean => {
    const all = new Map<string, Omit<DesiredRow, 'done'>>([...rows, ...pending]);
    all.delete(name);
    const present = [...all.values()].filter((row) => row.present).length;
    return present < maxArtifacts && all.size < maxArtifacts * (TOMBSTONES + 1);
  };

  return {
    rows: rows as ReadonlyMap<string, DesiredRow>,
    /** Why another directive of the generation that is held was refused: told along with how that one is. */
    refusalOf: (name: string): StatusReport['reason'] => {
      const refusal = refusals.get(name);
      return refusal && refusal.generation === rows.get(name)?.generation ? refusal.reason : undefined;
    },
    /** Journals what is good of these. Answers the names that changed.
     *  @throws AegisError journal.full | journal.failed: then nothing was taken */
    take: async (directives: readonly unknown[]): Promise<string[]> => {
      const accepted = new Map<string, Omit<DesiredRow, 'done'>>();
      const refused = new Map<string, Refusal>();
      const unheard = new Map<string, { reason: Reason; directives: number }>();
      for (const [nth, one] of directives.entries()) {
        if (nth % TURN === TURN - 1) await new Promise((resolve) => setImmediate(resolve));
        const decision = decide(one, accepted);
        if (decision?.kind === 'accept') {
          accepted.set(decision.row.name, decision.row);
          const before = refused.get(decision.row.name);
          if (before && before.directive.generation <= decision.row.generation) refused.delete(decision.row.name);
        } else if (decision?.kind === 'refuse') {
          const { object_id: name } = decision.refusal.directive;
          // Of names that nobody knows only so many are remembered.
          const known = rows.has(name) || refusals.has(name) || refused.has(name);
          if (known || refusals.size + refused.size < maxArtifacts * (TOMBSTONES + 1))
            refused.set(name, decision.refusal);
        } else if (decision?.kind === 'unheard') {
          const { code } = decision.reason;
          const before = unheard.get(code);
          if (before) before.directives++;
          else unheard.set(code, { reason: decision.reason, directives: 1 });
        }
      }
      for (const { reason, directives } of unheard.values())
        log.warn({ code: reason.code, directives }, `refused a directive of desired state: ${reason.message}`);
      const reports = [...refused.values()].map(reportOf);
      if (accepted.size === 0 && reports.length === 0) return [];
      await journal.group('desired', () => {
        for (const row of accepted.values()) {
          repository.putDesired(row);
          repository.removeReport(row.name, 'refusal');
        }
        for (const { address, report } of reports)
          repository.putReport('refusal', address, report, report.generation !== rows.get(report.name)?.generation);
      });
      for (const row of accepted.values()) {
        rows.set(row.name, { ...row, done: false });
        refusals.delete(row.name);
        log.info(
          { artifact: row.name, generation: row.generation },
          row.present ? 'accepted an assignment' : 'accepted an unassignment',
        );
      }
      for (const { report } of reports) refusals.set(report.name, report);
      return [...new Set([...accepted.keys(), ...refused.keys()])];
    },
    /** Inside a transaction; `afterDone` once it is committed. */
    setDone: (name: string, generation: number): void => repository.setDone(name, generation),
    afterDone: (name: string, generation: number): void => {
      const row = rows.get(name);
      if (row?.generation === generation) rows.set(name, { ...row, done: true });
    },
    /** Forgets tombstones that no directive that still holds could contradict, and refusals of what is not known here. Answers the names of
     *  the former. */
    prune: async (): Promise<string[]> => {
      const before = clock.now() - TOMBSTONE_MS;
      const reports = repository.reports();
      const waiting = new Set(reports.filter((one) => one.waiting).map(({ name }) => name));
      const stray = reports.filter(
        ({ name, slot, report }) =>
          slot === 'refusal' && !waiting.has(name) && !rows.has(name) && Date.parse(report.at) < before,
      );
      if (stray.length > 0)
        await journal.group('desired-prune', () => {
          for (const { name } of stray) repository.removeReport(name, 'refusal');
        });
      for (const { name } of stray) refusals.delete(name);
      const old = [...rows.values()].filter(
        (row) => !row.present && row.done && row.issuedAtMs < before && !waiting.has(row.name),
      );
      if (old.length === 0) return [];
      const floorMs = Math.max(state.floorMs(), ...old.map(({ issuedAtMs }) => issuedAtMs));
      await journal.group('desired-prune', () => {
        for (const { name } of old) repository.forget(name);
        state.setFloorMs(floorMs);
      });
      for (const { name } of old) {
        rows.delete(name);
        refusals.delete(name);
      }
      return old.map(({ name }) => name);
    },
  };
};

const textOf = ({ body }: Genuine): string => JSON.stringify(body);
/** The artifact's id where the directive tells it. */
const Addressed = z.object({ artifact_id: z.uuid() });
const addressOf = ({ body, object_id }: Genuine): string => {
  const addressed = z.safeParse(Addressed, body);
  return addressed.success ? addressed.data.artifact_id : object_id;
};
