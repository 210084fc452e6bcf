import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { waitFor } from '../../../test/faults/wait.ts';
import { aegis } from '../../../test/fleet/fleet.ts';
import type { NamespaceFleet } from '../../../test/fleet/namespace-fleet.ts';
import { make } from './artifact-folder.ts';
import { ran } from './cli-process.ts';
import { type NodeStage, nodeStage } from './node-stage.ts';

/** Events of a ring buffer over a real kernel, read through the server and on the node without it. */

let stage: NodeStage;
let fleet: NamespaceFleet;
beforeAll(async () => {
  stage = await nodeStage({ 'exec-watch': 'tracepoint' });
  ({ fleet } = stage);
});
afterAll(async () => {
  fleet?.tryAegis('unassign', '--wait', 'exec-watch', 'web-1');
  await stage?.[Symbol.asyncDispose]();
});

const at = (name: string) => stage.at(name);
const local = (...args: string[]) => stage.local(...args);
/** Processes of the node's own aegis that read for a command. */
const readers = (): string[] =>
  readdirSync('/proc').filter((pid) => {
    try {
      const argv = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
      return argv.includes('events') && argv.includes(fleet.node.dataDir) && argv.includes('--json');
    } catch {
      return false; // no process, or gone meanwhile
    }
  });
/** A program that nobody else on this machine starts: the kernel tells of everyone's. */
const program = () => {
  const comm = `run-${randomBytes(4).toString('hex')}`;
  writeFileSync(at(comm), '#!/bin/sh\n', { mode: 0o755 });
  return Object.assign(() => execFileSync(at(comm)), { comm });
};

const streaming = (argv: readonly string[]): { child: ChildProcess; lines: () => Record<string, unknown>[] } => {
  const [file = '', ...args] = fleet.network.node.argv(aegis, ...argv);
  const child = spawn(file, args, { env: fleet.env, stdio: ['ignore', 'pipe', 'pipe'] });
  let heard = '';
  child.stdout?.on('data', (piece: Buffer) => {
    heard += piece.toString('utf8');
  });
  return {
    child,
    lines: () =>
      heard
        .split('\n')
        .slice(0, -1)
        .map((line) => JSON.parse(line) as Record<string, unknown>),
  };
};

test.each([
  ['through the server', () => ['artifacts', 'events', 'exec-watch', '--node', 'web-1']],
  ['on the node', () => ['daemon', 'events', 'exec-watch', '--data-dir', fleet.node.dataDir]],
])('events stream decoded, %s, until Ctrl-C, and nothing is left running', async (_, argv) => {
  fleet.aegis('assign', '--wait', 'exec-watch', 'web-1');
  const { child, lines } = streaming(argv());
  const end = ran(child);
  const run = program();
  await waitFor('its event', () => {
    run();
    return lines().some(({ comm }) => comm === run.comm);
  });
  expect(lines().find(({ comm }) => comm === run.comm)).toEqual({
    at_ns: expect.any(Number),
    pid: expect.any(Number),
    uid: 0,
    comm: run.comm,
  });
  child.kill('SIGINT');
  expect((await end).code).toBe(130);
  await waitFor('its reader to be gone', () => readers().length === 0);
});

test("a reader's pipe that is closed ends the stream on the node too", async () => {
  const { child, lines } = streaming(['artifacts', 'events', 'exec-watch', '--node', 'web-1', '--map', 'events']);
  const end = new Promise((resolve) => child.once('exit', resolve));
  await waitFor('an event', () => {
    execFileSync('true');
    return lines().length > 0;
  });
  child.stdout?.destroy();
  await waitFor('the end', () => {
    execFileSync('true');
    return child.exitCode !== null;
  });
  expect(await end).toBe(0);
  await waitFor('its reader to be gone', () => readers().length === 0);
});

test('a ring buffer cannot be listed, and a taken-off artifact ends its stream', async () => {
  expect(local('maps', 'exec-watch', 'events')).toEqual({
    status: 1,
    stdout: '',
    stderr: "aegis: The map 'events' is a ringbuf: 'events' reads it, its records cannot be listed.\n",
  });
  const { child, lines } = streaming(['artifacts', 'events', 'exec-watch', '--node', 'web-1']);
  const end = ran(child);
  await waitFor('an event', () => {
    execFileSync('true');
    return lines().length > 0;
  });
  expect(fleet.aegis('unassign', '--wait', 'exec-watch', 'web-1')).toContain('detached');
  expect((await end).code).toBe(0);
});

test('a stream follows an upgrade; of several ring buffers one is named', async () => {
  const source = at('exec-watch/exec_watch.bpf.c');
  const more = [
    'struct {',
    '__uint(type, BPF_MAP_TYPE_RINGBUF);',
    '__uint(max_entries, 4096);',
    '} more SEC(".maps");',
  ];
  writeFileSync(source, readFileSync(source, 'utf8').replace('SEC("tracepoint', `${more.join('\n')}\nSEC("tracepoint`));
  make(at('exec-watch'));
  stage.release('exec-watch', '1.1.0');
  fleet.aegis('assign', '--wait', 'exec-watch@1.0.0', 'web-1');
  const { child, lines } = streaming(['artifacts', 'events', 'exec-watch', '--node', 'web-1', '--map', 'events']);
  const end = ran(child);
  const mapId = () =>
    (JSON.parse(local('maps', 'exec-watch', '--json').stdout) as { maps: { name: string; id: number }[] }).maps.find(
      ({ name }) => name === 'events',
    )?.id;
  const before = mapId();
  await waitFor('an event', () => {
    execFileSync('true');
    return lines().length > 0;
  });
  fleet.aegis('assign', '--wait', 'exec-watch@1.1.0', 'web-1');
  expect(mapId()).not.toBe(before);
  const later = program();
  await waitFor("an event of the new version's ring buffer", () => {
    later();
    return lines().some(({ comm }) => comm === later.comm);
  });
  child.kill('SIGINT');
  expect((await end).code).toBe(130);
  expect(local('events', 'exec-watch')).toEqual({
    status: 2,
    stdout: '',
    stderr: "aegis: The artifact 'exec-watch' has several ring buffers: choose one of events, more with --map.\n",
  });
  expect(local('events', 'exec-watch', '--map', 'started_by_uid')).toEqual({
    status: 1,
    stdout: '',
    stderr: "aegis: The map 'started_by_uid' is no ring buffer; these are: events, more.\n",
  });
  const env = { ...fleet.env, AEGIS_NATIVE_DIR: '/nowhere' };
  const blind = fleet.network.node.run([aegis, 'daemon', 'maps', 'exec-watch', '--data-dir', fleet.node.dataDir], {
    env,
  });
  expect(blind).toEqual({
    status: 1,
    stdout: '',
    stderr: 'aegis: eBPF cannot be used here: aegis_bpf.node is not built (looked in /nowhere): run bin/setup.\n',
  });
  fleet.aegis('unassign', '--wait', 'exec-watch', 'web-1');
});
