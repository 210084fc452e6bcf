import { createHash } from 'node:crypto';
import { parentPort, workerData } from 'node:worker_threads';
import { writeFiles } from '../src/file-batch.ts';

/** Has many batches under way when it says so; is then ended. */
const data = Buffer.alloc(20_000, 'x');
const sha256 = createHash('sha256').update(data).digest('hex');
for (let batch = 0; batch < 12; batch++)
  void writeFiles(
    Array.from({ length: 50 }, (_, at) => ({
      dirFd: Number(workerData),
      data,
      sha256,
      mode: 0o600,
      owner: null,
      mtimeSec: 0,
      mtimeNsec: 0,
      temporary: Buffer.from(`.${batch}-${at}`),
      name: Buffer.from(`${batch}-${at}`),
      existing: 'replace' as const,
    })),
  );
parentPort?.postMessage('under way');
