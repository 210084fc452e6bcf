/** A bus within this process: a wake-up for whoever waits on a topic. It carries no data and may be lost when nobody listens:
 *  what counts is in the database, and a waiter looks there before it waits and after it wakes. */
export interface Bus {
  publish(topic: string): void;
  /** Calls `listener` at each publication until disposed (or aborted). */
  subscribe(topic: string, listener: () => void, signal?: AbortSignal): Disposable;
  /** Listeners there are: what a test for leaks asks. */
  size(): number;
}

export const processBus = (): Bus => {
  const topics = new Map<string, Set<() => void>>();
  return {
    publish: (topic) => {
      // A copy: a listener may unsubscribe itself or others.
      for (const listener of [...(topics.get(topic) ?? [])]) listener();
    },
    subscribe: (topic, listener, signal) => {
      const own = () => listener(); // the same function may be subscribed twice
      const listeners = topics.get(topic) ?? new Set();
      listeners.add(own);
      topics.set(topic, listeners);
      const dispose = () => {
        signal?.removeEventListener('abort', dispose);
        listeners.delete(own);
        if (listeners.size === 0 && topics.get(topic) === listeners) topics.delete(topic);
      };
      if (signal?.aborted) dispose();
      else signal?.addEventListener('abort', dispose, { once: true });
      return { [Symbol.dispose]: dispose };
    },
    size: () => [...topics.values()].reduce((sum, listeners) => sum + listeners.size, 0),
  };
};
