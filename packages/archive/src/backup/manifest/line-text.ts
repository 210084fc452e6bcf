import { isUtf8 } from 'node:buffer';
import { type Entry, type EntryError, type FramePair, MANIFEST_FORMAT, type ManifestEnd } from './lines.ts';

/** The one text of each line, without its line break. Built by hand, and equal to JSON.stringify of the same object: a validation on writing would
 *  cost more than the rest of a manifest. The reader compares with it, so that a manifest has one form. */

const named = (key: string, bytes: Buffer): string =>
  isUtf8(bytes) ? `"${key}":${JSON.stringify(bytes.toString('utf8'))}` : `"${key}_b64":"${bytes.toString('base64')}"`;

export const backupText = (header: Readonly<Record<string, unknown>>): string =>
  JSON.stringify({ type: 'backup', format: MANIFEST_FORMAT, ...header });

export const entryText = (entry: Entry): string =>
  entryTextWith(entry, named('path', entry.path), entry.target === undefined ? '' : named('target', entry.target));

/** With the members for the names as given, the target's empty where there is none. */
export const entryTextWith = (entry: Entry, path: string, target: string): string =>
  `{"type":"entry",${path},"kind":"${entry.kind}","mode":${entry.mode},"uid":${entry.uid},"gid":${entry.gid},"user":${JSON.stringify(entry.user)},"group":${JSON.stringify(entry.group)},"size":${entry.size},"mtime":"${entry.mtime}"${entry.sha256 === undefined ? '' : `,"sha256":"${entry.sha256}"`},"header_sha256":"${entry.header_sha256}"${target && `,${target}`}${entry.sparse ? ',"sparse":true' : ''}${entry.status === undefined ? '' : `,"status":"${entry.status}"`},"offset":${entry.offset},"length":${entry.length}}`;

export const errorText = ({ path, code, message }: EntryError): string =>
  `{"type":"error",${named('path', path)},"code":${JSON.stringify(code)},"message":${JSON.stringify(message)}}`;

export const framesText = (frames: readonly FramePair[]): string =>
  `{"type":"frames","frames":[${frames.map(([tar, packed]) => `[${tar},${packed}]`).join(',')}]}`;

export const endText = ({ entries, errors, tar_bytes, archive }: ManifestEnd): string =>
  JSON.stringify({
    type: 'end',
    entries,
    errors,
    tar_bytes,
    archive: { bytes: archive.bytes, sha256: archive.sha256 },
  });
