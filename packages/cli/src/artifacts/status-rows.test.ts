import type { NodeArtifact } from '@aegis/protocol/artifacts/endpoints';
import { expect, test } from 'vitest';
import { statusTable } from './status-rows.ts';

const hook = (program_id: number, run_count: number) => ({
  program: 'drop_icmp',
  hook: 'tcx egress on eth0',
  state: 'attached' as const,
  program_id,
  run_count,
});

const item = (node: string, over: Partial<NodeArtifact> = {}, attachments = [hook(7, 0)]): NodeArtifact =>
  ({
    name: 'block-icmp',
    version: '1.0.0',
    node,
    node_uid: `uid-${node}`,
    online: true,
    state: 'attached',
    generation: 1,
    confirmed_generation: 1,
    reported_at: '2026-01-31T08:00:00Z',
    report: {
      name: 'block-icmp',
      version: '1.0.0',
      generation: 1,
      state: 'attached',
      attachments,
      maps: [],
      drift: [],
      at: '2026-01-31T08:00:00Z',
    },
    ...over,
  }) as NodeArtifact;

test('every column while nothing counts runs', () => {
  expect(statusTable([item('web-1')], undefined)).toBe(
    `ARTIFACT    NODE   VERSION  STATE     ATTACHED  DRIFT  NOTE
block-icmp  web-1  1.0.0    attached  1/1       0      tcx egress on eth0
`,
  );
});

test('runs stand there where a node counts them, each program once', () => {
  const counted = item('web-1', {}, [hook(7, 40), hook(7, 40), hook(8, 2)]);
  const gone = ['block-icmp', 'web-3', '-', 'detached', '-', '0', ''];
  expect(statusTable([counted, item('web-2', { report: null, state: 'pending' })], undefined, [gone])).toBe(
    `ARTIFACT    NODE   VERSION  STATE     ATTACHED  DRIFT  RUNS  NOTE
block-icmp  web-1  1.0.0    attached  3/3       0      42    tcx egress on eth0; tcx egress on eth0; tcx egress on eth0
block-icmp  web-2  1.0.0    pending   -         0      0
block-icmp  web-3  -        detached  -         0      -
`,
  );
});

test('a narrow terminal goes without columns that say nothing, and keeps those that do', () => {
  const [one, two] = [item('web-1'), item('web-2')];
  expect(statusTable([one, two], 50)).toBe(
    `ARTIFACT    NODE   STATE     NOTE
block-icmp  web-1  attached  tcx egress on eth0
block-icmp  web-2  attached  tcx egress on eth0
`,
  );
  expect(statusTable([one, item('web-2', { version: '1.1.0', report: null, state: 'pending' })], 50)).toBe(
    `NODE   VERSION  STATE     NOTE
web-1  1.0.0    attached  tcx egress on eth0
web-2  1.1.0    pending
`,
  );
  const half = item('web-2', {}, [hook(7, 1_234_567), { ...hook(8, 0), state: 'waiting' as never }]);
  expect(statusTable([one, half], 50)).toBe(
    `NODE   STATE     ATTACHED  NOTE
web-1  attached  1/1       tcx egress on eth0
web-2  attached  1/2       tcx egress on eth0
`,
  );
  expect(statusTable([one], 80)).toContain('ARTIFACT    NODE   VERSION  STATE     ATTACHED  DRIFT  NOTE');
});
