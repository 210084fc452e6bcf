import { existsSync, readFileSync } from 'node:fs';
import { arch, platform, release } from 'node:os';
import type { Feature } from '@aegis/protocol/artifacts/manifest';

/** What this kernel brings, as far as it can be told without loading anything. The engine learns the rest by trying. */
export interface KernelFacts {
  release: string;
  /** As manifests spell it. */
  architecture: string;
  /** Why a feature is missing; null when it is there, or only trying can tell. */
  missing(feature: Feature): string | null;
}

/** The first kernels that have it. */
const SINCE: Partial<Record<Feature, string>> = {
  tcx: '6.6',
  bpf_link_xdp: '5.9',
  ringbuf: '5.8',
  netfilter_link: '6.4',
  fentry: '5.5',
};

export const kernelFacts = (root = '/'): KernelFacts => {
  const here = release();
  const at = (path: string): string => `${root.replace(/\/$/, '')}${path}`;
  const hasBtf = (): boolean => existsSync(at('/sys/kernel/btf/vmlinux'));
  const noBtf = 'this kernel was built without BTF (CONFIG_DEBUG_INFO_BTF)';
  return {
    release: here,
    architecture: { x64: 'x86_64', arm64: 'aarch64' }[arch() as string] ?? arch(),
    missing: (feature) => {
      if (platform() !== 'linux') return 'eBPF needs Linux';
      const since = SINCE[feature];
      if (since && compareVersions(here, since) < 0) return `Linux has it since ${since}`;
      switch (feature) {
        case 'btf':
          return hasBtf() ? null : noBtf;
        case 'fentry':
          return hasBtf() ? null : noBtf;
        case 'kprobe':
          return existsSync(at('/sys/bus/event_source/devices/kprobe'))
            ? null
            : 'this kernel was built without kprobes (CONFIG_KPROBE_EVENTS)';
        case 'lsm':
          return lsmHasBpf(at('/sys/kernel/security/lsm'))
            ? null
            : "BPF is not among this kernel's security modules (boot it with lsm=…,bpf)";
        default:
          return null;
      }
    },
  };
};

/** securityfs may not be mounted: then only trying can tell. */
const lsmHasBpf = (path: string): boolean => {
  try {
    return readFileSync(path, 'utf8').trim().split(',').includes('bpf');
  } catch {
    return true;
  }
};

const partsOf = (version: string): number[] =>
  (/^\d+(\.\d+)*/.exec(version)?.[0] ?? '0').split('.').map((part) => Number.parseInt(part, 10));
/** By numbers, missing ones count as zero; what follows them (`-generic`) does not count. */
export const compareVersions = (a: string, b: string): number => {
  const [left, right] = [partsOf(a), partsOf(b)];
  for (let index = 0; index < Math.max(left.length, right.length); index++) {
    const difference = (left[index] ?? 0) - (right[index] ?? 0);
    if (difference !== 0) return Math.sign(difference);
  }
  return 0;
};
