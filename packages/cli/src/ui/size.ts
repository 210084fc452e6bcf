/** Sizes as people write them: the way back from `byteCount`. */

const UNITS: Readonly<Record<string, number>> = { '': 0, k: 1, m: 2, g: 3, t: 4 };

/** Bytes of `4096`, `100k`, `1.5G`, `10 MiB` (units of 1024, as restic has them); null when it is none of these. */
export const bytesOf = (text: string): number | null => {
  const match = /^(\d+(?:\.\d+)?) ?([kmgt]?)(?:i?b)?$/i.exec(text.trim());
  if (!match) return null;
  const bytes = Number(match[1]) * 1024 ** (UNITS[(match[2] ?? '').toLowerCase()] ?? 0);
  return Number.isSafeInteger(Math.floor(bytes)) ? Math.floor(bytes) : null;
};
