/** Works that must not overlap, done in the order in which they came. One that fails fails alone. */
export type OneAtATime = <T>(work: () => Promise<T>) => Promise<T>;

export const oneAtATime = (): OneAtATime => {
  let last: Promise<unknown> = Promise.resolve();
  return <T>(work: () => Promise<T>): Promise<T> => {
    const done = last.then(work);
    last = done.catch(() => undefined); // told to whoever waits for that work
    return done;
  };
};
