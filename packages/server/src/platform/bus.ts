/** Wake-ups for whoever waits on a topic. They carry no data and may be lost when nobody listens: what counts is in the database, and
 *  a waiter looks there before it waits and after it wakes. Publish after the commit of what is to be seen. */
export interface Bus {
  publish(topic: string): void;
  /** Calls `listener` at each publication until disposed (or aborted). Also when there may have been one. */
  subscribe(topic: string, listener: () => void, signal?: AbortSignal): Disposable;
  /** For what is kept in memory: told of each publication of `kind:…` by another server process, with what follows the colon, before
   *  those who wait are woken; null: any of that kind may have been missed. Never told of this process's own. */
  onRemote(kind: string, listener: (rest: string | null) => void): void;
  /** Listeners there are: what a test for leaks asks. */
  size(): number;
}

/** The bus of a server that has its database for itself. */
export const processBus = (): Bus => {
  const topics = localTopics();
  return {
    publish: topics.deliver,
    subscribe: topics.subscribe,
    onRemote: () => undefined, // there is no other
    size: topics.size,
  };
};

/** Who waits in this process. */
export const localTopics = () => {
  const topics = new Map<string, Set<() => void>>();
  return {
    deliver: (topic: string): void => {
      const listeners = topics.get(topic);
      // A copy: a listener may unsubscribe itself or others.
      if (listeners) for (const listener of [...listeners]) listener();
    },
    subscribe: (topic: string, listener: () => void, signal?: AbortSignal): Disposable => {
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
    names: (): string[] => [...topics.keys()],
    size: (): number => [...topics.values()].reduce((sum, listeners) => sum + listeners.size, 0),
  };
};
