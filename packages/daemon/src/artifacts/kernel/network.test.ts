import { expect, test } from 'vitest';
import { defaultRouteInterfaces, matchesGlob, network } from './network.ts';

const HEAD =
  'Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT                                                       \n';
const route = (name: string, metric: number, destination = '00000000', flags = '0003', mask = '00000000') =>
  `${name}\t${destination}\t010010AC\t${flags}\t0\t0\t${metric}\t${mask}\t0\t0\t0\n`;
const ZERO = '0'.repeat(32);
const route6 = (name: string, metric: string, flags = '00000003', length = '00') =>
  `${ZERO} ${length} ${ZERO} 00 fe80000000000000000000000000000a ${metric} 00000001 00000000 ${flags} ${name.padStart(8)}\n`;

test('the default route of the lowest metric, of either family', () => {
  expect(defaultRouteInterfaces({ routes: HEAD, routes6: '' })).toEqual([]);
  const routes = HEAD + route('eth1', 200) + route('eth0', 100) + route('eth2', 0, '000010AC', '0001', '00F0FFFF');
  expect(defaultRouteInterfaces({ routes, routes6: '' })).toEqual(['eth0']);
  const routes6 =
    route6('lo', 'ffffffff', '00200200') + route6('wg0', '00000400') + route6('eth9', '00000001', '00000001', '40');
  expect(defaultRouteInterfaces({ routes, routes6 })).toEqual(['eth0', 'wg0']);
  expect(defaultRouteInterfaces({ routes, routes6: route6('eth0', '00000400') })).toEqual(['eth0']);
  expect(defaultRouteInterfaces({ routes: HEAD + route('gone', 0, '00000000', '0200'), routes6: '' })).toEqual([]);
});

test('globs know * and ?, and nothing else', () => {
  expect(matchesGlob('eth*', 'eth0.100')).toBe(true);
  expect(matchesGlob('eth?', 'eth10')).toBe(false);
  expect(matchesGlob('e.h*', 'eth0')).toBe(false);
  expect(matchesGlob('*', 'lo')).toBe(true);
});

test('a pass over many attachments asks once', async () => {
  let asked = 0;
  let now = 0;
  const read = async () => ({ inode: ++asked, interfaces: [], routes: '', routes6: '' });
  const here = network(read, { now: () => now, monotonic: () => now }, 100);
  expect((await here.recent(undefined)).facts?.inode).toBe(1);
  now = 100;
  expect((await here.recent(undefined)).facts?.inode).toBe(1);
  expect((await here.recent('/run/netns/x')).facts?.inode).toBe(2);
  expect((await here.fresh(undefined)).facts?.inode).toBe(3);
  expect((await here.recent(undefined)).facts?.inode).toBe(3);
  now = 201;
  expect((await here.recent(undefined)).facts?.inode).toBe(4);
});
