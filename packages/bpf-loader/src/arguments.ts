/** Checks of arguments before they reach C++: ranges, lengths, and no NUL in what becomes a C string. */
import { invalid } from './errors.ts';

export const checkPath = (path: string, what: string): string => {
  if (typeof path !== 'string' || !path.startsWith('/') || path.includes('\0') || Buffer.byteLength(path) > 4095)
    throw invalid(`${what} must be an absolute path of at most 4095 bytes.`, { path });
  return path;
};

export const checkInteger = (value: number, least: number, most: number, what: string): number => {
  if (!Number.isSafeInteger(value) || value < least || value > most)
    throw invalid(`${what} must be a whole number from ${least} to ${most}.`, { value });
  return value;
};

/** Names of programs, maps, symbols, tracepoints: what C and the kernel write. */
export const checkName = (name: string, what: string): string => {
  if (typeof name !== 'string' || !/^[A-Za-z0-9_.$@:-]{1,255}$/.test(name))
    throw invalid(`${what} must be a name of 1 to 255 characters.`, { name });
  return name;
};

/** An interface's name as the kernel takes it: up to 15 bytes without slash, colon or white space. */
export const checkInterface = (name: string): string => {
  const named = typeof name === 'string' && name.length > 0 && Buffer.byteLength(name) <= 15;
  if (!named || /[\s/:\0]/.test(name) || name === '.' || name === '..')
    throw invalid('An interface name has 1 to 15 bytes without slash, colon or white space.', { interface: name });
  return name;
};

/** The number that a word stands for. A word that is not known must not become the kernel's default. */
export const checkWord = <T extends string>(words: Readonly<Record<T, number>>, word: T, what: string): number => {
  if (Object.hasOwn(words, word)) return words[word];
  throw invalid(`${what} must be one of ${Object.keys(words).join(', ')}.`, { value: word });
};

export const checkBytes = (value: Uint8Array, what: string): Uint8Array => {
  if (!(value instanceof Uint8Array)) throw invalid(`${what} must be bytes (a Uint8Array).`);
  return value;
};
