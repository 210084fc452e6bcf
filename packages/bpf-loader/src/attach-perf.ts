/** Tracepoints, probes and perf events: what perf_event_open wants to know, read from tracefs and sysfs. */
import { readFileSync, unlinkSync } from 'node:fs';
import { checkInteger, checkName, checkPath } from './arguments.ts';
import { invalid, LoaderError } from './errors.ts';
import type { LinkHandle, PerfTarget } from './loader.ts';
import { addon } from './loader.ts';
import type { Program } from './program.ts';
import type { AttachPoint } from './types.ts';

type Point<K extends AttachPoint['kind']> = Extract<AttachPoint, { kind: K }>;
type KernelProbe = Extract<AttachPoint, { symbol: string }>;
type UserProbe = Extract<AttachPoint, { binary: string }>;

const TRACEFS = ['/sys/kernel/tracing', '/sys/kernel/debug/tracing'];
const EVENT_SOURCES = '/sys/bus/event_source/devices';
const TYPE_HARDWARE = 0;
const TYPE_SOFTWARE = 1;
const TYPE_TRACEPOINT = 2;

const EVENTS: Readonly<Record<Point<'perf_event'>['event'], { type: number; config: number }>> = {
  cpu_cycles: { type: TYPE_HARDWARE, config: 0 },
  instructions: { type: TYPE_HARDWARE, config: 1 },
  cpu_clock: { type: TYPE_SOFTWARE, config: 0 },
  task_clock: { type: TYPE_SOFTWARE, config: 1 },
  page_faults: { type: TYPE_SOFTWARE, config: 2 },
  context_switches: { type: TYPE_SOFTWARE, config: 3 },
};

const read = (path: string): string | undefined => {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return undefined; // not there: the caller says what that means
  }
};

/** The event runs the program wherever it fires, whatever cpu is given. */
const everywhere = { pid: -1, cpu: 0 } as const;

export const attachTracepoint = (
  program: Program,
  point: Point<'tracepoint'>,
  pinPath: string,
): Promise<LinkHandle> => {
  const place = `${checkPlain(point.category, 'A tracepoint category')}/${checkPlain(point.name, 'A tracepoint')}`;
  const tracefs = TRACEFS.find((folder) => read(`${folder}/events/header_page`) !== undefined);
  if (tracefs === undefined)
    throw new LoaderError({
      code: 'bpf.unsupported',
      message: 'tracefs is not mounted: mount -t tracefs tracefs /sys/kernel/tracing.',
    });
  const id = read(`${tracefs}/events/${place}/id`);
  if (id === undefined)
    throw new LoaderError({
      code: 'bpf.no_such_target',
      message: `The kernel has no tracepoint ${place}: ${tracefs}/available_events lists those there are.`,
      errno: 2,
      details: { tracepoint: place },
    });
  return addon().attachPerf(program.handle, { type: TYPE_TRACEPOINT, config: Number(id), ...everywhere }, pinPath);
};

const checkPlain = (name: string, what: string): string => {
  checkName(name, what);
  if (name.includes('..')) throw invalid(`${what} must be a plain name.`, { name });
  return name;
};

/** The number of the kernel's kprobe or uprobe event source, and the bit that makes it a return probe. */
const probeSource = (kind: 'kprobe' | 'uprobe'): { type: number; returnBit: number } => {
  const type = read(`${EVENT_SOURCES}/${kind}/type`);
  if (type === undefined)
    throw new LoaderError({
      code: 'bpf.unsupported',
      message: `This kernel has no ${kind}s: they need Linux 4.17 built with CONFIG_${kind.toUpperCase()}_EVENTS.`,
      details: { since: '4.17', needs: `CONFIG_${kind.toUpperCase()}_EVENTS` },
    });
  const bit = /config:(\d+)/.exec(read(`${EVENT_SOURCES}/${kind}/format/retprobe`) ?? '')?.[1];
  return { type: Number(type), returnBit: Number(bit ?? 0) };
};

export const attachKernelProbe = (program: Program, point: KernelProbe, pinPath: string): Promise<LinkHandle> => {
  const { type, returnBit } = probeSource('kprobe');
  const target = {
    type,
    config: point.kind === 'kretprobe' ? 2 ** returnBit : 0,
    text: checkName(point.symbol, 'A symbol'),
    offset: checkInteger(point.offset, 0, 0xffff_ffff, 'offset'),
    ...everywhere,
  };
  return addon().attachPerf(program.handle, target, pinPath);
};

export const attachUserProbe = async (program: Program, point: UserProbe, pinPath: string): Promise<LinkHandle> => {
  const { type, returnBit } = probeSource('uprobe');
  const offset = checkInteger(point.offset, 0, Number.MAX_SAFE_INTEGER, 'offset');
  const binary = checkPath(point.binary, 'A binary');
  const pid = point.pid === undefined ? -1 : checkInteger(point.pid, 1, 2 ** 31 - 1, 'pid');
  const start = point.symbol === undefined ? 0 : await addon().symbolOffset(binary, checkSymbol(point.symbol));
  return await addon().attachPerf(
    program.handle,
    {
      type,
      config: point.kind === 'uretprobe' ? 2 ** returnBit : 0,
      text: binary,
      offset: start + offset,
      pid,
      cpu: pid === -1 ? 0 : -1,
    },
    pinPath,
  );
};

/** Symbols of programs are what their compiler made of them: C++ and Rust write much. */
const checkSymbol = (symbol: string): string => {
  if (symbol.length === 0 || symbol.length > 4096 || symbol.includes('\0'))
    throw invalid('A symbol has 1 to 4096 characters.', { symbol });
  return symbol;
};

const onlineCpus = (): number[] => {
  const ranges = read('/sys/devices/system/cpu/online') ?? '0';
  return ranges.split(',').flatMap((range) => {
    const [first = 0, last = first] = range.split('-').map(Number);
    return Array.from({ length: last - first + 1 }, (_, at) => first + at);
  });
};

/** All or none: a cpu that fails takes the links made before it along. */
export const attachPerfEvents = async (
  program: Program,
  point: Point<'perf_event'>,
  pinPath: string,
): Promise<{ handle: LinkHandle; pinPath: string }[]> => {
  const target = perfTarget(point);
  // A process is followed to whatever cpu it runs on by one event.
  const all = point.cpu === -1 && point.pid === -1;
  const cpus = all ? onlineCpus() : [point.cpu];
  const made: { handle: LinkHandle; pinPath: string }[] = [];
  try {
    for (const cpu of cpus) {
      const pin = pinPath === '' || !all ? pinPath : `${pinPath}-${cpu}`;
      made.push({ handle: await addon().attachPerf(program.handle, { ...target, cpu }, pin), pinPath: pin });
    }
    return made;
  } catch (error) {
    for (const one of made) {
      if (one.pinPath !== '') unlinkSync(one.pinPath);
      addon().close(one.handle);
    }
    throw error;
  }
};

const perfTarget = (point: Point<'perf_event'>): Omit<PerfTarget, 'cpu'> => {
  checkInteger(point.cpu, -1, 65_535, 'cpu');
  checkInteger(point.pid, -1, 2 ** 31 - 1, 'pid');
  if ((point.period === undefined) === (point.frequency === undefined))
    throw invalid('A perf event takes either a period or a frequency.');
  return {
    ...EVENTS[point.event],
    pid: point.pid,
    ...(point.period === undefined ? {} : { period: checkInteger(point.period, 1, Number.MAX_SAFE_INTEGER, 'period') }),
    ...(point.frequency === undefined ? {} : { frequency: checkInteger(point.frequency, 1, 1_000_000, 'frequency') }),
  };
};
