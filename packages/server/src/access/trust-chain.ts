import { existsSync, lstatSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { Envelope } from '@aegis/protocol/access/dsse';
import { openTrustBundle, type TrustBundle } from '@aegis/protocol/access/trust-bundle';
import { digestOf, followTrust } from '@aegis/protocol/access/trust-chain';
import { AegisError } from '@aegis/protocol/errors';
import type { FaultPoints } from '@aegis/protocol/fault-points';
import * as z from 'zod/mini';
import { createPrivateFile, privateDirectory, readPrivateFile } from './private-files.ts';

/** Every version of the trust bundle, on disk: the first in fleet.json, each later one in a file of its own, `trust/<version>.json`, which
 *  names the digest of the one before. A version is there whole and for good, or not at all: the link that gives its file its name is the
 *  moment at which it counts, and fails when another process has taken the number. None is ever changed or removed. */

export interface TrustVersion {
  version: number;
  envelope: Envelope;
  bundle: TrustBundle;
}

const MAX_FILE_BYTES = 2 * 1024 * 1024;
const NAME = /^([1-9]\d{0,8})\.json$/;
const DRAFT = /^\.[0-9a-f]{16}\.new$/;
const folderOf = (dataDir: string): string => join(dataDir, 'trust');
const pathOf = (dataDir: string, version: number): string => join(folderOf(dataDir), `${version}.json`);

/** From the first to the newest, the first checked against the root, each later one against the one before.
 *  @throws AegisError config.invalid for a chain with a gap or a forged link, access.untrusted for a forged first one */
export const readTrustChain = (
  dataDir: string,
  first: Envelope,
  rootFingerprint: string,
): readonly [TrustVersion, ...TrustVersion[]] => {
  // Expired ones are history; and where the newest is, somebody has to be able to put the next one in force.
  const { bundle } = openTrustBundle(first, rootFingerprint, Number.NEGATIVE_INFINITY);
  const chain: [TrustVersion, ...TrustVersion[]] = [{ version: 1, envelope: first, bundle }];
  for (let last = chain[0]; last.version < newestIn(dataDir); chain.push(last)) last = following(dataDir, last);
  return chain;
};

/** The version after `before`, once it is there. @throws AegisError config.invalid when it does not follow from that */
export const nextInTrustChain = (dataDir: string, before: TrustVersion): TrustVersion | null =>
  existsSync(pathOf(dataDir, before.version + 1)) ? following(dataDir, before) : null;

/** @throws AegisError config.invalid */
const following = (dataDir: string, before: TrustVersion): TrustVersion => {
  const version = before.version + 1;
  const path = pathOf(dataDir, version);
  const envelope = envelopeIn(path);
  try {
    const { bundle } = followTrust({ bundle: before.bundle, payload: before.envelope.payload }, envelope);
    // A merge is for nodes that hold what this server lost; here each names the one before.
    if (bundle.version === version && bundle.previous === digestOf(before.envelope))
      return { version, envelope, bundle };
  } catch (cause) {
    throw broken(path, cause);
  }
  throw broken(path);
};

/** As it stands on disk, for whoever walks the chain; null when there is no such version.
 *  @throws AegisError config.invalid */
export const envelopeOfVersion = (dataDir: string, version: number): Envelope | null =>
  existsSync(pathOf(dataDir, version)) ? envelopeIn(pathOf(dataDir, version)) : null;

/** False when that version is there already. Durable when it returns. */
export const addToTrustChain = (dataDir: string, version: number, envelope: Envelope, faults: FaultPoints): boolean => {
  privateDirectory(folderOf(dataDir));
  faults.at('server.trust-before-link');
  const added = createPrivateFile(pathOf(dataDir, version), JSON.stringify(envelope));
  faults.at('server.trust-after-link');
  return added;
};

/** What a crash left half written; a draft of this moment may be another process's. */
export const removeTrustDrafts = (dataDir: string, shared: boolean): void => {
  for (const name of namesIn(dataDir)) {
    const path = join(folderOf(dataDir), name);
    if (DRAFT.test(name) && (!shared || isOld(path))) rmSync(path, { force: true });
  }
};

const DRAFT_MS = 60_000;
const isOld = (path: string): boolean =>
  Date.now() - (lstatSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Date.now()) > DRAFT_MS;

const namesIn = (dataDir: string): string[] => {
  try {
    return readdirSync(folderOf(dataDir));
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return []; // never changed yet
    throw error;
  }
};

const newestIn = (dataDir: string): number =>
  Math.max(1, ...namesIn(dataDir).map((name) => Number(NAME.exec(name)?.[1] ?? 1)));

const envelopeIn = (path: string): Envelope => {
  const text = readPrivateFile(path, MAX_FILE_BYTES);
  try {
    return z.parse(Envelope, JSON.parse(text ?? ''));
  } catch (cause) {
    throw broken(path, cause);
  }
};

const broken = (path: string, cause?: unknown): AegisError =>
  new AegisError(
    'config.invalid',
    `${path} is missing, damaged or not what the trust bundle before it led to. Restore the folder 'trust' from a backup of the data directory, whole.`,
    { cause },
  );
