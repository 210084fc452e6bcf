import { Constant } from '@aegis/protocol/artifacts/manifest';
import { AegisError } from '@aegis/protocol/errors';
import { expect, test } from 'vitest';
import * as z from 'zod/mini';
import { checkedSettings, effectiveConstants, type Settings } from './settings.ts';

const constants = [
  { name: 'target_ip', type: 'ipv4', value: '192.0.2.1', settable: true },
  { name: 'fixed', type: 'u32', value: 1 },
  { name: 'limit', type: 'u16', value: 10, object: 'a.bpf.o', settable: true },
  { name: 'twice', type: 'u8', value: 1, object: 'a.bpf.o', settable: true },
  { name: 'twice', type: 'u8', value: 2, object: 'b.bpf.o', settable: true },
].map((constant) => z.parse(Constant, constant));

const refusal = (given: Settings): string => {
  try {
    checkedSettings(constants, given);
  } catch (error) {
    if (error instanceof AegisError) return `${error.code}: ${error.message}`;
    throw error;
  }
  return 'taken';
};

test('what is set stands in the place of the manifest’s values, by full key, in order', () => {
  const settings = checkedSettings(constants, { target_ip: '192.0.2.9', limit: '20', 'b.bpf.o:twice': 9 });
  expect(Object.entries(settings)).toEqual([
    ['a.bpf.o:limit', '20'],
    ['b.bpf.o:twice', 9],
    ['target_ip', '192.0.2.9'],
  ]);
  expect(Object.entries(effectiveConstants(constants, settings))).toEqual([
    ['a.bpf.o:limit', '20'],
    ['a.bpf.o:twice', 1],
    ['b.bpf.o:twice', 9],
    ['fixed', 1],
    ['target_ip', '192.0.2.9'],
  ]);
});

const CAN = 'What can be set: target_ip (ipv4), a.bpf.o:limit (u16), a.bpf.o:twice (u8), b.bpf.o:twice (u8).';
test.each<[Settings, string]>([
  [{ targetip: 1 }, `artifacts.unknown_constant: The artifact has no constant 'targetip'. ${CAN}`],
  [{ fixed: 2 }, `artifacts.not_settable: The manifest does not let an assignment change 'fixed'. ${CAN}`],
  [
    { twice: 2 },
    "artifacts.unknown_constant: Several objects have a constant 'twice': name its object too, as in 'a.bpf.o:twice'.",
  ],
  [
    { limit: 1, 'a.bpf.o:limit': 2 },
    "artifacts.unknown_constant: 'a.bpf.o:limit' is set twice, by two names. Set it once.",
  ],
  [
    { target_ip: '192.0.2' },
    "artifacts.bad_constant: target_ip: '192.0.2' is no ipv4: give an address such as 192.0.2.9.",
  ],
  [{ limit: 65_536 }, "artifacts.bad_constant: a.bpf.o:limit: '65536' is no u16: give a whole number from 0 to 65535."],
])('%j', (given, sentence) => {
  expect(refusal(given)).toBe(sentence);
});
