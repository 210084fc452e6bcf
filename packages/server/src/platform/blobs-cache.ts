/** Keeps what was read last, up to so many bytes, and lets all who ask for the same at once wait for one reading. */
export interface BlobCache {
  get(key: string, load: () => Promise<Buffer>): Promise<Buffer>;
  forget(key: string): void;
}

export const blobCache = (limitBytes: number): BlobCache => {
  const kept = new Map<string, Buffer>(); // in the order of their last use
  const loading = new Map<string, Promise<Buffer>>();
  let bytes = 0;
  const forget = (key: string): void => {
    bytes -= kept.get(key)?.length ?? 0;
    kept.delete(key);
    loading.delete(key); // who waits for it gets it; it is not kept
  };
  const keep = (key: string, value: Buffer): void => {
    if (value.length > limitBytes) return;
    kept.set(key, value);
    bytes += value.length;
    for (const oldest of kept.keys()) {
      if (bytes <= limitBytes) return;
      forget(oldest);
    }
  };
  return {
    get: (key, load) => {
      const known = kept.get(key);
      if (known) {
        kept.delete(key);
        kept.set(key, known);
        return Promise.resolve(known);
      }
      const underWay = loading.get(key);
      if (underWay) return underWay;
      const started: Promise<Buffer> = load().then(
        (value) => {
          if (loading.get(key) === started) {
            loading.delete(key);
            keep(key, value);
          }
          return value;
        },
        (error: unknown) => {
          if (loading.get(key) === started) loading.delete(key);
          throw error;
        },
      );
      loading.set(key, started);
      return started;
    },
    forget,
  };
};
