import fc from 'fast-check';
import { expect, test } from 'vitest';
import { AegisError } from '../errors.ts';
import { looksLikeSelector, matchSelector, parseSelector } from './selector.ts';

const node = {
  name: 'web-1',
  site: 'fra',
  capabilities: ['docker', 'commands'],
  os: 'debian',
  container_engine: null,
  status: 'online',
  labels: { env: 'prod', 'team/role': 'front end' },
};

test.each([
  ['all', true],
  ['site=fra', true],
  ['site!=fra', false],
  ['engine=docker', false],
  ['engine!=docker', true],
  ['capability=docker', true],
  ['capability!=podman and status=online', true],
  ['not label.env=prod', false],
  ['label.team/role="front end"', true],
  ['label.absent=*', false],
  ['name=web-*', true],
  ['name=*b-1', true],
  ['name=w*b*1', true],
  ['name=w*b*2', false],
  ['name=web-1*web-1', false],
  ['site=ams or site=fra and label.env=test', false],
  ['(site=ams or site=fra) and label.env=prod', true],
  ['NOT site=ams AND os=debian', true],
  ['not not site=fra', true],
])('%s → %s', (text, expected) => {
  expect(matchSelector(parseSelector(text), node)).toBe(expected);
});

test('names are not selectors', () => {
  expect(['web-1', '192.168.193.129', 'fe80::1', 'all', 'a=b', 'a b'].map(looksLikeSelector)).toEqual([
    false,
    false,
    false,
    true,
    true,
    true,
  ]);
});

test('any text either parses or is refused with the one code', () => {
  const words = fc.constantFrom('site', '=', '!=', 'and', 'or', 'not', '(', ')', 'all', '"', 'label.x', 'v', ' ');
  const texts = fc.oneof(
    fc.string(),
    fc.array(words, { maxLength: 30 }).map((parts) => parts.join(' ')),
  );
  fc.assert(
    fc.property(texts, (text) => {
      try {
        matchSelector(parseSelector(text), node);
      } catch (error) {
        expect(error).toBeInstanceOf(AegisError);
        expect((error as AegisError).code).toBe('commands.bad_selector');
      }
    }),
    { numRuns: 3000 },
  );
});
