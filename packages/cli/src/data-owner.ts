import { lstatSync } from 'node:fs';

/** Root works on a server's data directory as the user that it belongs to: what root made there the server could not open. For the rest of
 *  this process. */
export const becomeOwnerOf = (folder: string): void => {
  if (process.geteuid?.() !== 0) return;
  const stat = lstatSync(folder, { throwIfNoEntry: false });
  if (!stat?.isDirectory() || stat.uid === 0) return;
  process.setgroups?.([stat.gid]);
  process.setgid?.(stat.gid);
  process.setuid?.(stat.uid);
};
