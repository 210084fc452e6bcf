/** The compiled addon, loaded at the first call: `AEGIS_NATIVE_DIR`, else this package's build folder (seen from its sources or from
 *  another package's bundle), else beside a bundle. Its functions are typed here and called nowhere but in this package. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { LoaderError } from './errors.ts';

declare const kind: unique symbol;
/** An object of the addon that owns a descriptor. Opaque: only the addon reads it. */
export type Handle<K extends string> = { readonly [kind]: K };
export type ProgramHandle = Handle<'program'>;
export type MapHandle = Handle<'map'>;
export type LinkHandle = Handle<'link'>;
export type HoldHandle = Handle<'hold'>;
export type RingHandle = Handle<'ring'>;
export type PinnableHandle = ProgramHandle | MapHandle | LinkHandle;

export interface RawLoadOptions {
  name: string;
  allPrograms: boolean;
  programs: {
    name: string;
    type?: number;
    expectedAttachType?: number;
    attachTo?: string;
    offloadInterface?: string;
  }[];
  maps: { name: string; pinPath?: string; maxEntries?: number }[];
  globals: { name: string; bytes: Uint8Array }[];
  kernelBtf?: Uint8Array;
  /** Where the interfaces of offloaded programs are. */
  netns?: string;
  logLimitBytes: number;
}

export interface RawLoaded {
  programs: { name: string; section: string; type: number; expectedAttachType: number; handle: ProgramHandle }[];
  maps: { name: string; internal: boolean; reused: boolean; pinned: boolean; handle: MapHandle }[];
}

export interface RawReport {
  license: string;
  hasBtf: boolean;
  hasBtfExt: boolean;
  coreRelocations: number;
  btf: Buffer;
  programs: { name: string; section: string; type: number; expectedAttachType: number; instructions: number }[];
  maps: {
    name: string;
    type: number;
    keySize: number;
    valueSize: number;
    maxEntries: number;
    flags: number;
    internal: boolean;
    pinByName: boolean;
  }[];
  globals: {
    name: string;
    section: string;
    offset: number;
    size: number;
    typeId: number;
    typeName: string;
    initial: Buffer;
  }[];
  externs: { name: string; function: boolean; section: string }[];
}

export interface RawLinkInfo {
  id: number;
  kind: string;
  programId: number;
  ifindex?: number;
  attachType?: number;
  cgroupId?: bigint;
  netnsInode?: number;
  name?: string;
  family?: number;
  hook?: number;
  priority?: number;
  offset?: bigint;
}

export interface RawMapInfo {
  id: number;
  name: string;
  type: number;
  keySize: number;
  valueSize: number;
  maxEntries: number;
  flags: number;
  btfId: number;
  btfKeyTypeId: number;
  btfValueTypeId: number;
  frozen: boolean;
  memlockBytes: number;
  elementBytes: number;
  cpus: number;
}

export interface RawHookState {
  programs: number[];
  links: number[];
  revision?: bigint;
}

export interface RawProgramInfo {
  id: number;
  name: string;
  type: number;
  tag: string;
  mapIds: number[];
  btfId: number;
  loadedAt: number;
  runCount: number;
  runTimeNs: number;
  instructions: number;
  jitedBytes: number;
  verifiedInstructions: number;
  memlockBytes: number;
}

type AttachLink<Target> = (program: ProgramHandle, target: Target, pinPath: string) => Promise<LinkHandle>;
export interface PerfTarget {
  type: number;
  config: number;
  text?: string;
  offset?: number;
  period?: number;
  frequency?: number;
  pid: number;
  cpu: number;
}
export interface TcxTarget {
  interface: string;
  attachType: number;
  flags: number;
  relative: number;
  netns: string;
}

export interface TcTarget {
  interface: string;
  egress: boolean;
  priority: number;
  handle: number;
  netns: string;
}

export interface RawNamespaceFacts {
  inode: number;
  interfaces: { name: string; index: number }[];
  routes: string;
  routes6: string;
}

export interface BpfAddon {
  loadObject(bytes: Uint8Array, options: RawLoadOptions): Promise<RawLoaded>;
  inspectObject(bytes: Uint8Array): Promise<RawReport>;
  attachXdp: AttachLink<{ interface: string; flags: number; netns: string }>;
  attachTcx: AttachLink<TcxTarget>;
  attachNetfilter: AttachLink<{ family: number; hook: number; priority: number; netns: string }>;
  attachPerf: AttachLink<PerfTarget>;
  attachCgroup: AttachLink<{ name: string; attachType: number }>;
  attachNetns: AttachLink<{ name: string; attachType: number }>;
  attachTracing: AttachLink<{ attachType: number }>;
  attachRawTracepoint: AttachLink<{ name: string }>;
  tcAttach(
    program: ProgramHandle,
    target: TcTarget,
    replace: number,
  ): Promise<{ programId: number; madeQdisc: boolean }>;
  tcQuery(target: TcTarget): Promise<number>;
  tcDetach(target: TcTarget, programId: number, removeQdisc: boolean): Promise<boolean>;
  socketAttach(program: ProgramHandle, target: { interface: string; netns: string }): Promise<HoldHandle>;
  symbolOffset(binary: string, symbol: string): Promise<number>;
  linkInfo(link: LinkHandle): RawLinkInfo;
  programInfo(program: ProgramHandle): RawProgramInfo;
  updateLink(link: LinkHandle, program: ProgramHandle, expected?: ProgramHandle): void;
  detachLink(link: LinkHandle): void;
  pin(handle: PinnableHandle, path: string): void;
  close(handle: Handle<string>): void;
  openPin(kind: 'program', path: string): ProgramHandle;
  openPin(kind: 'map', path: string): MapHandle;
  openPin(kind: 'link', path: string): LinkHandle;
  openId(kind: 'program', id: number): ProgramHandle;
  openId(kind: 'map', id: number): MapHandle;
  openId(kind: 'link', id: number): LinkHandle;
  testRun(
    program: ProgramHandle,
    data: Uint8Array | undefined,
    context: Uint8Array | undefined,
    repeat: number,
  ): Promise<{ returned: number; durationNs: number; data: Buffer; context: Buffer }>;
  mapInfo(map: MapHandle): RawMapInfo;
  mapLookup(map: MapHandle, key: Uint8Array, remove: boolean): Buffer | undefined;
  mapUpdate(map: MapHandle, key: Uint8Array, value: Uint8Array, flags: number): void;
  mapDelete(map: MapHandle, key: Uint8Array): boolean;
  /** With `maxBytes` 0 it counts and keeps nothing. */
  mapDump(
    map: MapHandle,
    limit: number,
    maxBytes: number,
  ): Promise<{ count: number; complete: boolean; keys: Buffer; values: Buffer }>;
  mapFreeze(map: MapHandle): void;
  listIds(kind: 'program' | 'map' | 'link' | 'btf'): number[];
  xdpState(
    interface_: string,
    netns: string,
  ): Promise<{ ifindex: number; native: number; generic: number; offload: number }>;
  tcxState(interface_: string, attachType: number, netns: string): Promise<RawHookState>;
  cgroupState(cgroup: string, attachType: number, effective: boolean): Promise<RawHookState>;
  netnsState(netns: string, attachType: number): Promise<RawHookState>;
  interfaceIndex(interface_: string, netns: string): Promise<number>;
  namespaceFacts(netns: string, withRoutes: boolean): Promise<RawNamespaceFacts>;
  enableStats(): HoldHandle;
  btfBytes(id: number): Buffer;
  openRing(map: MapHandle, perfPages: number): RingHandle;
  takeRing(
    ring: RingHandle,
    maxRecords: number,
    maxBytes: number,
  ): { bytes: Buffer; lengths: Uint32Array; lost: number };
  awaitRing(ring: RingHandle, callback: () => void): void;
  closeRing(ring: RingHandle): void;
  mountBpffs(root: string): void;
  makeFolders(root: string, names: readonly string[]): void;
  listFolder(root: string, names: readonly string[]): { name: string; kind: 'folder' | 'pin' | 'other' }[];
  removePin(root: string, names: readonly string[]): boolean;
  removeTree(root: string, names: readonly string[]): number;
}

const FILE = 'aegis_bpf.node';

const unavailable = (why: string): LoaderError =>
  new LoaderError({ code: 'bpf.unsupported', message: `eBPF cannot be used here: ${why}` });

const addonFile = (env: NodeJS.ProcessEnv): string => {
  const here = dirname(fileURLToPath(import.meta.url));
  const folders = env.AEGIS_NATIVE_DIR
    ? [env.AEGIS_NATIVE_DIR]
    : [join(here, '../build/Release'), join(here, '../../bpf-loader/build/Release'), here, join(here, 'native')];
  for (const folder of folders) {
    const path = join(folder, FILE);
    if (existsSync(path)) return path;
  }
  throw unavailable(`${FILE} is not built (looked in ${folders.join(', ')}): run bin/setup.`);
};

const isAddon = (value: unknown): value is BpfAddon =>
  typeof value === 'object' && value !== null && 'loadObject' in value && 'removeTree' in value;

let kept: BpfAddon | null = null;

/** The addon, found once. Throws LoaderError bpf.unsupported where there is none. */
export const addon = (): BpfAddon => {
  kept ??= findAddon();
  return kept;
};

export const findAddon = (
  env: NodeJS.ProcessEnv = process.env,
  platform: NodeJS.Platform = process.platform,
): BpfAddon => {
  if (platform !== 'linux') throw unavailable(`it is a part of Linux, and this is ${platform}.`);
  const path = addonFile(env);
  let loaded: unknown;
  try {
    loaded = createRequire(import.meta.url)(path);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw unavailable(`${FILE} does not load (${why}): install libbpf (Debian: libbpf1) or run bin/setup.`);
  }
  if (!isAddon(loaded)) throw unavailable(`${FILE} is of another version: run bin/setup.`);
  return loaded;
};

/** Whether the addon is there and loads, and why not. */
export const loaderAvailable = (env: NodeJS.ProcessEnv = process.env): { available: boolean; reason?: string } => {
  try {
    findAddon(env);
    return { available: true };
  } catch (error) {
    return { available: false, reason: error instanceof Error ? error.message : String(error) };
  }
};
