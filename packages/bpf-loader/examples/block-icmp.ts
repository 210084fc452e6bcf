/** Blocks ICMP to one address on an interface, counts, replaces the program without a gap, and takes it off again:
 *
 *    make -C bpf
 *    node examples/block-icmp.ts INTERFACE ADDRESS build/bpf/attach_xdp.bpf.o
 *
 *  Press Enter to go on. As root. */
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline/promises';
import { attach } from '../src/attach.ts';
import { openBpffs } from '../src/bpffs.ts';
import { LoaderError } from '../src/errors.ts';
import { inspectObject } from '../src/inspect.ts';
import { cpuValues } from '../src/maps.ts';
import { loadObject } from '../src/object.ts';

const [interfaceName = 'lo', address = '192.0.2.9', file = 'build/bpf/attach_xdp.bpf.o'] = process.argv.slice(2);
const bytes = readFileSync(file);

const report = await inspectObject(bytes);
console.log(`programs: ${report.programs.map(({ name }) => name)}, globals: ${report.globals.map(({ name }) => name)}`);

const point = { kind: 'xdp', interface: interfaceName, mode: 'generic' } as const;
const programs = [{ name: 'block_icmp', attach: point }];
const globals = new Map([['target_ip', Uint8Array.from(address.split('.').map(Number))]]);

const bpffs = openBpffs();
const folder = bpffs.ensureFolder('block-icmp');
try {
  using object = await loadObject(bytes, { name: 'example', programs, globals });
  using attachment = await attach(object.program('block_icmp'), point, { pinPath: `${folder}/link` });
  const [link] = attachment.links;
  console.log(
    `attached: ${link?.info().kind} on interface ${link?.info().ifindex}, pinned at ${attachment.pinPaths[0]}`,
  );

  const lines = createInterface({ input: process.stdin });
  await lines.question('');
  const counters = object.map('counters');
  const dropped = counters.lookup(Uint8Array.of(1, 0, 0, 0)) ?? Buffer.alloc(0);
  const info = counters.info();
  const values = info.cpus > 0 ? cpuValues(dropped, info) : [dropped];
  console.log(`dropped: ${values.reduce((sum, value) => sum + value.readBigUInt64LE(0), 0n)}`);

  using next = await loadObject(bytes, { name: 'example', programs, globals });
  link?.update(next.program('block_icmp'), object.program('block_icmp'));
  console.log('replaced');
  lines.close();
} catch (error) {
  if (!(error instanceof LoaderError)) throw error;
  console.error(`${error.code}: ${error.message}${error.log ? `\n${error.log}` : ''}`);
  process.exitCode = 1;
} finally {
  bpffs.removeTree('block-icmp');
}
console.log('detached');
