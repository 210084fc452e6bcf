import { zstdDecompressSync } from 'node:zlib';
import { MANIFEST_FILE } from '@aegis/protocol/artifacts/manifest';
import { AegisError } from '@aegis/protocol/errors';
import { expect } from 'vitest';
import { readBundle } from '../src/bundle/read.ts';
import { writeTar } from '../src/bundle/tar-form.ts';

/** What reading came to, where only two things may come: a refusal of ours, or a bundle in its one form. */

const CODES = ['artifacts.bad_bundle', 'artifacts.bundle_limit', 'artifacts.bad_manifest'];

/** The reason it was refused for, or null when it was read. Anything else than our own refusals is a fault of the reader. */
export const outcomeOf = async (bytes: Buffer): Promise<string | null> => {
  try {
    const { manifestBytes, files } = await readBundle(bytes);
    const entries = [...files].map(([name, content]) => ({ name, bytes: content }));
    expect(
      writeTar([{ name: MANIFEST_FILE, bytes: manifestBytes }, ...entries]).equals(zstdDecompressSync(bytes)),
    ).toBe(true);
    return null;
  } catch (fault) {
    if (!(fault instanceof AegisError) || !CODES.includes(fault.code)) throw fault;
    expect(fault.message).toMatch(/^[^\p{Cc}]{10,600}\.?$/u);
    return String(fault.details.reason);
  }
};
