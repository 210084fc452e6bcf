import { createHmac } from 'node:crypto';
import type { Deliver } from './delivery-loop.ts';

/** POSTs an alert. `X-Aegis-Signature: sha256=<hex>` is the HMAC-SHA256 of `<X-Aegis-Timestamp>.<body>` under the shared secret: a receiver
 *  compares it in constant time and refuses old timestamps. Redirects are not followed: only what the operator named hears of anything. */
export const webhook =
  (on: { url: string; secret: string; timeoutMs: number; now: () => number }): Deliver =>
  async (body, signal) => {
    const timestamp = String(Math.floor(on.now() / 1000));
    const signature = createHmac('sha256', on.secret).update(`${timestamp}.${body}`).digest('hex');
    const answer = await fetch(on.url, {
      method: 'POST',
      redirect: 'manual',
      headers: {
        'content-type': 'application/json; charset=utf-8',
        'user-agent': 'Aegis-Server',
        'x-aegis-timestamp': timestamp,
        'x-aegis-signature': `sha256=${signature}`,
      },
      body,
      signal: AbortSignal.any([signal, AbortSignal.timeout(on.timeoutMs)]),
    });
    await answer.body?.cancel();
    if (!answer.ok)
      throw new Error(
        answer.status >= 300 && answer.status < 400
          ? `it was answered with a redirect (${answer.status}), which is not followed`
          : `it was answered with status ${answer.status}`,
      );
  };

/** A webhook's path may be a secret: what is shown of it. */
export const shownUrl = (url: string): string => new URL(url).origin;
