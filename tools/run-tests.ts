import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Runs the checks, then the tests, printing each command first; a failed one does not hide the later ones.
 *  Each check counts as one test. Exits non-zero when anything failed or nothing passed. */

interface Outcome {
  passed: number;
  failed: number;
}

const args = process.argv.slice(2);
const long = args.includes('--long');
const patterns = args.filter((arg) => arg !== '--long');
const report = mkdtempSync(join(tmpdir(), 'aegis-test-'));

const run = (command: string, argv: string[], env: Record<string, string> = {}): number => {
  console.log(`\n$ ${[command, ...argv].join(' ')}`);
  return (
    spawnSync(command, argv, { stdio: ['ignore', 'inherit', 'inherit'], env: { ...process.env, ...env } }).status ?? 1
  );
};

const check = (command: string, argv: string[]): Outcome =>
  run(command, argv) === 0 ? { passed: 1, failed: 0 } : { passed: 0, failed: 1 };

const tests = (): Outcome => {
  const file = join(report, 'vitest.json');
  const status = run(
    'vitest',
    ['run', '--reporter=default', '--reporter=json', `--outputFile.json=${file}`, ...patterns],
    long ? { AEGIS_LONG: '1' } : {},
  );
  try {
    const totals = JSON.parse(readFileSync(file, 'utf8')) as { numPassedTests: number; numFailedTests: number };
    // An unhandled error or a file that does not load fails the run without failing a test.
    return { passed: totals.numPassedTests, failed: Math.max(totals.numFailedTests, status === 0 ? 0 : 1) };
  } catch (error) {
    console.error(`no test report: ${String(error)}`);
    return { passed: 0, failed: 1 };
  }
};

const checks = (): Outcome[] =>
  patterns.length > 0
    ? []
    : [
        check('biome', ['check', '--error-on-warnings', '.']),
        check('tsc', ['-p', 'tsconfig.json']),
        check('node', ['tools/check-house.ts']),
      ];

const outcomes = [...checks(), tests()];
rmSync(report, { recursive: true, force: true });
const total = (key: keyof Outcome) => outcomes.reduce((sum, outcome) => sum + outcome[key], 0);
console.log(`\n${total('passed')} passed, ${total('failed')} failed`);
process.exitCode = total('failed') > 0 || total('passed') === 0 ? 1 : 0;
