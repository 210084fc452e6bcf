/** JSON for things that are signed: what two parsers could read differently is refused.
 *  Rejects repeated keys, more nesting than `maxDepth`, `__proto__` as a key, and whatever JSON.parse rejects. */
export const parseStrictJson = (text: string, maxDepth = 32): unknown => {
  const value: unknown = JSON.parse(text); // refuses everything that is not RFC 8259 JSON; the scan below may then trust the grammar
  scan(text, maxDepth);
  return value;
};

const scan = (text: string, maxDepth: number): void => {
  const open: (Set<string> | null)[] = []; // one entry per open bracket: the keys seen so far, or null for an array
  let keyExpected = false;
  for (let at = 0; at < text.length; at++) {
    const char = text[at];
    if (char === '"') {
      const end = stringEnd(text, at);
      const keys = open.at(-1);
      if (keyExpected && keys) addKey(keys, JSON.parse(text.slice(at, end + 1)) as string);
      keyExpected = false;
      at = end;
    } else if (char === '{' || char === '[') {
      if (open.length >= maxDepth) throw new SyntaxError(`JSON is nested more than ${maxDepth} levels deep`);
      open.push(char === '{' ? new Set() : null);
      keyExpected = char === '{';
    } else if (char === '}' || char === ']') {
      open.pop();
      keyExpected = false;
    } else if (char === ',') {
      keyExpected = open.at(-1) !== null && open.length > 0;
    }
  }
};

const stringEnd = (text: string, start: number): number => {
  for (let at = start + 1; ; at++) {
    if (text[at] === '\\') at++;
    else if (text[at] === '"') return at;
  }
};

const addKey = (keys: Set<string>, key: string): void => {
  if (key === '__proto__') throw new SyntaxError('JSON may not have a key "__proto__"');
  if (keys.has(key)) throw new SyntaxError(`JSON has the key ${JSON.stringify(key)} twice`);
  keys.add(key);
};
