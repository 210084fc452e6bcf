import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadDaemonConfig } from '../../packages/daemon/src/config.ts';
import { type DaemonOptions, type RunningDaemon, startDaemon } from '../../packages/daemon/src/daemon.ts';
import {
  type HttpAnswer,
  type HttpDoor,
  type HttpRequest,
  nodeHttpDoor,
} from '../../packages/daemon/src/platform/http/door.ts';
import { issueToken } from '../../packages/server/src/offline.ts';
import { startTestServer, type TestServer } from '../../packages/server/test/start-test-server.ts';
import { waitFor } from '../faults/wait.ts';
import { type Api, apiOf } from './api.ts';
import { endExecutionsBelow } from './leftovers.ts';

/** A real server and real daemons within the test's process, so that the test holds their clocks, their boot ids and the door
 *  between them. Supervisors and commands are processes of their own, as ever. */
export interface HeldFleet extends AsyncDisposable {
  readonly server: TestServer;
  readonly serverClock: JumpingClock;
  readonly api: Api;
  /** An admin token of the server. */
  readonly token: string;
  /** For marker files. */
  readonly folder: string;
  node(name: string, flags?: Readonly<Record<string, unknown>>): HeldNode;
}

export interface HeldNode {
  readonly name: string;
  readonly dataDir: string;
  readonly clock: JumpingClock;
  /** Null while it is down. */
  readonly daemon: RunningDaemon | null;
  /** Every request of the daemon goes through this; null: straight on. Throw to lose a request or, after `send`, its answer. */
  intercept: Intercept | null;
  start(options?: Pick<DaemonOptions, 'bootId' | 'kernelEngine'>): Promise<RunningDaemon>;
  stop(): Promise<void>;
  /** As a power cut leaves it: daemon, supervisors and commands gone, the disk as it was. Start it with another boot id. */
  crash(): Promise<void>;
}

export type Intercept = (asked: HttpRequest, send: (asked: HttpRequest) => Promise<HttpAnswer>) => Promise<HttpAnswer>;

/** Wall time that is off by `offsetMs`; durations stay true, as under a clock that is set. */
export interface JumpingClock {
  offsetMs: number;
  now(): number;
  monotonic(): number;
}
export const jumpingClock = (): JumpingClock => {
  const clock: JumpingClock = {
    offsetMs: 0,
    // Some keep this function alone.
    now: () => Date.now() + clock.offsetMs,
    monotonic: () => performance.now(),
  };
  return clock;
};

/** In the environment of every command of the fleet, so that `crash` finds them. */
const MARK = 'AEGIS_TEST_MARK';

export const startHeldFleet = async (config: Readonly<Record<string, unknown>> = {}): Promise<HeldFleet> => {
  const serverClock = jumpingClock();
  const folder = mkdtempSync(join(tmpdir(), 'aegis-held-'));
  const dataDir = join(folder, 'server');
  const server = await startTestServer({ clock: { now: () => serverClock.now() }, dataDir, config });
  // Long ago: the server's clock may be set back.
  const made = { now: () => Date.now() - 90 * 86_400_000 };
  const token = await issueToken({ dataDir, role: 'admin', name: 'test', clock: made });
  const nodes: HeldNode[] = [];

  const node: HeldFleet['node'] = (name, flags = {}) => {
    const nodeDir = join(folder, name);
    const clock = jumpingClock();
    const direct = nodeHttpDoor();
    // The server's port changes with a restart, and node:http dates answers by the machine's clock, not by the server's.
    const send = async (asked: HttpRequest): Promise<HttpAnswer> => {
      const { pathname, search } = new URL(asked.url);
      const answer = await direct({ ...asked, url: `${server.url}${pathname}${search}` });
      return { ...answer, headers: { ...answer.headers, date: new Date(serverClock.now()).toUTCString() } };
    };
    const request: HttpDoor = (asked) => (one.intercept ? one.intercept(asked, send) : send(asked));
    let daemon: RunningDaemon | null = null;
    const one: HeldNode = {
      name,
      dataDir: nodeDir,
      clock,
      intercept: null,
      get daemon() {
        return daemon;
      },
      start: async (options = {}) => {
        const { config: loaded } = loadDaemonConfig({
          flags: {
            data_dir: nodeDir,
            server: server.url,
            join_token: await server.joinToken(),
            name,
            poll_wait_sec: 5,
            ...flags,
          },
          env: {},
        });
        daemon = await startDaemon({ config: loaded, clock, request, ...options });
        return daemon;
      },
      stop: async () => {
        await daemon?.close();
        daemon = null;
      },
      crash: async () => {
        one.intercept = () => Promise.reject(new Error('the power is off'));
        await one.stop();
        await endExecutionsBelow(nodeDir);
        await endMarked(nodeDir);
        one.intercept = null;
      },
    };
    nodes.push(one);
    return one;
  };

  return {
    server,
    serverClock,
    folder,
    token,
    api: apiOf(
      () => server.url,
      () => token,
    ),
    node,
    [Symbol.asyncDispose]: async () => {
      for (const one of nodes) await one.stop();
      await server.close();
      for (const one of nodes) {
        await endExecutionsBelow(one.dataDir);
        await endMarked(one.dataDir);
      }
      rmSync(folder, { recursive: true, force: true });
    },
  };
};

/** Environment for a command, by which `marked` finds all its processes, whatever sessions they made. */
export const markOf = (mark: string): Record<string, string> => ({ [MARK]: mark });

/** The processes that carry the mark in their environment. */
export const marked = (mark: string): number[] =>
  readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => environOf(pid).split('\0').includes(`${MARK}=${mark}`));

const environOf = (pid: number): string => {
  try {
    return readFileSync(`/proc/${pid}/environ`, 'latin1');
  } catch {
    return ''; // gone in the meantime, or a kernel thread
  }
};

export const endMarked = (mark: string): Promise<void> =>
  waitFor(`the processes marked ${mark} to be gone`, () => {
    const left = marked(mark);
    for (const pid of left) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
      }
    }
    return left.length === 0;
  });
