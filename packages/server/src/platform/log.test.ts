import { expect, test } from 'vitest';
import { stderrLog } from './log.ts';

test('secrets are struck out by name, one level down too', () => {
  const lines: string[] = [];
  const log = stderrLog('info', 'json', { write: (line) => void lines.push(line) });
  log.info(
    { token: 'hunter2', request: { authorization: 'Bearer hunter2', path: '/x' }, config: { database_url: 'hunter2' } },
    'hello',
  );
  expect(JSON.parse(lines[0] ?? '')).toMatchObject({
    level: 'info',
    part: 'server',
    msg: 'hello',
    token: '(secret)',
    request: { authorization: '(secret)', path: '/x' },
  });
  expect(lines.join('')).not.toContain('hunter2');
});
