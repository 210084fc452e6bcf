const DIGITS = /^[A-Za-z0-9+/]*={0,2}$/;

/** RFC 4648, section 4: whole groups of four, padded. The length is counted apart because a pattern of groups takes ten times as long over what
 *  messages carry. */
export const isBase64 = (text: string): boolean => text.length % 4 === 0 && DIGITS.test(text);
