/** clsact: filters in direct action, which have no link. Who attaches one keeps the point and the program's id, and takes it off by
 *  both; what stands there and is another's is never touched. */
import { checkInteger, checkInterface, checkPath, checkWord } from './arguments.ts';
import { typedAsync } from './errors.ts';
import type { TcTarget } from './loader.ts';
import { addon } from './loader.ts';
import type { Program } from './program.ts';
import type { AttachPoint } from './types.ts';

export type TcPoint = Extract<AttachPoint, { kind: 'tc' }>;

const DIRECTIONS = { ingress: 0, egress: 1 } as const;

export const tcTarget = (point: TcPoint): TcTarget => ({
  interface: checkInterface(point.interface),
  egress: checkWord(DIRECTIONS, point.direction, 'direction') === 1,
  priority: checkInteger(point.priority, 1, 0xffff, 'priority'),
  handle: checkInteger(point.handle, 1, 2 ** 32 - 1, 'handle'),
  netns: point.netns === undefined ? '' : checkPath(point.netns, 'A network namespace'),
});

export interface TcFilter {
  programId: number;
  /** Whether the clsact qdisc was missing and made: then it is the caller's to remove in the end. */
  madeQdisc: boolean;
}

/** @param replaceProgramId the program that stands there and is replaced at once; without it bpf.hook_busy when one does. */
export const attachTc = (program: Program, point: TcPoint, replaceProgramId = 0): Promise<TcFilter> =>
  typedAsync(async () => addon().tcAttach(program.handle, tcTarget(point), replaceProgramId));

/** The id of the program there; 0: none. */
export const queryTc = (point: TcPoint): Promise<number> => typedAsync(async () => addon().tcQuery(tcTarget(point)));

/** Takes the filter off if it runs `programId` (bpf.attach_refused if another), nothing when none is there. With `removeQdisc` also
 *  the clsact qdisc, unless it holds others' filters. True when the qdisc was removed. */
export const detachTc = (point: TcPoint, programId: number, { removeQdisc = false } = {}): Promise<boolean> =>
  typedAsync(async () =>
    addon().tcDetach(tcTarget(point), checkInteger(programId, 1, 2 ** 32 - 1, 'A program id'), removeQdisc),
  );
