/** Bytes that were signed for, by slot: a part that is sent again counts once, with its greatest length. */
export interface Written {
  readonly total: number;
  of(slot: string): number;
}

/** `Written` for one run. */
export interface WrittenCounter extends Written {
  add(slot: string, bytes: number): void;
  /** A copy on trial: `keep` adds to the original what was added to it. */
  fork(): Written & { add(slot: string, bytes: number): void; keep(): void };
}
export const writtenCounter = (): WrittenCounter => {
  const slots = new Map<string, number>();
  let total = 0;
  const add = (slot: string, bytes: number): void => {
    const before = slots.get(slot) ?? 0;
    if (bytes <= before) return;
    slots.set(slot, bytes);
    total += bytes - before;
  };
  return {
    get total() {
      return total;
    },
    of: (slot) => slots.get(slot) ?? 0,
    add,
    fork: () => {
      const more = new Map<string, number>();
      const of = (slot: string): number => Math.max(slots.get(slot) ?? 0, more.get(slot) ?? 0);
      let added = 0;
      return {
        get total() {
          return total + added;
        },
        of,
        add: (slot, bytes) => {
          const before = of(slot);
          if (bytes <= before) return;
          more.set(slot, bytes);
          added += bytes - before;
        },
        keep: () => {
          for (const [slot, bytes] of more) add(slot, bytes);
        },
      };
    },
  };
};
