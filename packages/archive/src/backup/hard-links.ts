/** Which entry of the archive has an inode already. Remembers inodes with several links in some 60 bytes each, names of one directory behind its path;
 *  beyond its bound files are stored again, whole: nothing is lost but that they were one. */

export interface Inode {
  device: number;
  inodeHigh: number;
  inodeLow: number;
  /** Tells a file from a later one that got the same number. */
  size: number;
  mtimeSec: number;
  mtimeNsec: number;
}

export interface HardLinks {
  /** The first entry's path; `changed` when there is one, and the file is no longer what it was then. */
  first(inode: Inode): Buffer | 'changed' | null;
  /** False when there is no more room. */
  remember(inode: Inode, directory: Buffer, name: Buffer): boolean;
}

export const MOST_LINKED_INODES = 1_000_000;
const MOST_PATH_BYTES = 128 * 1024 * 1024;
const START_SLOTS = 1024;
/** Words of a slot: device (from 1 on; 0 is a free slot), inode in two halves, print of size and time, then where directory and name lie. */
const WORDS = 8;

export const hardLinks = (mostInodes: number = MOST_LINKED_INODES): HardLinks => {
  const devices = new Map<number, number>();
  const paths = byteStore(MOST_PATH_BYTES);
  let slots = new Uint32Array(START_SLOTS * WORDS);
  let count = 0;
  let lastDirectory = { at: -1, length: 0 };

  /** Where the inode is, or the free slot where it belongs. */
  const find = (table: Uint32Array, device: number, high: number, low: number): number => {
    const mask = table.length / WORDS - 1;
    let slot = (Math.imul(low, 0x9e3779b1) ^ Math.imul(high + device, 0x85ebca6b)) >>> 0;
    for (slot = (slot ^ (slot >>> 15)) & mask; ; slot = (slot + 1) & mask) {
      const at = slot * WORDS;
      if (table[at] === 0 || (table[at] === device && table[at + 1] === high && table[at + 2] === low)) return at;
    }
  };
  const grow = (): void => {
    const larger = new Uint32Array(slots.length * 2);
    for (let at = 0; at < slots.length; at += WORDS) {
      const device = slots[at] ?? 0;
      if (device === 0) continue;
      larger.set(slots.subarray(at, at + WORDS), find(larger, device, slots[at + 1] ?? 0, slots[at + 2] ?? 0));
    }
    slots = larger;
  };
  const keepDirectory = (path: Buffer): number => {
    const { at: before, length } = lastDirectory;
    if (before >= 0 && paths.get(before, length).equals(path)) return before;
    const at = paths.add(path);
    if (at >= 0) lastDirectory = { at, length: path.length };
    return at;
  };

  return {
    first: (inode) => {
      const at = find(slots, devices.get(inode.device) ?? 0xffff_ffff, inode.inodeHigh, inode.inodeLow);
      if (slots[at] === 0) return null;
      if (slots[at + 3] !== printOf(inode)) return 'changed';
      const directory = paths.get(slots[at + 4] ?? 0, slots[at + 5] ?? 0);
      const name = paths.get(slots[at + 6] ?? 0, slots[at + 7] ?? 0);
      return directory.length === 0 ? Buffer.from(name) : Buffer.concat([directory, SLASH, name]);
    },
    remember: (inode, directory, name) => {
      if (count >= mostInodes) return false;
      const directoryAt = keepDirectory(directory);
      const nameAt = paths.add(name);
      if (directoryAt < 0 || nameAt < 0) return false;
      const device = devices.get(inode.device) ?? devices.size + 1;
      devices.set(inode.device, device);
      if ((count + 1) * WORDS > slots.length * 0.6) grow();
      const at = find(slots, device, inode.inodeHigh, inode.inodeLow);
      if (slots[at] === 0) count += 1;
      slots.set(
        [device, inode.inodeHigh, inode.inodeLow, printOf(inode), directoryAt, directory.length, nameAt, name.length],
        at,
      );
      return true;
    },
  };
};

const SLASH = Buffer.from('/');

const printOf = ({ size, mtimeSec, mtimeNsec }: Inode): number =>
  (Math.imul(size % 0x1_0000_0000, 0x9e3779b1) ^ Math.imul(mtimeSec % 0x1_0000_0000, 0x85ebca6b) ^ mtimeNsec) >>> 0;

/** Bytes one behind another, doubling. */
const byteStore = (most: number) => {
  let bytes = Buffer.allocUnsafeSlow(4096);
  let used = 0;
  return {
    /** Where they lie, or -1 when there is no room. */
    add: (added: Buffer): number => {
      if (used + added.length > most) return -1;
      if (used + added.length > bytes.length) {
        const larger = Buffer.allocUnsafeSlow(Math.max(bytes.length * 2, used + added.length));
        bytes.copy(larger, 0, 0, used);
        bytes = larger;
      }
      used += added.copy(bytes, used);
      return used - added.length;
    },
    get: (at: number, length: number): Buffer => bytes.subarray(at, at + length),
  };
};
