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

test.each([
  ['eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl', '(secret)'],
  ['/api/v1/tokens/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl/x', '/api/v1/tokens/(secret)/x'],
  [
    `no node '${'aegis1.0123456789abcdef.c2VjcmV0.00ff'}' and 'aegis_0123456789abcdef_c2VjcmV0'`,
    "no node '(secret)' and '(secret)'",
  ],
  [`aegis-agent-${'k'.repeat(43)}`, '(secret)'],
  ['aegis server token, aegis_bus, eyJust a word. Two.', 'aegis server token, aegis_bus, eyJust a word. Two.'],
])('what has the form of a token is struck out wherever it stands: %s', (said, logged) => {
  const lines: string[] = [];
  stderrLog('info', 'json', { write: (line) => void lines.push(line) }).info({ path: said }, said);
  expect(JSON.parse(lines[0] ?? '')).toMatchObject({ path: logged, msg: logged });
});
