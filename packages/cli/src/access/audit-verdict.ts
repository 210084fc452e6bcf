import type { AuditVerdict } from '@aegis/protocol/access/audit-verify';
import { plainText } from '../ui/plain-text.ts';
import { facts } from '../ui/table.ts';

/** What a verification found, for people. */
export const verdictText = (verdict: AuditVerdict, asked: { pinned: boolean; heads: number }): string => {
  const { first_seq, last_seq, cut_seq, signed_seq, kept, kept_too_old } = verdict;
  const unsigned = signed_seq === null ? 'nothing is signed' : `signed up to entry ${signed_seq}`;
  const lines = verdict.findings.map(({ line, seq, what, message }) => {
    const where = line === null ? '' : `line ${line}: `;
    return `${where}${what}${seq === null ? '' : ` (entry ${seq})`}: ${plainText(message)}\n`;
  });
  const notes = [
    ...(asked.pinned ? [] : ['the root key is the one that the export names: pin it with --root']),
    ...(asked.heads > 0 ? [] : ['no head was kept elsewhere: --head shows whether the newest entries are gone']),
    ...(kept_too_old > 0 ? [`${kept_too_old} kept heads are older than what retention removed`] : []),
  ];
  return [
    ...lines,
    facts([
      ['fleet', verdict.fleet],
      ['root', verdict.root_fingerprint],
      ['entries', first_seq === null ? '0' : `${verdict.entries} (${first_seq} to ${last_seq})`],
      ['removed', cut_seq === null ? null : `up to entry ${cut_seq}, by retention, signed`],
      ['signed', unsigned],
      ['kept', asked.heads > 0 ? `${kept} of ${asked.heads} heads fit` : null],
      ['verdict', verdict.intact ? 'intact' : `NOT INTACT: ${verdict.findings.length} findings`],
    ]),
    ...notes.map((note) => `note: ${note}\n`),
  ].join('');
};
