import { fileCalls } from '@aegis/native/files';
import { createArchive } from '../src/backup/create-archive.ts';
import { everything } from '../src/backup/select/selection.ts';

/** Backs up a source as if no file had holes, keeps nothing, and prints what it took: run by backup-memory.test.ts as a process of its own. */

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
  files: { ...fileCalls(), dataSegments: (_, size) => Float64Array.of(0, size) },
});
process.stdout.write(JSON.stringify({ totals, maxRssKiB: process.resourceUsage().maxRSS }));
