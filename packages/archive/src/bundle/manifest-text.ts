import { parseStrictJson } from '@aegis/protocol/access/strict-json';
import { MANIFEST_FILE, Manifest } from '@aegis/protocol/artifacts/manifest';
import { validate } from '@aegis/protocol/validation';
import { canonicalJson } from './canonical-json.ts';
import { badManifest, plain } from './refusal.ts';

/** manifest.json as bytes: canonical JSON (RFC 8785) in UTF-8, without a line break at its end. Written with every default in its place, so
 *  that what is signed says everything; read with defaults left out too, so that a later release may add a field. */

/** An assignment repeats programs and maps one level deeper, and nodes read 32 levels of a directive: a later release may wrap more. */
const MAX_DEPTH = 24;

export const writeManifest = (manifest: Manifest): Buffer => {
  const checked = checkManifest(manifest);
  try {
    return Buffer.from(canonicalJson(checked), 'utf8');
  } catch (fault) {
    throw badManifest('not_json', `The manifest cannot be written: ${plain(messageOf(fault))}.`);
  }
};

/** @throws AegisError artifacts.bad_manifest */
export const readManifest = (bytes: Uint8Array): Manifest => {
  const text = decode(bytes);
  const value = parse(text);
  if (canonical(value) !== text)
    throw badManifest(
      'not_canonical',
      `${MANIFEST_FILE} is not canonical JSON (RFC 8785: sorted keys, no white space): pack it with 'aegis artifacts pack'.`,
    );
  return checkManifest(value);
};

/** @throws AegisError artifacts.bad_manifest naming the field */
export const checkManifest = (value: unknown): Manifest => {
  const checked = validate(Manifest, value, 'manifest');
  if (checked.ok) return checked.value;
  const { field, reason, issues } = checked.refusal;
  throw badManifest('invalid', `${plain(field)}: ${plain(reason.replace(/\.$/, ''))}. See docs/artifact-format.md.`, {
    field: plain(field),
    issues: issues.map((issue) => ({ field: plain(issue.field), reason: plain(issue.reason) })),
  });
};

const decode = (bytes: Uint8Array): string => {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw badManifest('not_utf8', `${MANIFEST_FILE} is not UTF-8.`);
  }
};

const parse = (text: string): unknown => {
  try {
    return parseStrictJson(text, MAX_DEPTH);
  } catch (fault) {
    throw badManifest('not_json', `${MANIFEST_FILE} is no JSON that Aegis reads: ${plain(messageOf(fault))}.`);
  }
};

/** Null for what has no canonical form (half a surrogate pair, written as an escape). */
const canonical = (value: unknown): string | null => {
  try {
    return canonicalJson(value);
  } catch {
    return null;
  }
};

const messageOf = (fault: unknown): string => (fault instanceof Error ? fault.message : String(fault));
