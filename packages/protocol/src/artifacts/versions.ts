/** Which version is meant: precedence by https://semver.org (section 11). What two builds of one version are to each other it leaves
 *  open: here the text of the build decides, so that the answer is always the same. */

const parts = (version: string) => {
  const [, core = '', prerelease, build = ''] = /^([^-+]*)(?:-([^+]*))?(?:\+(.*))?$/.exec(version) ?? [];
  return { core: core.split('.'), prerelease: prerelease?.split('.') ?? null, build };
};

const byNumber = (a: string, b: string): number => a.length - b.length || (a < b ? -1 : a > b ? 1 : 0); // no leading zeros
const byText = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);
const isNumber = (text: string): boolean => /^\d+$/.test(text);
const byIdentifier = (a: string, b: string): number => {
  if (isNumber(a) && isNumber(b))
    return byNumber(a.replace(/^0+(?=\d)/, ''), b.replace(/^0+(?=\d)/, '')) || byText(a, b);
  if (isNumber(a) !== isNumber(b)) return isNumber(a) ? -1 : 1;
  return byText(a, b);
};
const byList = (a: readonly string[], b: readonly string[], compare: (a: string, b: string) => number): number => {
  for (const [at, one] of a.entries()) {
    const other = b[at];
    if (other === undefined) return 1;
    const order = compare(one, other);
    if (order !== 0) return order;
  }
  return a.length - b.length;
};

export const compareVersions = (a: string, b: string): number => {
  const [left, right] = [parts(a), parts(b)];
  const core = byList(left.core, right.core, byNumber);
  if (core !== 0) return core;
  if (left.prerelease === null || right.prerelease === null) {
    if (left.prerelease !== right.prerelease) return left.prerelease === null ? 1 : -1;
    return byText(left.build, right.build);
  }
  return byList(left.prerelease, right.prerelease, byIdentifier) || byText(left.build, right.build);
};

/** The newest that is no prerelease; of prereleases alone the newest. */
export const newestOf = <V extends { version: string }>(all: readonly V[]): V | undefined => {
  const released = all.filter(({ version }) => parts(version).prerelease === null);
  return (released.length > 0 ? released : all).toSorted((a, b) => compareVersions(b.version, a.version))[0];
};
