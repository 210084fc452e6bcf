import { fileCalls } from '@aegis/native/files';
import { createArchive } from '../src/backup/create-archive.ts';
import { everything } from '../src/backup/select/selection.ts';

/** Backs up a source as if no file had holes, keeps nothing, and prints what it took: run by backup-memory.test.ts as a process of its own.
 *  Zeros are not fetched from the kernel, which would first fill its cache with them. */

const LARGE = 64 * 1024;
const files = fileCalls();
const [source = '', recipient = ''] = process.argv.slice(2);
const { totals } = await createArchive({
  sources: [Buffer.from(source)],
  select: everything,
  level: 3,
  recipients: recipient === '' ? [] : [recipient],
  archive: { write: () => undefined },
  manifest: { write: () => undefined },
  header: {},
  clock: { now: () => 0 },
  files: {
    ...files,
    dataSegments: (_, size) => Float64Array.of(0, size),
    readInto: (fd, buffer, offset, length, position) => {
      if (length < LARGE) return files.readInto(fd, buffer, offset, length, position);
      buffer.fill(0, offset, offset + length);
      return length;
    },
  },
});
process.stdout.write(JSON.stringify({ totals, maxRssKiB: process.resourceUsage().maxRSS }));
