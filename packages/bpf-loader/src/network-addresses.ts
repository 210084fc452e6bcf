import { isIPv4, isIPv6 } from 'node:net';

/** Addresses between their text and their bytes as packets carry them. The functions that read text answer null to what is none. */

export const ipv4Text = (bytes: Uint8Array): string => Array.from(bytes.subarray(0, 4)).join('.');

export const ipv4Bytes = (text: string): Uint8Array | null =>
  isIPv4(text) ? Uint8Array.from(text.split('.'), Number) : null;

/** RFC 5952: lower case, the first longest run of zeros left out, an IPv4-mapped address with its dotted end. */
export const ipv6Text = (bytes: Uint8Array): string => {
  const groups = Array.from({ length: 8 }, (_, at) => ((bytes[at * 2] ?? 0) << 8) | (bytes[at * 2 + 1] ?? 0));
  if (groups.slice(0, 5).every((group) => group === 0) && groups[5] === 0xffff)
    return `::ffff:${ipv4Text(bytes.subarray(12))}`;
  let from = -1;
  let length = 1;
  for (let at = 0; at < 8; at += 1) {
    let end = at;
    while (end < 8 && groups[end] === 0) end += 1;
    if (end - at > length) {
      from = at;
      length = end - at;
    }
  }
  const hex = (part: number[]) => part.map((group) => group.toString(16)).join(':');
  return from < 0 ? hex(groups) : `${hex(groups.slice(0, from))}::${hex(groups.slice(from + length))}`;
};

export const ipv6Bytes = (text: string): Uint8Array | null => {
  if (!isIPv6(text) || text.includes('%')) return null;
  const dotted = /^(.*:)(\d+\.\d+\.\d+\.\d+)$/.exec(text);
  const tail = dotted ? ipv4Bytes(dotted[2] ?? '') : null;
  const plain = dotted && tail ? `${dotted[1]}${hexPair(tail, 0)}:${hexPair(tail, 2)}` : text;
  const [before = '', after] = plain.split('::');
  const groups = (part: string) => (part === '' ? [] : part.split(':').map((group) => Number.parseInt(group, 16)));
  const head = groups(before);
  const rest = after === undefined ? [] : groups(after);
  const all = [...head, ...Array.from({ length: 8 - head.length - rest.length }, () => 0), ...rest];
  return Uint8Array.from(all.flatMap((group) => [group >> 8, group & 0xff]));
};

const hexPair = (bytes: Uint8Array, at: number): string =>
  (((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0)).toString(16);

export const macText = (bytes: Uint8Array): string =>
  Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(':');

export const macBytes = (text: string): Uint8Array | null =>
  /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(text)
    ? Uint8Array.from(text.split(':'), (part) => Number.parseInt(part, 16))
    : null;

/** `0x` and two digits a byte, in the order of memory. */
export const hexText = (bytes: Uint8Array): string => `0x${Buffer.from(bytes).toString('hex')}`;

export const hexBytes = (text: string): Uint8Array | null =>
  /^0x([0-9a-f]{2})*$/i.test(text) ? Uint8Array.from(Buffer.from(text.slice(2), 'hex')) : null;
