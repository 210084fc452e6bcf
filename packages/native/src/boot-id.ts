/** The kernel's id of this boot; another one after every restart of the machine. */
import { readFileSync } from 'node:fs';

export const readBootId = (path = '/proc/sys/kernel/random/boot_id'): string => readFileSync(path, 'utf8').trim();
