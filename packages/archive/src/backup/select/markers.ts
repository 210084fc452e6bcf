import type { Excludes } from '@aegis/protocol/backups/config';
import { AegisError } from '@aegis/protocol/errors';
import type { DirectoryView, Members } from './selection.ts';

/** Files whose presence takes a directory's other members out of the backup: CACHEDIR.TAG (https://bford.info/cachedir/) and those of one's own. */

interface Marker {
  name: Buffer;
  /** What the file must begin with; empty: its presence is enough, whatever it is. */
  header: Buffer;
}

const CACHE: Marker = {
  name: Buffer.from('CACHEDIR.TAG'),
  header: Buffer.from('Signature: 8a477f597d28d172789f06886806bc55'),
};

/** The directory and the marker itself stay.
 *  @throws AegisError backups.bad_config for a marker that is no name */
export const markersOf = ({
  caches,
  if_present,
}: Pick<Excludes, 'caches' | 'if_present'>): ((directory: DirectoryView) => Members) => {
  const markers = [...(caches ? [CACHE] : []), ...if_present.map(parseMarker)];
  if (markers.length === 0) return () => 'all';
  return (directory) => {
    const found = markers.filter(
      ({ name, header }) => directory.has(name) && (header.length === 0 || beginsWith(directory, name, header)),
    );
    const [first] = found;
    if (!first) return 'all';
    // Each marker takes out all but itself: of two different ones, nothing stays.
    return found.every(({ name }) => name.equals(first.name)) ? { only: [first.name] } : 'none';
  };
};

const beginsWith = (directory: DirectoryView, name: Buffer, header: Buffer): boolean =>
  directory.read(name, header.length)?.equals(header) ?? false;

const parseMarker = (text: string): Marker => {
  const colon = text.indexOf(':');
  const name = colon === -1 ? text : text.slice(0, colon);
  if (name === '' || name.includes('/'))
    throw new AegisError(
      'backups.bad_config',
      `The marker '${text}' is not of the form NAME or NAME:HEADER, where NAME is a file's name without folders.`,
    );
  return { name: Buffer.from(name), header: Buffer.from(colon === -1 ? '' : text.slice(colon + 1)) };
};
