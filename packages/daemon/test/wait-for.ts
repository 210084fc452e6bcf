/** Waits for a condition, looking again every few milliseconds; fails with `what` after the deadline. */
export const waitFor = async <T>(
  what: string,
  condition: () => T | false | null | undefined,
  deadlineMs = 20_000,
): Promise<T> => {
  const until = performance.now() + deadlineMs;
  for (;;) {
    const value = condition();
    if (value !== false && value !== null && value !== undefined) return value;
    if (performance.now() > until) throw new Error(`waited ${deadlineMs} ms in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
};
