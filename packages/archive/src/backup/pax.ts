/** PAX extended records (POSIX.1-2017, pax, "pax Extended Header"): `LENGTH KEY=VALUE\n`, the length in decimal and that of the whole
 *  record, its own digits included. Values are bytes: xattrs hold any, names any but NUL. */

/** Records one behind another in a buffer that is used again and again. */
export interface PaxRecords {
  /** Takes all records away. Those before stay readable until the next `add`. */
  clear(): void;
  add(key: string, value: Buffer | string): void;
  readonly length: number;
  copyTo(target: Buffer, at: number): void;
}

const START_BYTES = 4096;

export const paxRecords = (): PaxRecords => {
  let buffer = Buffer.allocUnsafeSlow(START_BYTES);
  let length = 0;
  return {
    clear: () => {
      length = 0;
    },
    add: (key, value) => {
      const valueBytes = typeof value === 'string' ? Buffer.byteLength(value) : value.length;
      const keyBytes = Buffer.byteLength(key, 'latin1');
      const total = recordBytes(keyBytes + valueBytes);
      if (length + total > buffer.length) {
        const larger = Buffer.allocUnsafeSlow(Math.max(buffer.length * 2, length + total));
        buffer.copy(larger, 0, 0, length);
        buffer = larger;
      }
      length += buffer.write(`${total} ${key}=`, length, 'latin1');
      length += typeof value === 'string' ? buffer.write(value, length, 'utf8') : value.copy(buffer, length);
      buffer[length++] = 0x0a;
    },
    get length() {
      return length;
    },
    copyTo: (target, at) => {
      buffer.copy(target, at, 0, length);
    },
  };
};

/** Of a record whose key and value have `content` bytes. */
const recordBytes = (content: number): number => {
  const rest = content + 3; // blank, equals sign, line feed
  const digits = String(rest).length;
  return String(rest + digits).length === digits ? rest + digits : rest + digits + 1;
};

/** Seconds and nanoseconds (0…999,999,999, counted forwards also before 1970, as statx has them) as a decimal number. */
export const paxTime = (sec: number, nsec: number): string => {
  if (nsec === 0) return String(sec);
  if (sec >= 0) return `${sec}.${nanos(nsec)}`;
  return `-${-(sec + 1)}.${nanos(1e9 - nsec)}`;
};

export const nanos = (nsec: number): string => String(nsec).padStart(9, '0');

/** A name of an xattr as GNU tar writes it behind `SCHILY.xattr.`: the equals sign would end the key. */
export const xattrKey = (name: Buffer): string =>
  `SCHILY.xattr.${name.toString('latin1').replaceAll('%', '%25').replaceAll('=', '%3D')}`;
