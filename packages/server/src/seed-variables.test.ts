import { expect, test } from 'vitest';
import { type Env, loadServerConfig } from './config.ts';

/** The channel's and the messages' variables of seed 001, as it writes them. */

const load = (env: Env, flags: Record<string, unknown> = {}) => loadServerConfig({ flags, env }).config;
const SEED = {
  WEBSOCKET_PORT: '8080',
  WEBSOCKET_PATH: '/ws/agent',
  WEBSOCKET_READ_BUFFER_SIZE: '1024',
  WEBSOCKET_WRITE_BUFFER_SIZE: '1024',
  SESSION_TIMEOUT: '24h',
  ENCRYPTION_ALGORITHM: 'chacha20poly1305',
  KEY_ROTATION_INTERVAL: '24h',
  MESSAGE_QUEUE_SIZE: '10000',
  MESSAGE_RETRY_ATTEMPTS: '3',
  MESSAGE_TTL: '1h',
  MESSAGE_QUEUE_TABLE: 'message_queue',
  CONNECTIONS_TABLE: 'agent_connections',
};

test('as the seed gives them they are the defaults', () => {
  const { channel, ...seeded } = load(SEED);
  const { channel: own, ...plain } = load({});
  expect(seeded).toEqual(plain);
  expect(channel).toEqual({ ...own, port: 8080 });
});

test('others count', () => {
  const { channel, messages } = load({
    SESSION_TIMEOUT: '1h30m',
    KEY_ROTATION_INTERVAL: '90s',
    MESSAGE_TTL: '120',
    MESSAGE_QUEUE_SIZE: '7',
    MESSAGE_RETRY_ATTEMPTS: '0',
  });
  expect([channel.session_sec, channel.rotation_sec]).toEqual([5400, 90]);
  expect([messages.ttl_sec, messages.queue_size, messages.retry_attempts]).toEqual([120, 7, 0]);
  // Ours go before the seed's, and a flag before both.
  expect(load({ MESSAGE_TTL: '1h', AEGIS_MESSAGES_TTL_SEC: '2h' }).messages.ttl_sec).toBe(7200);
  expect(load({ MESSAGE_TTL: '1h' }, { 'messages-ttl-sec': '3h' }).messages.ttl_sec).toBe(10_800);
});

test('another port is served beside the others, at their address', () => {
  expect(load({ WEBSOCKET_PORT: '9090' }).listen).toEqual(['127.0.0.1:8080=all', '127.0.0.1:9090=gateway']);
  expect(load({ WEBSOCKET_PORT: '8080' }).listen).toEqual(['127.0.0.1:8080=all']);
  expect(load({ WEBSOCKET_PORT: '9090' }, { listen: ['[::1]:7000=api'] }).listen).toEqual([
    '[::1]:7000=api',
    '[::1]:9090=gateway',
  ]);
});

test.each([
  [
    'ENCRYPTION_ALGORITHM',
    'aes-256-gcm',
    /channel\.encryption: "aes-256-gcm" \(env ENCRYPTION_ALGORITHM\).*chacha20poly1305, and nothing else/,
  ],
  ['WEBSOCKET_PATH', '/socket', /channel\.path: .*\/ws\/agent, and nothing else/],
  ['MESSAGE_QUEUE_TABLE', 'messages', /messages\.queue_table: .*message_queue, and nothing else/],
  ['CONNECTIONS_TABLE', 'connections', /channel\.connections_table: .*agent_connections, and nothing else/],
  [
    'SESSION_TIMEOUT',
    '1 day',
    /channel\.session_sec: "1 day" .*seconds from 60 to 2592000, as a number or as 90s, 30m, 24h/,
  ],
  ['SESSION_TIMEOUT', '1s', /channel\.session_sec: "1s"/],
  ['KEY_ROTATION_INTERVAL', '-1h', /channel\.rotation_sec/],
  ['MESSAGE_TTL', '8000h', /messages\.ttl_sec/],
  ['MESSAGE_QUEUE_SIZE', 'many', /messages\.queue_size/],
  ['MESSAGE_RETRY_ATTEMPTS', '-1', /messages\.retry_attempts/],
  ['WEBSOCKET_PORT', '0', /channel\.port/],
])('%s=%s stops the start', (name, value, said) => {
  expect(() => load({ [name]: value })).toThrow(said);
});
