import { createHmac } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { waitFor } from '../faults/wait.ts';
import { makeCertificate } from '../fleet/certificate.ts';
import { type Fleet, startFleet } from '../fleet/fleet.ts';

/** Alerts over TLS: a receiver whose authority the server knows hears of a failed backup, one whose certificate nobody vouches for hears nothing. */

const SECRET = 'a secret of some length';
interface Heard {
  signature: string;
  timestamp: string;
  body: string;
}
interface Receiver {
  server: Server;
  url: string;
  heard: Heard[];
  /** Connections that began, whatever became of them. */
  greeted: () => number;
}
const receiver = async (tls: { key: string; cert: string }): Promise<Receiver> => {
  const heard: Heard[] = [];
  let greeted = 0;
  const server = createServer(tls, (request, answer) => {
    let body = '';
    request.setEncoding('utf8');
    request.on('data', (text: string) => {
      body += text;
    });
    request.on('end', () => {
      const of = (name: string) => String(request.headers[name]);
      heard.push({ signature: of('x-aegis-signature'), timestamp: of('x-aegis-timestamp'), body });
      answer.writeHead(204).end();
    });
  });
  server.on('connection', () => {
    greeted += 1;
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = `https://127.0.0.1:${(server.address() as AddressInfo).port}/hook`;
  return { server, url, heard, greeted: () => greeted };
};

let folder: string;
let known: Receiver;
let unknown: Receiver;
let fleet: Fleet;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'aegis-alerts-tls-'));
  const vouched = makeCertificate(folder, 'vouched');
  known = await receiver(vouched);
  unknown = await receiver(makeCertificate(folder, 'unknown'));
  fleet = await startFleet({
    direct: true,
    serverFlags: [
      ...['--set', `backups.alert_webhooks=${known.url} ${unknown.url}`],
      ...['--set', `backups.alert_webhook_secret=${SECRET}`],
    ],
    env: { NODE_EXTRA_CA_CERTS: vouched.certFile },
  });
}, 60_000);
afterAll(async () => {
  await fleet?.[Symbol.asyncDispose]();
  for (const one of [known, unknown]) {
    one?.server.closeAllConnections();
    one?.server.close();
  }
  rmSync(folder, { recursive: true, force: true });
});

test('told to who is known, and to nobody else', async () => {
  const target = join(folder, 'target');
  mkdirSync(target);
  const spec = {
    name: 'home',
    sources: [join(folder, 'nothing-here')],
    destination: { kind: 'file', path: target },
    schedule: { cron: '* * * * * *' },
    retries: { max: 0 },
    nodes: ['web-1'],
  };
  const { status, body } = await fleet.api.call('PUT', '/api/v1/backups/configs/home', { spec });
  expect([status, body]).toMatchObject([status < 300 ? status : 201, {}]);
  await waitFor(
    'the alert',
    () => known.heard.length > 0,
    60_000,
    () => fleet.server.log().slice(-3000),
  );
  const [alert] = known.heard;
  const signed = createHmac('sha256', SECRET).update(`${alert?.timestamp}.${alert?.body}`).digest('hex');
  expect(alert?.signature).toBe(`sha256=${signed}`);
  expect(JSON.parse(alert?.body ?? '')).toMatchObject({ event: 'backup.failed', config: { name: 'home' } });

  await waitFor('the refusal of the other', () => /SELF_SIGNED_CERT/.test(fleet.server.log()));
  expect(unknown.greeted()).toBeGreaterThan(0);
  expect(unknown.heard).toEqual([]);
});
