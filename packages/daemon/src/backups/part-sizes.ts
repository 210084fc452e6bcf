/** How large part n of an upload is. S3 takes at most 10,000 parts of at most 5 GiB. Equal as long as it can be, because some S3 servers want
 *  all parts but the last alike; then doubled every 400 parts, so that from 16 MiB they reach beyond 5 TiB. */

const MIB = 1024 * 1024;
const EQUAL_PARTS = 5000;
const DOUBLED_EVERY = 400;
const MAX_PART_BYTES = 5 * 1024 * MIB;

/** @param number from 1 on */
export const partBytes = (firstBytes: number, number: number): number => {
  const doublings = number <= EQUAL_PARTS ? 0 : Math.ceil((number - EQUAL_PARTS) / DOUBLED_EVERY);
  return Math.min(MAX_PART_BYTES, firstBytes * 2 ** doublings);
};

/** With room for twice what the archive was last time before parts grow. */
export const firstPartBytes = (leastBytes: number, lastArchiveBytes: number): number =>
  Math.min(MAX_PART_BYTES, Math.max(leastBytes, Math.ceil((2 * lastArchiveBytes) / EQUAL_PARTS / MIB) * MIB));
