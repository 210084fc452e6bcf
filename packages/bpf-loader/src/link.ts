/** bpf_links: what holds a program at its hook, also when no process does (pinned). */
import { checkInteger, checkPath } from './arguments.ts';
import { typed } from './errors.ts';
import { attachTypeName } from './kernel-types.ts';
import type { LinkHandle } from './loader.ts';
import { addon } from './loader.ts';
import type { Program } from './program.ts';
import type { LinkInfo } from './types.ts';

const FAMILIES: Readonly<Record<number, string>> = { 2: 'ipv4', 10: 'ipv6' };
const NETFILTER_HOOKS = ['prerouting', 'input', 'forward', 'output', 'postrouting'];

export class Link implements Disposable {
  /** For this package only. */
  readonly handle: LinkHandle;

  constructor(handle: LinkHandle) {
    this.handle = handle;
  }

  /** The kernel's account. A link whose interface, cgroup or namespace is gone says ifindex, cgroupId or netnsInode 0. */
  info(): LinkInfo {
    const { attachType, family, hook, ...raw } = typed(() => addon().linkInfo(this.handle));
    return {
      ...raw,
      ...(attachType === undefined ? {} : { attachType: attachTypeName(attachType) }),
      ...(family === undefined ? {} : { family: FAMILIES[family] ?? `family_${family}` }),
      ...(hook === undefined ? {} : { hook: NETFILTER_HOOKS[hook] ?? `hook_${hook}` }),
    };
  }

  /** Puts another program of the same type into the link, at once for every packet: none passes between. With `expected`, only while
   *  that one is in it (bpf.attach_refused otherwise). Links of tracing kinds and netfilter cannot (bpf.unsupported). */
  update(program: Program, expected?: Program): void {
    typed(() => addon().updateLink(this.handle, program.handle, expected?.handle));
  }

  /** Takes the program off its hook although pins and other descriptors of the link remain. Tracing kinds cannot
   *  (bpf.unsupported): those go with their last pin and descriptor. */
  detach(): void {
    typed(() => addon().detachLink(this.handle));
  }

  pin(path: string): void {
    checkPath(path, 'A pin');
    typed(() => addon().pin(this.handle, path));
  }

  /** Releases this process's hold. A link that is pinned stays attached, another one is detached. */
  [Symbol.dispose](): void {
    addon().close(this.handle);
  }
}

/** Opens a pinned link; bpf.not_found without one. */
export const openLink = (path: string): Link =>
  new Link(typed(() => addon().openPin('link', checkPath(path, 'A pin'))));

export const linkById = (id: number): Link =>
  new Link(typed(() => addon().openId('link', checkInteger(id, 1, 2 ** 32 - 1, 'An id'))));
