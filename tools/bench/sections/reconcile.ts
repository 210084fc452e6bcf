import { makeNetns } from '../../../packages/bpf-loader/test/netns.ts';
import { deployment, engineFixture } from '../../../packages/daemon/test/engine-fixture.ts';
import { atMost, figure } from '../figure.ts';
import { type Section, times } from '../section.ts';

const ATTACHMENTS = 200;

/** What looking costs a node where nothing is wrong: one pass over 200 artifacts, one attachment each, with the kernel asked about every
 *  link, pin and interface. Beside it what a daemon that has just started needs to find them all in place. */
export const reconcile: Section = {
  name: 'reconcile',
  what: 'compare 200 healthy attachments with the kernel',
  run: async (context) => {
    using net = makeNetns();
    using fixture = engineFixture({ networkTtlMs: 100 });
    const near = { interface: 'wire', netns: net.near.path };
    // A hook holds 64 programs.
    const hooks = [
      {
        name: 'trace_getpgid',
        attach: { kind: 'tracepoint', category: 'syscalls', name: 'sys_enter_getpgid' },
      },
      { name: 'tc_filter', attach: { kind: 'tc', direction: 'ingress', ...near } },
      { name: 'tc_filter', attach: { kind: 'tc', direction: 'egress', ...near } },
      { name: 'lookup_any', attach: { kind: 'sk_lookup', netns: net.near.path } },
    ] as const;
    const all = Array.from({ length: ATTACHMENTS }, (_, at) =>
      deployment({
        name: `artifact-${at}`,
        programs: [hooks[at % hooks.length] ?? hooks[0]],
        maps: [{ name: 'kept_counts', keep: true }],
      }),
    );
    const pass = async (engine: typeof fixture.engine): Promise<number> => {
      const begin = performance.now();
      for (const one of all) {
        const { attachments, drift, waiting } = await engine.apply(one);
        if (attachments.length !== 1 || drift.length > 0 || waiting)
          throw new Error(`${one.name} is not as it was left`);
      }
      return performance.now() - begin;
    };
    context.say(`attaching ${ATTACHMENTS} programs`);
    await pass(fixture.engine);
    const passes: number[] = [];
    for (let round = 0; round < times(context, 50, 5); round++) passes.push(await pass(fixture.engine));
    const adoptions: number[] = [];
    for (let round = 0; round < times(context, 5, 1); round++) adoptions.push(await pass(fixture.restart()));
    await fixture.engine.sweep([]);
    return [
      figure('reconcile', {
        name: `a pass over ${ATTACHMENTS} healthy attachments`,
        unit: 'ms',
        samples: passes,
        bar: atMost(20, 'median'),
        note: 'a quarter each: tracepoint, tcx in, tcx out, sk_lookup; every link opened by its pin and asked, every pin and interface looked at',
      }),
      figure('reconcile', {
        name: `a daemon that starts finds ${ATTACHMENTS} attachments in place`,
        unit: 'ms',
        samples: adoptions,
        note: 'nothing loaded or attached again',
      }),
    ];
  },
};
