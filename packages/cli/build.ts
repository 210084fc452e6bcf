import { renameSync, rmSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type BuildOptions, build, type Plugin } from 'esbuild';

/** Bundles the CLI: dist/aegis.cjs answers the version and loads main.cjs; whatever a plain command does not need (the live view, the doors
 *  of server and daemon) stands in files of its own that are loaded when they are used. See README.md, "Start time". */

const here = dirname(fileURLToPath(import.meta.url));

/** Everything that is imported lazily from main.ts into a file of its own: source (or door) → bundle. The view is ESM because yoga-layout
 *  awaits at top level. */
const SEPARATE: Readonly<Record<string, string>> = {
  '../ui/live-view.tsx': './live-view.mjs',
  '../artifacts/artifact-facts.ts': './artifact-doors.cjs',
  '../artifacts/exchange.ts': './artifact-doors.cjs',
  '../artifacts/init.ts': './artifact-doors.cjs',
  '../artifacts/inspect.ts': './artifact-doors.cjs',
  '../artifacts/inspection-text.ts': './artifact-doors.cjs',
  '../artifacts/kernel-sight.ts': './artifact-doors.cjs',
  '../artifacts/meant.ts': './artifact-doors.cjs',
  '../artifacts/pack.ts': './artifact-doors.cjs',
  '../artifacts/sign.ts': './artifact-doors.cjs',
  '../artifacts/verify.ts': './artifact-doors.cjs',
  '../backups/entry-text.ts': './backup-doors.cjs',
  '../backups/identities.ts': './backup-doors.cjs',
  '../backups/looking.ts': './backup-doors.cjs',
  '../backups/open-run.ts': './backup-doors.cjs',
  '../backups/sealing.ts': './backup-doors.cjs',
  '../backups/server-keys.ts': './backup-doors.cjs',
  '../backups/spec-file.ts': './backup-doors.cjs',
  '@aegis/server/config': './server-doors.cjs',
  '@aegis/server/offline': './server-doors.cjs',
  '@aegis/daemon/config': './daemon-doors.cjs',
  '@aegis/daemon/enrol': './daemon-doors.cjs',
  '@aegis/daemon/control': './daemon-doors.cjs',
  '@aegis/daemon/policy-check': './daemon-doors.cjs',
};

const separateBundles: Plugin = {
  name: 'separate-bundles',
  setup(bundle) {
    bundle.onResolve({ filter: /^@aegis\/|live-view|\.\/(?:artifacts|backups)\// }, ({ path, kind }) => {
      const file = kind === 'dynamic-import' && Object.hasOwn(SEPARATE, path) ? SEPARATE[path] : undefined;
      return file ? { path: file, external: true } : null;
    });
  },
};

/** oclif requires all that it could ever need when it is loaded, half of it for plugins that we do not have. Its requires become lazy: the
 *  module is loaded when a property of it is first read. Measured: 2.5 × bare Node before, 1.9 × after. */
const lazyOclif: Plugin = {
  name: 'lazy-oclif',
  setup(bundle) {
    bundle.onLoad({ filter: /@oclif[/\\]core[/\\]lib[/\\].*\.js$/ }, async ({ path }) => {
      const text = await readFile(path, 'utf8');
      const statement = /^const (\w+) = ((?:__importDefault|__importStar)?\(?require\("[^"]+"\)\)?);$/gm;
      const lazy =
        'const __lazy = (load) => { let loaded; return new Proxy({}, { get: (_, key) => (loaded ??= load())[key] }); };';
      const contents = text.replace(statement, (_, name, load) => `const ${name} = __lazy(() => ${load});`);
      return { contents: contents.replace('"use strict";', `"use strict"; ${lazy}`), loader: 'js' };
    });
    // oclif asks whether this is Windows' Linux: two file reads and a child_process import for a field that nothing shows.
    bundle.onResolve({ filter: /^wsl-utils$/ }, () => ({ path: 'wsl-utils', namespace: 'constant' }));
    // Of its own package.json it needs the version.
    bundle.onResolve({ filter: /^@oclif\/core\/package\.json$/ }, () => ({
      path: 'oclif-version',
      namespace: 'constant',
    }));
    bundle.onLoad({ filter: /.*/, namespace: 'constant' }, ({ path }) => ({
      contents:
        path === 'wsl-utils' ? 'module.exports = { isWsl: false };' : 'module.exports = { version: "bundled" };',
    }));
  },
};

/** ink loads React's developer tools under DEV=true, from a package that is not there. */
const noDevtools: Plugin = {
  name: 'no-devtools',
  setup(bundle) {
    bundle.onResolve({ filter: /^react-devtools-core$/ }, ({ path }) => ({ path, namespace: 'nothing' }));
    bundle.onLoad({ filter: /.*/, namespace: 'nothing' }, () => ({ contents: 'export default {};' }));
  },
};

/** Loaded at run time from node_modules (its binary lies beside it), or never. */
const external = ['better-sqlite3', 'pg-native'];

/** In CommonJS `import.meta.url` has to be made; native/binaries.ts looks beside it. */
const metaUrl = {
  define: { 'import.meta.url': '__bundleUrl' },
  banner: { js: 'const __bundleUrl = require("node:url").pathToFileURL(__filename).href;' },
};
const esmRequire = {
  js: 'import { createRequire as __createRequire } from "node:module"; const require = __createRequire(import.meta.url);',
};

/** Servers without Redis never read its client. */
const separateRedis: Plugin = {
  name: 'separate-redis',
  setup(bundle) {
    bundle.onResolve({ filter: /^@redis\/client$/ }, ({ kind }) =>
      kind === 'dynamic-import' ? { path: './redis-client.cjs', external: true } : null,
    );
  },
};

/** One bundle with every door that `SEPARATE` puts into `file`. */
const doors = (outdir: string, file: string): BuildOptions => {
  const specifiers = Object.keys(SEPARATE).filter((specifier) => SEPARATE[specifier] === file);
  const contents = specifiers.map((specifier) => `export * from '${specifier}';`).join('\n');
  return { stdin: { contents, resolveDir: join(here, 'src/topics') }, outfile: join(outdir, file) };
};

/** Built beside `target` and moved into its place, so that a failed build leaves the old one and nobody meets half of it. */
export const buildCli = async (target: string): Promise<void> => {
  const outdir = `${target}.${process.pid}`;
  try {
    await bundleInto(outdir);
    rmSync(target, { recursive: true, force: true });
    renameSync(outdir, target);
  } finally {
    rmSync(outdir, { recursive: true, force: true });
  }
};

const bundleInto = async (outdir: string): Promise<void> => {
  const source = (name: string) => join(here, 'src', name);
  const common: BuildOptions = {
    bundle: true,
    platform: 'node',
    target: 'node24',
    format: 'cjs',
    outExtension: { '.js': '.cjs' },
    minify: true,
    legalComments: 'none',
    logLevel: 'warning',
    external,
    define: { 'process.env.NODE_ENV': '"production"', 'process.env.DEV': '"false"' },
  };
  // Long-lived processes keep their names: a stack trace in a log has to be read.
  const readable = { minify: false, minifySyntax: true, minifyWhitespace: true };
  const node = { ...common, ...readable, ...metaUrl, define: { ...common.define, ...metaUrl.define } };
  const into = { outdir };
  await Promise.all([
    build({ ...common, ...into, entryPoints: { aegis: source('entry.ts') } }),
    build({
      ...common,
      ...into,
      entryPoints: { main: source('main-entry.ts') },
      plugins: [separateBundles, lazyOclif],
    }),
    build({
      ...common,
      ...into,
      format: 'esm',
      outExtension: { '.js': '.mjs' },
      banner: esmRequire,
      plugins: [noDevtools],
      entryPoints: { 'live-view': source('ui/live-view.tsx') },
    }),
    build({ ...node, ...into, plugins: [separateRedis], entryPoints: { server: source('server-entry.ts') } }),
    build({
      ...node,
      stdin: { contents: "export { createClient } from '@redis/client';", resolveDir: join(here, '../server/src') },
      outfile: join(outdir, 'redis-client.cjs'),
    }),
    build({ ...node, ...into, entryPoints: { daemon: source('daemon-entry.ts') } }),
    // The thread in which the daemon packs and restores backups: packages/daemon/src/backups/thread.ts looks for it here.
    build({
      ...node,
      ...into,
      entryPoints: { 'backup-thread': join(here, '../daemon/src/backups/thread-main.ts') },
    }),
    // The same of the server's own files: packages/server/src/backups/own-files/thread.ts.
    build({
      ...node,
      ...into,
      entryPoints: { 'own-backup-thread': join(here, '../server/src/backups/own-files/thread-main.ts') },
    }),
    build({ ...node, ...doors(outdir, './artifact-doors.cjs') }),
    build({ ...node, ...doors(outdir, './backup-doors.cjs') }),
    build({ ...node, ...doors(outdir, './server-doors.cjs') }),
    build({ ...node, ...doors(outdir, './daemon-doors.cjs') }),
  ]);
};

if (import.meta.main) await buildCli(join(here, 'dist'));
