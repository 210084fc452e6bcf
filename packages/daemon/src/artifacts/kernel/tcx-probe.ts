import { hookState } from '@aegis/bpf-loader/kernel';
import { isLoaderError } from './failure.ts';

/** Whether this kernel has tcx (Linux 6.6): asked of the loopback interface, which every namespace has. */
export const hasTcx = async (): Promise<boolean> => {
  try {
    await hookState({ kind: 'tcx', interface: 'lo', direction: 'ingress' });
    return true;
  } catch (error) {
    if (isLoaderError(error, 'bpf.unsupported', 'bpf.invalid')) return false;
    throw error;
  }
};
