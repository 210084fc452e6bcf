import { expect, test } from 'vitest';
import { processBus } from './bus.ts';

test('listeners hear their topic until disposed or aborted, and nothing is left behind', () => {
  const bus = processBus();
  const heard: string[] = [];
  const controller = new AbortController();
  const one = bus.subscribe('a', () => heard.push('one'));
  bus.subscribe('a', () => heard.push('two'), controller.signal);
  bus.subscribe('b', () => heard.push('b'), controller.signal);
  bus.publish('a');
  one[Symbol.dispose]();
  bus.publish('a');
  controller.abort();
  bus.publish('a');
  bus.publish('b');
  expect(heard).toEqual(['one', 'two', 'two']);
  expect(bus.size()).toBe(0);
  bus.subscribe('a', () => heard.push('late'), controller.signal);
  expect(bus.size()).toBe(0);
});

test('a listener may leave while it is being called', () => {
  const bus = processBus();
  const heard: number[] = [];
  const own = bus.subscribe('a', () => {
    heard.push(1);
    own[Symbol.dispose]();
  });
  bus.subscribe('a', () => heard.push(2));
  bus.publish('a');
  bus.publish('a');
  expect(heard).toEqual([1, 2, 2]);
});
