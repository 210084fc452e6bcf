import type { Directive } from '@aegis/protocol/access/directive';
import type { Envelope } from '@aegis/protocol/access/dsse';
import type { Submission } from '@aegis/protocol/commands/submission';
import { AegisError } from '@aegis/protocol/errors';
import type { Api } from '../api/client.ts';
import { readLocal } from '../artifacts/local-files.ts';
import type { Surroundings } from '../surroundings.ts';
import { plainText } from '../ui/plain-text.ts';
import { facts } from '../ui/table.ts';
import { type KeyFlags, type OperatorSigner, operatorSigner } from './operator-key.ts';

/** What an operator signs: made here, from what the operator typed, and shown before it is signed. Schemas are loaded when something is to be
 *  signed: without a key nobody pays for them. */

const SEVEN_DAYS_MS = 7 * 24 * 3_600_000;
const NEXT = "Make one with 'aegis submit --sign-only'.";

/** The same, with the operator's directive where there is a key and it carries none yet. */
export const signedSubmission = async (
  signer: OperatorSigner | null,
  submission: Partial<Submission>,
  now: number,
): Promise<Partial<Submission>> => {
  if (signer === null || submission.directive || submission.dry_run) return submission;
  const { directiveOf } = await import('@aegis/protocol/commands/signed');
  const directive = directiveOf(submission, { fleet: signer.fleet, id: await newId(now), now });
  return { ...submission, directive: await signer.sign(directive) };
};

/** For commands that submit on the way: with the key of flags, environment or context where there is one. */
export const withSignature = async (
  api: Api,
  submission: Partial<Submission>,
  flags: KeyFlags,
  around: Surroundings,
): Promise<Partial<Submission>> => signedSubmission(await operatorSigner(api, flags, around), submission, around.now());

/** The body of a cancel, signed where there is a key. */
export const cancelBody = async (
  signer: OperatorSigner | null,
  commandId: string,
  node: string | undefined,
  now: number,
): Promise<{ node?: string; directive?: Envelope }> => {
  const where = node === undefined ? {} : { node };
  if (signer === null) return where;
  const { selectorOfTargets } = await import('@aegis/protocol/access/operators');
  const directive = await signer.sign({
    fleet: signer.fleet,
    id: await newId(now),
    kind: 'command.cancel',
    targets: { selector: selectorOfTargets([node ?? 'all']) },
    issued_at: new Date(now).toISOString(),
    expires_at: new Date(now + SEVEN_DAYS_MS).toISOString(),
    max_attempts: 1,
    body: { command_id: commandId },
  });
  return { ...where, directive };
};

const newId = async (now: number): Promise<string> => {
  const { uuidv7Generator } = await import('@aegis/protocol/ids');
  return uuidv7Generator(() => now)();
};

/** @throws AegisError cli.usage, access.bad_directive */
export const readSigned = async (file: string): Promise<{ envelope: Envelope; directive: Directive }> => {
  const text = readLocal(file, NEXT, { bytes: 16 * 1024 * 1024, code: 'access.bad_directive' }).toString('utf8');
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new AegisError('access.bad_directive', `${file} is not JSON. ${NEXT}`, { cause });
  }
  const z = await import('zod/mini');
  const dsse = await import('@aegis/protocol/access/dsse');
  const envelope = z.safeParse(dsse.Envelope, value);
  if (!envelope.success) throw new AegisError('access.bad_directive', `${file} is no signed directive. ${NEXT}`);
  const { readDirective } = await import('@aegis/protocol/access/operators');
  return { envelope: envelope.data, directive: readDirective(envelope.data) };
};

/** What is signed, for whoever is to sign it too: made of the signed bytes alone. */
export const directiveText = ({ fleet, id, kind, targets, body, ...rest }: Directive): string =>
  facts([
    ['kind', kind],
    ['fleet', plainText(fleet)],
    ['targets', 'selector' in targets ? plainText(targets.selector) : plainText(targets.node_keys.join(', '))],
    ['issued', rest.issued_at],
    ['not before', rest.not_before ?? null],
    ['expires', rest.expires_at],
    ['attempts', String(rest.max_attempts)],
    ['object', rest.object_id === undefined ? null : plainText(`${rest.object_id}, generation ${rest.generation}`)],
    ['id', id],
    ['body', plainText(JSON.stringify(body))],
  ]);
