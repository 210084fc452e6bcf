import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { checkHeaders, checkImports, checkShape, cycles, type SourceFile } from './house-rules.ts';

/** Checks the import rules, sizes and names of docs/architecture.md over every tracked or new file, and prints each refusal
 *  with its reason. */

const listed = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard'], { encoding: 'utf8' });
const files: SourceFile[] = listed
  .split('\n')
  .filter((path) => /\.(ts|tsx|c|h|cc|hpp|sh)$|^bin\//.test(path) && existsSync(path))
  .map((path) => ({ path, text: readFileSync(path, 'utf8') }));
const typescript = files.filter((file) => /\.tsx?$/.test(file.path));

const violations = [
  ...files.flatMap(checkShape),
  ...typescript.flatMap(checkImports),
  ...cycles(typescript),
  ...checkHeaders(typescript),
];
for (const { path, what, why } of violations) console.error(`${path}: ${what}\n    why not: ${why}`);
console.log(`house: ${files.length} files, ${violations.length} against the rules`);
process.exitCode = violations.length > 0 ? 1 : 0;
