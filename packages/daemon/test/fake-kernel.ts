import { DeployError, type Deployment, type EngineState, type KernelEngine } from '../src/artifacts/deployment.ts';

/** A kernel in memory behind the engine's interface: what it holds outlives the daemons that use it, until `reboot`. */
export interface FakeKernel {
  engine(): Promise<KernelEngine>;
  /** By artifact: the revision that is attached. */
  held: Map<string, { version: string; revision: string; objects: Map<string, string>; deployment: Deployment }>;
  /** Every call that the engine got, in order. */
  calls: string[];
  /** Versions (`name@version`) that fail, and how. */
  failing: Map<string, DeployError>;
  /** Interfaces that are not there: artifacts attached to them wait. */
  absent: Set<string>;
  counters: { runs: number };
  drift: EngineState['drift'];
  reboot(): void;
}

export const fakeKernel = (): FakeKernel => {
  const kernel: FakeKernel = {
    held: new Map(),
    calls: [],
    failing: new Map(),
    absent: new Set(),
    counters: { runs: 0 },
    drift: [],
    reboot: () => kernel.held.clear(),
    engine: async () => ({
      apply: async (deployment) => {
        const { name, version, revision, programs } = deployment;
        const held = kernel.held.get(name);
        if (held?.revision !== revision) {
          kernel.calls.push(`apply ${name}@${version}`);
          const { objects } = await deployment.bytes();
          const failure = kernel.failing.get(`${name}@${version}`);
          if (failure) throw failure;
          const texts = new Map([...objects].map(([file, bytes]) => [file, bytes.toString()]));
          kernel.held.set(name, { version, revision, objects: texts, deployment });
        }
        const waits = (hook: string): boolean => [...kernel.absent].some((one) => hook.includes(one));
        const attachments = programs.map((program): EngineState['attachments'][number] => {
          const hook = JSON.stringify(program.attach);
          return waits(hook)
            ? { program: program.name, hook, state: 'waiting' }
            : { program: program.name, hook, state: 'attached', link_id: 1, run_count: kernel.counters.runs };
        });
        const drift = kernel.drift.splice(0);
        return { attachments, maps: [], drift, waiting: attachments.some(({ state }) => state === 'waiting') };
      },
      remove: async (name) => {
        kernel.calls.push(`remove ${name}`);
        const failure = kernel.failing.get(name);
        if (failure) throw failure;
        kernel.held.delete(name);
      },
      sweep: async (names) => {
        const orphans = [...kernel.held.keys()].filter((name) => !names.includes(name));
        for (const name of orphans) {
          kernel.calls.push(`sweep ${name}`);
          kernel.held.delete(name);
        }
        return orphans;
      },
      close: () => undefined,
    }),
  };
  return kernel;
};

export { DeployError };
