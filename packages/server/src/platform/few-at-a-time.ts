/** Works of which no more than `most` are under way, begun in the order in which they came. One that fails fails alone. */
export type FewAtATime = <T>(work: () => Promise<T>) => Promise<T>;

export const fewAtATime = (most: number): FewAtATime => {
  const waiting: (() => void)[] = [];
  let underWay = 0;
  return async (work) => {
    if (underWay < most) underWay++;
    else await new Promise<void>((begin) => waiting.push(begin)); // whoever ends hands its place on
    try {
      return await work();
    } finally {
      const next = waiting.shift();
      if (next) next();
      else underWay--;
    }
  };
};
