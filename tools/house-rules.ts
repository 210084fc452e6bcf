/** The import rules of the house, each with its reason. Pure: `check-house.ts` feeds files in and prints what comes out. */

export interface SourceFile {
  /** Path from the repository's root, with forward slashes. */
  path: string;
  text: string;
}

export interface Violation {
  path: string;
  what: string;
  why: string;
}

interface Import {
  /** A path from the root for files of ours, `@aegis/x/door` resolved likewise, else the package's name. */
  target: string;
  typeOnly: boolean;
  lazy: boolean;
}

const APPLICATIONS = ['server', 'daemon', 'cli'];
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  protocol: [],
  native: [],
  archive: ['protocol', 'native'],
  'bpf-loader': [],
  server: ['protocol', 'archive'],
  daemon: ['protocol', 'archive', 'native', 'bpf-loader'],
  cli: ['protocol', 'archive', 'native', 'bpf-loader', 'server', 'daemon'],
};
/** Through these files alone the CLI reaches the other applications. */
const DOORS: Readonly<Record<string, readonly string[]>> = {
  server: ['main', 'config', 'offline'],
  daemon: ['main', 'config', 'enrol', 'control', 'attachments', 'pins', 'policy-check'],
};
const COMPOSERS = [
  'server.ts',
  'daemon.ts',
  'main.ts',
  'tables.ts',
  'migrations.ts',
  'offline.ts',
  'opening.ts',
  'enrol.ts',
  'control.ts',
  'pins.ts',
  'policy-check.ts',
  'config.ts',
  'attachments.ts',
];
const MAX_LINES = 500;
const DRAWERS = /(^|\/)(utils?|helpers?|common|misc|manager|lib)(\/|\.[a-z]+$)/;

export const importsOf = (file: SourceFile): Import[] => {
  const found: Import[] = [];
  const statements =
    /^\s*(?:import|export)\s+(type\s+)?(?:[^'";]*?\sfrom\s+)?['"]([^'"]+)['"]|import\(\s*['"]([^'"]+)['"]\s*\)/gm;
  for (const [, typeOnly, fixed, lazy] of file.text.matchAll(statements)) {
    const specifier = fixed ?? lazy;
    if (specifier) found.push({ target: resolve(file.path, specifier), typeOnly: Boolean(typeOnly), lazy: !fixed });
  }
  return found;
};

const resolve = (from: string, specifier: string): string => {
  const ours = /^@aegis\/([^/]+)\/(.+)$/.exec(specifier);
  if (ours) return `packages/${ours[1]}/src/${ours[2]}.ts`;
  if (!specifier.startsWith('.')) return specifier;
  const parts = from.split('/').slice(0, -1);
  for (const step of specifier.split('/')) {
    if (step === '..') parts.pop();
    else if (step !== '.') parts.push(step);
  }
  return parts.join('/');
};

interface Place {
  pack: string;
  /** Folder below src, or '' for the files beside it. */
  domain: string;
  name: string;
}

const placeOf = (path: string): Place | null => {
  const match = /^packages\/([^/]+)\/src\/(?:([^/]+)\/)?(.+)$/.exec(path);
  return match ? { pack: match[1] ?? '', domain: match[2] ?? '', name: match[3] ?? '' } : null;
};

const isTest = (path: string): boolean => /\.test\.tsx?$/.test(path) || /(^|\/)test\//.test(path);

export const checkImports = (file: SourceFile): Violation[] => {
  const from = placeOf(file.path);
  if (!from || isTest(file.path)) return [];
  const refuse = (what: string, why: string): Violation => ({ path: file.path, what, why });
  return importsOf(file).flatMap((one) => {
    const to = placeOf(one.target);
    if (!to) return packageRules(from, one, refuse);
    if (to.pack !== from.pack) return betweenPackages(from, to, one, refuse);
    return insidePackage(from, to, one, refuse);
  });
};

type Refuse = (what: string, why: string) => Violation;

const packageRules = (from: Place, one: Import, refuse: Refuse): Violation[] => {
  const bad: Violation[] = [];
  const serviceLike = /(^|\/)service[^/]*\.ts$/.test(from.name);
  if (one.target === 'fastify' && !one.typeOnly && from.domain !== 'platform' && from.name !== 'server.ts')
    bad.push(
      refuse(
        "imports 'fastify'",
        'only platform/http builds a web server; a service takes decoded values, never a request',
      ),
    );
  if (one.target === 'fastify' && serviceLike)
    bad.push(refuse("imports 'fastify'", 'a service takes decoded values, never a request'));
  if (from.pack === 'daemon' && ['undici', 'zod', 'fastify'].includes(one.target))
    bad.push(
      refuse(`imports '${one.target}'`, 'a resident daemon stays small: node:https and zod/mini (docs/decisions/0003)'),
    );
  if (
    one.target === 'kysely' &&
    !one.typeOnly &&
    from.domain !== 'platform' &&
    !/(repository|migration|tables|queries)[^/]*\.ts$|migrations\//.test(from.name)
  )
    bad.push(refuse("imports 'kysely'", 'only a repository holds SQL'));
  return bad;
};

const betweenPackages = (from: Place, to: Place, one: Import, refuse: Refuse): Violation[] => {
  const what = `imports ${one.target}`;
  if (!(MAY_IMPORT[from.pack] ?? []).includes(to.pack))
    return [
      refuse(
        what,
        `${from.pack} may import ${(MAY_IMPORT[from.pack] ?? []).join(', ') || 'none of our packages'}: contract packages stay leaves, applications never know each other`,
      ),
    ];
  if (APPLICATIONS.includes(to.pack)) {
    const door = (DOORS[to.pack] ?? []).includes([to.domain, to.name].filter(Boolean).join('/').replace(/\.ts$/, ''));
    if (!door) return [refuse(what, `the CLI reaches ${to.pack} only through ${(DOORS[to.pack] ?? []).join(', ')}`)];
    if (!one.lazy && !one.typeOnly && !/^(server|daemon)-entry\.ts$/.test(from.name))
      return [refuse(what, `load ${to.pack} lazily: 'aegis submit' must never pay for Fastify or SQLite`)];
  }
  return [];
};

const insidePackage = (from: Place, to: Place, one: Import, refuse: Refuse): Violation[] => {
  if (from.pack !== 'server' && from.pack !== 'daemon') return [];
  const what = `imports ${one.target}`;
  const composer = from.domain === '' && COMPOSERS.includes(from.name);
  if (composer || from.domain === to.domain) {
    if (/(^|\/)routes[^/]*\.ts$/.test(from.name) && /repository[^/]*\.ts$/.test(to.name) && !one.typeOnly)
      return [refuse(what, 'routes → service → repository: a route asks its service')];
    return [];
  }
  if (to.domain === 'platform') return [];
  if (to.domain === '' && one.typeOnly) return [];
  if (to.domain === '' && to.name === 'config.ts' && from.domain !== 'platform') return [];
  if (from.domain === 'platform')
    return [refuse(what, 'platform holds nothing of a domain and serves every one of them')];
  return [refuse(what, 'a domain knows no other: what it needs arrives as a parameter that it types itself')];
};

export const checkShape = (file: SourceFile): Violation[] => {
  const found: Violation[] = [];
  const lines = file.text.split('\n').length - 1;
  if (lines > MAX_LINES)
    found.push({ path: file.path, what: `has ${lines} lines`, why: `a file does one thing: none over ${MAX_LINES}` });
  if (DRAWERS.test(file.path))
    found.push({ path: file.path, what: 'is a drawer', why: 'a file is named for what it holds' });
  const code = file.text.replace(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, '').trim();
  if (
    file.path.includes('/src/') &&
    code !== '' &&
    code.split('\n').every((line) => /^export (\*|\{)/.test(line.trim()))
  )
    found.push({ path: file.path, what: 'is a barrel', why: 'a package has doors (exports), not barrels' });
  return found;
};

/** Import cycles among files of ours, type imports left out (they are gone at run time). */
export const cycles = (files: readonly SourceFile[]): Violation[] => {
  const graph = new Map(
    files.map((file) => [
      file.path,
      importsOf(file)
        .filter((one) => !one.typeOnly && !one.lazy)
        .map((one) => one.target),
    ]),
  );
  const done = new Set<string>();
  const found: Violation[] = [];
  const visit = (path: string, trail: string[]): void => {
    if (trail.includes(path)) {
      const ring = [...trail.slice(trail.indexOf(path)), path];
      found.push({ path, what: `import cycle ${ring.join(' → ')}`, why: 'a cycle has no first file to understand' });
      return;
    }
    if (done.has(path)) return;
    for (const next of graph.get(path) ?? []) if (graph.has(next)) visit(next, [...trail, path]);
    done.add(path);
  };
  for (const path of graph.keys()) visit(path, []);
  return found;
};

/** Each domain folder says in some file's first lines what it owns and what it must not do. */
export const checkHeaders = (files: readonly SourceFile[]): Violation[] => {
  const folders = new Map<string, boolean>();
  for (const file of files) {
    const place = placeOf(file.path);
    if (!place || place.domain === '' || place.domain === 'platform' || place.name.includes('/') || isTest(file.path))
      continue;
    const folder = `packages/${place.pack}/src/${place.domain}`;
    const header = /^(?:import[^\n]*\n|\s)*\/\*\*[\s\S]*?\*\//.exec(file.text)?.[0] ?? '';
    folders.set(folder, (folders.get(folder) ?? false) || header.split('\n').length >= 2);
  }
  return [...folders]
    .filter(([, has]) => !has)
    .map(([path]) => ({
      path,
      what: 'has no header',
      why: "a domain's first file says what it owns, who calls it, its invariant and what it must not do",
    }));
};
