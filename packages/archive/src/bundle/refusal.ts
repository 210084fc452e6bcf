import { AegisError } from '@aegis/protocol/errors';

/** How this folder says no: one of three codes, a reason for machines in `details.reason`, a sentence for people. What a bundle's
 *  author wrote gets into a sentence only through `quoted`: it may hold terminal sequences, and be long. */

/** Not the form of a bundle. */
export const badBundle = (reason: string, sentence: string, details: Record<string, unknown> = {}): AegisError =>
  new AegisError('artifacts.bad_bundle', sentence, { details: { reason, ...details } });
/** More than a bundle may have. */
export const overLimit = (reason: string, sentence: string, details: Record<string, unknown> = {}): AegisError =>
  new AegisError('artifacts.bundle_limit', sentence, { details: { reason, ...details } });
/** manifest.json, or the files at odds with it. */
export const badManifest = (reason: string, sentence: string, details: Record<string, unknown> = {}): AegisError =>
  new AegisError('artifacts.bad_manifest', sentence, { details: { reason, ...details } });

const MOST_CHARS = 160;
/** Shortened, and what a terminal would not show as it is as an escape. */
export const plain = (text: string): string => {
  const escaped = text
    .slice(0, MOST_CHARS + 1)
    .replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (char) => `\\u{${char.codePointAt(0)?.toString(16)}}`);
  return escaped.length > MOST_CHARS ? `${escaped.slice(0, MOST_CHARS)}…` : escaped;
};
export const quoted = (text: string): string => `'${plain(text)}'`;
