/** Text from a node, so that any database and any JSON reader takes it: no U+0000, no half of a surrogate pair. */
export const storable = (text: string): string => text.replaceAll('\0', '\uFFFD').toWellFormed();
