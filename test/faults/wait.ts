import { setTimeout as sleep } from 'node:timers/promises';

/** Waits for a condition with a deadline: never a bare sleep as synchronisation. `more` is added to the failure. */
export const waitFor = async (
  what: string,
  holds: () => boolean | Promise<boolean>,
  deadlineMs = 30_000,
  more: () => string = () => '',
): Promise<void> => {
  const deadline = performance.now() + deadlineMs;
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`waited ${deadlineMs} ms for ${what}\n${more()}`);
    await sleep(10);
  }
};
