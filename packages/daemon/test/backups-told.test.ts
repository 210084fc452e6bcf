import { expect, test } from 'vitest';
import { controlStream } from '../src/control.ts';
import { startBackupServer } from './backup-server.ts';
import { plantTree, tempFolder } from './backup-stage.ts';
import { testNode } from './test-node.ts';
import { waitFor } from './wait-for.ts';

/** What who asked for a run is told of its end: what the server knows by then. */

const stage = async (work: (destination: string) => Record<string, unknown> = () => ({})) => {
  const server = await startBackupServer();
  const node = testNode(server);
  const [source, destination] = [tempFolder(), tempFolder()];
  plantTree(source, 0);
  await node.start();
  const { config_id } = server.configure(
    { sources: [source], destination: { kind: 'file', path: destination }, retries: { max: 0 }, ...work(destination) },
    { name: 'tree' },
  );
  await waitFor('the report', () => server.reportOf(config_id));
  return {
    /** The last line, and how the server had the run ended when it came. */
    run: async (): Promise<[last: unknown, atServer: unknown]> => {
      let last: unknown;
      for await (const line of controlStream(node.dataDir, { op: 'backup-run', config: 'tree' })) last = line;
      return [last, server.runsOf(config_id)[0]?.end];
    },
    [Symbol.asyncDispose]: async () => {
      await node[Symbol.asyncDispose]();
      await server[Symbol.asyncDispose]();
    },
  };
};

test('the end is told once the server has it', async () => {
  await using on = await stage();
  const [last, atServer] = await on.run();
  expect(last).toMatchObject({ type: 'run', state: 'completed' });
  expect(atServer).toMatchObject({ state: 'completed' });
});

test('an end that the server does not take is not told as good', async () => {
  // Alters what lies at the destination before the server looks at it.
  const alter = 'find "$0" -name "archive.*" -exec sh -c \'echo more >>"$0"\' {} \\;';
  await using on = await stage((destination) => ({
    hooks: { after: [{ argv: ['/bin/sh', '-c', alter, destination] }] },
  }));
  const [last, atServer] = await on.run();
  expect(last).toMatchObject({ type: 'run', state: 'failed', reason: { code: 'backups.upload_mismatch' } });
  expect(atServer).toMatchObject({ state: 'failed' });
});

test('one that it wants anew is followed to the end of the next attempt', async () => {
  const once =
    '[ -e "$0/altered" ] || { touch "$0/altered"; find "$0" -name "archive.*" -exec sh -c \'echo more >>"$0"\' {} \\;; }';
  await using on = await stage((destination) => ({
    retries: { max: 1, backoff_sec: 1 },
    hooks: { after: [{ argv: ['/bin/sh', '-c', once, destination] }] },
  }));
  const [last, atServer] = await on.run();
  expect(last).toMatchObject({ type: 'run', state: 'completed', reason: null });
  expect(atServer).toMatchObject({ state: 'completed', attempt: 2 });
});
