/** The items of a source, fetched while the caller works on earlier ones: at most `most` wait. The caller must end the iteration (a `break` does), then
 *  the source is ended too. */
export async function* runAhead<T>(source: AsyncIterable<T>, most: number): AsyncGenerator<T, void, undefined> {
  const waiting: T[] = [];
  const state = { ended: false, stopped: false, failure: null as { error: unknown } | null };
  let wakeCaller = (): void => undefined;
  let wakeSource = (): void => undefined;
  const fetching = (async () => {
    try {
      for await (const item of source) {
        waiting.push(item);
        wakeCaller();
        while (waiting.length >= most && !state.stopped)
          await new Promise<void>((resolve) => {
            wakeSource = resolve;
          });
        if (state.stopped) break;
      }
    } catch (error) {
      state.failure = { error };
    }
    state.ended = true;
    wakeCaller();
  })();
  try {
    for (;;) {
      const item = waiting.shift();
      if (item !== undefined) {
        wakeSource();
        yield item;
      } else if (state.ended) break;
      else
        await new Promise<void>((resolve) => {
          wakeCaller = resolve;
        });
    }
    if (state.failure) throw state.failure.error;
  } finally {
    state.stopped = true;
    wakeSource();
    await fetching;
  }
}
