import { decideRetention, type RetentionRun } from '@aegis/protocol/backups/decide-retention';
import type { RetentionPolicy } from '@aegis/protocol/backups/retention';
import { expect, test } from 'vitest';
import { chanceOf } from './mutants.ts';
import { type Restic, startRestic } from './restic.ts';
import { historyOf, optionsOf, policyOf, ZONES } from './retention-cases.ts';

/** Generated histories and policies: what stays, and why, is what Debian's restic says (AEGIS_SEED to repeat a run). All histories are in one repository,
 *  each a host's; each call of restic judges all of a zone by one policy. */

const HISTORIES = process.env.AEGIS_LONG ? 300 : 20;
const POLICIES = process.env.AEGIS_LONG ? 60 : 15;
const SEED = Number(process.env.AEGIS_SEED ?? 4);

interface Group {
  host: string;
  keep: { username: string }[] | null;
  remove: { username: string }[] | null;
  reasons: { matches: string[] }[] | null;
}

/** Run → restic's reasons, in our words; none: it goes. */
const judged = ({ keep, remove, reasons }: Group): Map<string, string[]> =>
  new Map([
    ...(keep ?? []).map(({ username }, at): [string, string[]] => [
      username,
      (reasons?.[at]?.matches ?? []).map((reason) => reason.replace('snapshot', 'run')),
    ]),
    ...(remove ?? []).map(({ username }): [string, string[]] => [username, []]),
  ]);

const forget = async (
  restic: Restic,
  zone: string,
  hosts: readonly string[],
  policy: RetentionPolicy,
): Promise<Group[]> => {
  const args = [
    'forget',
    '--dry-run',
    '--no-lock',
    '--json',
    '--group-by',
    'host',
    ...hosts.flatMap((host) => ['--host', host]),
    ...optionsOf(policy),
  ];
  const text = await restic.run(args, { TZ: zone });
  return text === '' ? [] : JSON.parse(text); // nothing at all for a policy without rules
};

/** As restic writes times: with the offset that its zone has at the moment. */
const written = (ms: number, zone: string): string => {
  const format = new Intl.DateTimeFormat('sv-SE', { timeZone: zone, dateStyle: 'short', timeStyle: 'medium' });
  const name = new Intl.DateTimeFormat('en', { timeZone: zone, timeZoneName: 'longOffset' }).formatToParts(ms);
  const offset = name.find(({ type }) => type === 'timeZoneName')?.value.slice(3) || 'Z';
  return `${format.format(ms).replace(' ', 'T')}.${String(ms % 1000).padStart(3, '0')}${offset}`;
};

test(`${HISTORIES} generated histories are forgotten as restic forgets them`, {
  timeout: 60_000 + HISTORIES * 5000,
}, async () => {
  using restic = startRestic();
  const now = Date.now();
  const histories = new Map<string, { zone: string; runs: RetentionRun[] }>();
  for (let nr = 0; nr < HISTORIES; nr++) {
    const host = `host-${nr}`;
    const zone = ZONES[nr % ZONES.length] ?? 'UTC';
    const runs = historyOf(now, chanceOf(SEED * 1000 + nr));
    histories.set(host, { zone, runs });
    for (const { id, at, tags } of runs)
      restic.repository.addSnapshot({ time: written(at, zone), hostname: host, username: id, tags });
  }
  let compared = 0;
  for (const [index, zone] of ZONES.entries()) {
    const hosts = [...histories].filter(([, history]) => history.zone === zone).map(([host]) => host);
    const chance = chanceOf(SEED * 7919 + index);
    for (let nr = 0; nr < POLICIES; nr++) {
      const policy = policyOf(chance);
      const groups = await forget(restic, zone, hosts, policy);
      for (const host of hosts) {
        const runs = histories.get(host)?.runs ?? [];
        const about = JSON.stringify({ host, zone, policy });
        const ours = decideRetention(policy, runs, now, { timezone: zone });
        const group = groups.find((one) => one.host === host);
        if (!group) {
          expect(
            ours.every(({ keep, reasons }) => keep && reasons[0] === 'the policy has no rules'),
            about,
          ).toBe(true);
          continue;
        }
        const theirs = judged(group);
        const decided = ours.map(({ id, keep, reasons }) => [id, keep ? reasons : []]);
        // Where restic leaves nothing, the newest stays with us.
        const expected = ours.map(({ id }, at) => {
          const reasons = theirs.get(id) ?? ['not told'];
          return [id, reasons.length === 0 && at === 0 ? ['last good run'] : reasons];
        });
        expect(decided, about).toEqual(expected);
        compared += 1;
      }
    }
  }
  expect(compared).toBeGreaterThan((HISTORIES * POLICIES) / 2);
  if (process.env.AEGIS_LONG) console.log(`retention: ${compared} histories compared`);
});
