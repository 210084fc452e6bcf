import { X509Certificate } from 'node:crypto';
import { parseRecipient } from '@aegis/archive/backup/age/keys';
import { selectionOf } from '@aegis/archive/backup/select/select';
import type { BackupSpec, Excludes } from '@aegis/protocol/backups/config';
import { presentConfig } from '@aegis/protocol/backups/directive';
import { AegisError } from '@aegis/protocol/errors';
import { isUuid } from '@aegis/protocol/ids';
import { checkSchedule } from './schedule.ts';

/** What is wrong with a configuration beyond its schema, and what nodes are told of one. */

/** Of one configuration as nodes get it, and of all of one node: they have to fit into one answer that a daemon reads. */
export const MAX_BODY_BYTES = 512 * 1024;
export const MAX_BYTES_PER_NODE = 3 * 1024 * 1024;

/** @param hasCredentials of its own @throws AegisError backups.bad_config, backups.bad_recipient */
export const checkSpec = async (spec: BackupSpec, hasCredentials: boolean, now: number): Promise<void> => {
  if (isUuid(spec.name)) throw bad('name: a name that looks like an id could not be told from one. Choose a word.');
  if (spec.schedule) checkSchedule(spec.schedule, now);
  for (const recipient of spec.encryption.recipients) parseRecipient(recipient);
  await checkExcludes(spec.exclude);
  const { destination } = spec;
  if (destination.kind === 's3' && destination.access === 'static' && !hasCredentials)
    throw bad(
      "destination.access = 'static' hands the configuration's own credentials to its nodes, and it has none. Give it credentials, or use 'signed'.",
    );
  if (destination.kind === 's3' && destination.ca !== undefined && !isCertificate(destination.ca))
    throw bad(
      "destination.ca is no certificate: give the PEM of the authority that signed the endpoint's (BEGIN CERTIFICATE).",
    );
  if (destination.kind === 'file' && hasCredentials)
    throw bad(
      "A configuration with a 'file' destination has no use for credentials. Leave them out, or set them to null.",
    );
  if (destination.kind === 'file') {
    const inside = spec.sources.find((source) => below(source, destination.path));
    if (inside !== undefined)
      throw bad(
        `sources: ${inside} lies inside the destination ${destination.path}. An archive of archives grows without end: choose another folder.`,
      );
  }
};

/** As they will be read; files of patterns are on the nodes. @throws AegisError backups.bad_config */
const checkExcludes = async (excludes: Excludes): Promise<void> => {
  if (JSON.stringify(excludes).length > MAX_BODY_BYTES) return; // refused for that; to read so many patterns takes seconds
  const readFile = (): Promise<Buffer> => Promise.reject(new RangeError('no files'));
  await selectionOf({ excludes: { ...excludes, files: [], ifiles: [] }, sources: [], readFile, env: {} });
};

/** @throws AegisError backups.bad_config */
export const bodyOf = (configId: string, spec: BackupSpec): string => {
  const text = JSON.stringify(presentConfig(configId, spec));
  if (Buffer.byteLength(text) > MAX_BODY_BYTES)
    throw bad(
      `The configuration is larger than the ${MAX_BODY_BYTES / 1024} KiB that a node takes. Put long lists of patterns into exclude.files on the node.`,
    );
  return text;
};

const isCertificate = (pem: string): boolean => {
  try {
    new X509Certificate(pem);
    return pem.includes('-----BEGIN CERTIFICATE-----');
  } catch {
    return false; // the refusal says what is wanted
  }
};
const below = (path: string, folder: string): boolean => {
  const [inner, outer] = [partsOf(path), partsOf(folder)];
  return outer.every((part, at) => inner[at] === part);
};
const partsOf = (path: string): string[] => path.split('/').filter((part) => part !== '');
const bad = (sentence: string): AegisError => new AegisError('backups.bad_config', sentence);
