import { spawn } from 'node:child_process';

/** Times whole processes from outside, from before the fork to the exit, and takes turns. */

export interface Finished {
  ms: number;
  stdout: string;
}

/** @throws Error with its output when it does not exit with 0: a failed run is no measurement */
export const runProcess = (argv: readonly string[], env: Readonly<Record<string, string>>): Promise<Finished> =>
  new Promise((resolve, reject) => {
    const [file = '', ...args] = argv;
    const started = performance.now();
    const child = spawn(file, args, { env: { ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
    let ms = 0;
    let stdout = '';
    let stderr = '';
    child.stdout.on('data', (bytes: Buffer) => {
      stdout += bytes.toString('utf8');
    });
    child.stderr.on('data', (bytes: Buffer) => {
      stderr += bytes.toString('utf8');
    });
    child.once('error', reject);
    child.once('exit', () => {
      ms = performance.now() - started;
    });
    child.once('close', (code) =>
      code === 0
        ? resolve({ ms, stdout })
        : reject(new Error(`${argv.join(' ')} exited with ${code}\n${stdout}${stderr}`)),
    );
  });

/** Runs the contestants in turn (A B C A B C …), after one round that does not count: what else the machine does meanwhile falls
 *  on each alike. Each gives its measurement. */
export const alternately = async <Name extends string>(
  rounds: number,
  contestants: Readonly<Record<Name, () => Promise<number>>>,
): Promise<Record<Name, number[]>> => {
  const names = Object.keys(contestants) as Name[];
  const samples = Object.fromEntries(names.map((name) => [name, [] as number[]])) as Record<Name, number[]>;
  for (let round = 0; round <= rounds; round++)
    for (const name of names) {
      const measured = await contestants[name]();
      if (round > 0) samples[name].push(measured);
    }
  return samples;
};
