import { expect, test } from 'vitest';
import { checkHeaders, checkImports, checkShape, cycles } from './house-rules.ts';

const file = (path: string, text: string) => ({ path, text });
const whats = (path: string, text: string) => checkImports(file(path, text)).map(({ what }) => what);

test.each([
  [
    'packages/protocol/src/ids.ts',
    "import { x } from '@aegis/server/config';",
    ['imports packages/server/src/config.ts'],
  ],
  [
    'packages/daemon/src/main.ts',
    "import { x } from '@aegis/server/config';",
    ['imports packages/server/src/config.ts'],
  ],
  [
    'packages/cli/src/topics/submit.ts',
    "import { x } from '@aegis/server/main';",
    ['imports packages/server/src/main.ts'],
  ],
  ['packages/cli/src/topics/server.ts', "const x = await import('@aegis/server/main');", []],
  [
    'packages/cli/src/topics/server.ts',
    "const x = await import('@aegis/server/nodes/service');",
    ['imports packages/server/src/nodes/service.ts'],
  ],
  [
    'packages/server/src/nodes/service.ts',
    "import type { R } from './repository.ts';\nimport { log } from '../platform/log.ts';",
    [],
  ],
  [
    'packages/server/src/nodes/service.ts',
    "import { x } from '../commands/service.ts';",
    ['imports packages/server/src/commands/service.ts'],
  ],
  [
    'packages/server/src/platform/log.ts',
    "import { x } from '../nodes/service.ts';",
    ['imports packages/server/src/nodes/service.ts'],
  ],
  [
    'packages/server/src/nodes/routes.ts',
    "import { x } from './repository.ts';",
    ['imports packages/server/src/nodes/repository.ts'],
  ],
  ['packages/server/src/nodes/service.ts', "import { sql } from 'kysely';", ["imports 'kysely'"]],
  [
    'packages/server/src/server.ts',
    "import { x } from './nodes/service.ts';\nimport { y } from './commands/service.ts';",
    [],
  ],
  ['packages/daemon/src/commands/x.ts', "import { request } from 'undici';", ["imports 'undici'"]],
])('%s: %s', (path, text, refused) => {
  expect(whats(path, text)).toEqual(refused);
});

test('a cycle is named with its whole ring, type imports aside', () => {
  const a = file('packages/cli/src/a.ts', "import { b } from './b.ts';");
  const b = file('packages/cli/src/b.ts', "import { a } from './a.ts';");
  expect(cycles([a, b]).map(({ what }) => what)).toEqual([
    'import cycle packages/cli/src/a.ts → packages/cli/src/b.ts → packages/cli/src/a.ts',
  ]);
  expect(cycles([a, file(b.path, "import type { a } from './a.ts';")])).toEqual([]);
});

test('long files, drawers, barrels and domains without a header are refused', () => {
  expect(checkShape(file('packages/cli/src/a.ts', 'x;\n'.repeat(501))).map(({ what }) => what)).toEqual([
    'has 501 lines',
  ]);
  expect(checkShape(file('packages/cli/src/utils.ts', 'x;')).map(({ what }) => what)).toEqual(['is a drawer']);
  expect(checkShape(file('packages/cli/src/a.ts', "export * from './b.ts';")).map(({ what }) => what)).toEqual([
    'is a barrel',
  ]);
  expect(checkHeaders([file('packages/server/src/nodes/a.ts', 'const x = 1;')]).map(({ path }) => path)).toEqual([
    'packages/server/src/nodes',
  ]);
});
