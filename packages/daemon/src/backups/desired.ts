import { Envelope } from '@aegis/protocol/access/dsse';
import { type ConfigBody, ConfigBody as ConfigBodySchema, type PresentConfig } from '@aegis/protocol/backups/directive';
import type { ErrorCode } from '@aegis/protocol/errors';
import * as z from 'zod/mini';
import { type Clock, isoTime } from '../platform/clock.ts';
import type { Journal } from '../platform/journal/journal.ts';
import type { Logger } from '../platform/log.ts';
import type { BackupsRepository, BackupsState, DesiredRow, Refusal } from './repository.ts';

/** Which configurations this node takes. What it takes is in the journal before anything is done about it; what it refuses changes nothing
 *  but a log line and, where the directive is genuine and for this node, a report. */

/** What access says of a directive; typed here because domains do not know each other. */
export type DesiredVerdict =
  | { kind: 'good'; directive: Genuine; issuedAtMs: number; byOperators: boolean }
  | { kind: 'refused'; code: ErrorCode; message: string; directive: Genuine | null };
interface Genuine {
  kind: string;
  object_id: string;
  generation: number;
  body?: unknown;
}

export interface DesiredOptions {
  repository: BackupsRepository;
  state: BackupsState;
  journal: Pick<Journal, 'group'>;
  verify(envelope: Envelope): DesiredVerdict;
  /** Configurations that may be assigned at once. */
  maxConfigs: number;
  clock: Clock;
  log: Logger;
}

export interface Held {
  row: DesiredRow;
  /** Null of a tombstone, and of what this release cannot read. */
  body: PresentConfig | null;
}

/** Directives live seven days at most and may be five minutes ahead: what a tombstone forbids has expired by then. */
const TOMBSTONE_MS = 7 * 24 * 3_600_000 + 3_600_000;
/** Tombstones, and refusals of what is not known here, for each configuration that may be assigned. */
const TOMBSTONES = 4;
/** Directives that are verified before the event loop gets a turn: thousands must not hold up a command. */
const TURN = 32;
const MAX_MESSAGE = 2000;
const ConfigId = z.uuid();

type Reason = Pick<Refusal, 'code' | 'message'>;
type Decision =
  | { kind: 'accept'; row: DesiredRow; body: PresentConfig | null }
  | { kind: 'refuse'; refusal: Refusal }
  /** No word of this fleet's to this node: there is nobody to tell but the log. */
  | { kind: 'unheard'; reason: Reason }
  | null;

export type Desired = ReturnType<typeof desiredState>;

export const desiredState = (options: DesiredOptions) => {
  const { repository, state, journal, verify, maxConfigs, clock, log } = options;
  const held = new Map<string, Held>(
    repository.desired().map((row) => [row.configId, { row, body: bodyOf(JSON.parse(row.body)) }]),
  );
  /** The last refusal of each. */
  const refusals = new Map(repository.refusals().map((one) => [one.configId, one]));

  const refuse = (reason: Reason, directive: Genuine | null): Decision => {
    if (!directive || !z.safeParse(ConfigId, directive.object_id).success) return { kind: 'unheard', reason };
    const { object_id: configId, generation } = directive;
    const before = refusals.get(configId);
    if (before?.generation === generation && before.code === reason.code) return null; // told already
    return {
      kind: 'refuse',
      refusal: {
        configId,
        generation,
        code: reason.code,
        message: reason.message.slice(0, MAX_MESSAGE),
        atMs: clock.now(),
      },
    };
  };

  const decide = (one: unknown, pending: ReadonlyMap<string, Held>): Decision => {
    const envelope = z.safeParse(Envelope, one);
    if (!envelope.success)
      return { kind: 'unheard', reason: { code: 'access.bad_directive', message: 'It is no signed directive.' } };
    const verdict = verify(envelope.data);
    const { directive } = verdict;
    if (directive && directive.kind !== 'backups.config')
      return refuse(bad(`A '${directive.kind}' is no backup configuration.`), null);
    if (verdict.kind === 'refused') {
      const known = directive && held.get(directive.object_id)?.row;
      // The very wish that is held already: nothing to refuse in it, its copy has merely grown old.
      if (known && directive && known.generation === directive.generation && known.body === textOf(directive))
        return null;
      return refuse({ code: verdict.code, message: verdict.message }, directive);
    }
    const good = verdict.directive;
    const { object_id: configId, generation } = good;
    const parsed = z.safeParse(ConfigBodySchema, good.body);
    if (!parsed.success)
      return refuse(
        bad(
          "The directive's body is no configuration that this release understands. Give server and node the same release.",
        ),
        good,
      );
    const body: ConfigBody = parsed.data;
    if (body.config_id !== configId)
      return refuse(bad(`The directive is about ${configId}, its body about ${body.config_id}.`), good);
    const known = (pending.get(configId) ?? held.get(configId))?.row;
    const text = textOf(good);
    if (known && generation < known.generation)
      return refuse(
        {
          code: 'backups.stale_generation',
          message: `Generation ${generation} of this configuration is older than ${known.generation}, which this node holds. If the server was restored from a backup, edit the configuration until its generation is greater.`,
        },
        good,
      );
    if (known && generation === known.generation) {
      if (known.body === text) return null;
      return refuse(
        {
          code: 'backups.generation_conflict',
          message: `Generation ${generation} of this configuration came with another body before: the first one stays. Edit the configuration to make a new generation.`,
        },
        good,
      );
    }
    // Who only carries it numbers it: of what operators sign, the later word counts, whatever its number.
    if (known && verdict.byOperators && verdict.issuedAtMs < known.issuedAtMs)
      return refuse(
        {
          code: 'access.stale_directive',
          message: `The directive was issued at ${isoTime(verdict.issuedAtMs)}, before the one that this node holds (${isoTime(known.issuedAtMs)}). If it is meant, sign it again; see that the operators' clocks are right.`,
        },
        good,
      );
    if (!known && verdict.issuedAtMs <= state.floorMs())
      return refuse(
        {
          code: 'access.stale_directive',
          message:
            'The directive is from before what this node still remembers of removed configurations: edit the configuration to make a new one.',
        },
        good,
      );
    const present = (pending.get(configId) ?? held.get(configId))?.body;
    // The id is the server's word, the name is what was signed: the one may not be put in the other's place.
    if (verdict.byOperators && body.state === 'present' && present && present.name !== body.name)
      return refuse(
        bad(
          `This configuration is '${present.name}' here, and what was signed is called '${body.name}': the server may have given the one the other's id. If it is a new name for the same, delete '${present.name}', sign that, and make '${body.name}' anew.`,
        ),
        good,
      );
    if (body.state === 'present') {
      const full = roomFor(configId, pending);
      if (full) return refuse(full, good);
    }
    const row: DesiredRow = {
      configId,
      generation,
      present: body.state === 'present',
      body: text,
      envelope: JSON.stringify(envelope.data),
      issuedAtMs: verdict.issuedAtMs,
      acceptedAtMs: clock.now(),
      scheduledUntilMs: 0,
    };
    const before = known && held.get(configId)?.body;
    const next = body.state === 'present' ? body : null;
    // Another schedule, or the end of a pause, catches nothing up.
    const goesOn = next !== null && before && !before.paused && sameSchedule(before, next);
    row.scheduledUntilMs = goesOn && known ? known.scheduledUntilMs : row.acceptedAtMs;
    return { kind: 'accept', row, body: next };
  };

  const roomFor = (configId: string, pending: ReadonlyMap<string, Held>): Reason | null => {
    const all = new Map<string, Held>([...held, ...pending]);
    all.delete(configId);
    const present = [...all.values()].filter(({ row }) => row.present).length;
    if (present < maxConfigs && all.size < maxConfigs * (TOMBSTONES + 1)) return null;
    return {
      code: 'backups.storage_full',
      message: `This node holds ${maxConfigs} backup configurations already: take one off, or raise its backups_max_configs.`,
    };
  };

  return {
    held: held as ReadonlyMap<string, Held>,
    refusals: refusals as ReadonlyMap<string, Refusal>,
    /** That is present and has this name. */
    named: (name: string): Held | undefined => [...held.values()].find(({ body }) => body?.name === name),
    /** Journals what is good of these. True when anything is to be told.
     *  @throws AegisError journal.full | journal.failed: then nothing was taken */
    take: async (directives: readonly unknown[]): Promise<boolean> => {
      const accepted = new Map<string, Held>();
      const refused = new Map<string, Refusal>();
      const unheard = new Map<string, { reason: Reason; directives: number }>();
      for (const [nth, one] of directives.entries()) {
        if (nth % TURN === TURN - 1) await new Promise((resolve) => setImmediate(resolve));
        const decision = decide(one, accepted);
        if (decision?.kind === 'accept') {
          const { row, body } = decision;
          accepted.set(row.configId, { row, body });
          if ((refused.get(row.configId)?.generation ?? 0) <= row.generation) refused.delete(row.configId);
        } else if (decision?.kind === 'refuse') {
          const { configId } = decision.refusal;
          const known = held.has(configId) || refusals.has(configId) || refused.has(configId);
          if (known || refusals.size + refused.size < maxConfigs * (TOMBSTONES + 1))
            refused.set(configId, decision.refusal);
        } else if (decision?.kind === 'unheard') {
          const before = unheard.get(decision.reason.code);
          if (before) before.directives++;
          else unheard.set(decision.reason.code, { reason: decision.reason, directives: 1 });
        }
      }
      for (const { reason, directives: count } of unheard.values())
        log.warn({ code: reason.code, directives: count }, `refused a directive of desired state: ${reason.message}`);
      if (accepted.size === 0 && refused.size === 0) return false;
      await journal.group('backup-configs', () => {
        for (const { row } of accepted.values()) {
          repository.putDesired(row);
          repository.removeRefusal(row.configId);
        }
        for (const refusal of refused.values()) repository.putRefusal(refusal);
      });
      for (const [configId, one] of accepted) {
        held.set(configId, one);
        refusals.delete(configId);
        const fields = { config: one.body?.name ?? configId, generation: one.row.generation };
        log.info(fields, one.row.present ? 'accepted a backup configuration' : 'a backup configuration was taken off');
      }
      for (const [configId, refusal] of refused) {
        refusals.set(configId, refusal);
        const { code, generation, message } = refusal;
        log.warn({ code, config: configId, generation }, `refused a directive of desired state: ${message}`);
      }
      return true;
    },
    /** In memory what the journal holds already. */
    scheduledUntil: (configId: string, ms: number): void => {
      const one = held.get(configId);
      if (one) one.row.scheduledUntilMs = ms;
    },
    /** Forgets tombstones that no directive that still holds could contradict, and refusals of what is not known here. */
    prune: async (): Promise<void> => {
      const before = clock.now() - TOMBSTONE_MS;
      const old = [...held.values()].filter(({ row }) => !row.present && row.issuedAtMs < before);
      const stray = [...refusals.values()]
        .filter(({ configId, atMs }) => !held.has(configId) && atMs < before)
        .map(({ configId }) => configId);
      if (old.length === 0 && stray.length === 0) return;
      const floorMs = Math.max(state.floorMs(), ...old.map(({ row }) => row.issuedAtMs));
      await journal.group('backup-prune', () => {
        for (const { row } of old) repository.removeDesired(row.configId);
        for (const configId of stray) repository.removeRefusal(configId);
        if (old.length > 0) state.setFloorMs(floorMs);
      });
      for (const { row } of old) held.delete(row.configId);
      for (const configId of stray) refusals.delete(configId);
    },
  };
};

const bad = (message: string): Reason => ({ code: 'access.bad_directive', message });
const textOf = ({ body }: Genuine): string => JSON.stringify(body);
const bodyOf = (value: unknown): PresentConfig | null => {
  const parsed = z.safeParse(ConfigBodySchema, value);
  return parsed.success && parsed.data.state === 'present' ? parsed.data : null;
};
const sameSchedule = (a: PresentConfig, b: PresentConfig): boolean =>
  a.work.schedule?.cron === b.work.schedule?.cron && a.work.schedule?.timezone === b.work.schedule?.timezone;
