import type { Bus } from '../platform/bus.ts';
import type { Clock } from '../platform/clock.ts';
import type { Log } from '../platform/log.ts';
import type { Storage } from '../tables.ts';
import { pinnedCertificate } from './own-certificate.ts';
import { accessRepository } from './repository.ts';
import { operatorJwts, type TokenKeyFiles, tokenKeyPair } from './tokens-jwt.ts';
import { type TokensService, tokensService } from './tokens-service.ts';
import { type TokenWatch, tokenWatch } from './tokens-watch.ts';

/** The tokens of a running server: their keys from the settings, their service, and the watch over answers that outlive them. */
export const runningTokens = (on: {
  storage: Storage;
  bus: Bus;
  clock: Clock;
  dataDir: string;
  fleet: string;
  trust: { rootFingerprint(): string };
  joinMaster: string;
  settings: TokenKeyFiles & { jwt_signing_secret: string | null };
  stopping: AbortSignal;
  log: Log;
}): { tokens: TokensService; watch: TokenWatch } => {
  const { clock, dataDir, settings } = on;
  const repository = accessRepository(on.storage);
  const watch = tokenWatch({ ...on, goodOf: (ids) => repository.goodTokens(ids, clock.now()) });
  const tokens = tokensService({
    repository,
    revoked: watch.revoked,
    jwts: operatorJwts({
      fleet: on.fleet,
      pair: tokenKeyPair(dataDir, settings),
      secret: settings.jwt_signing_secret,
      now: clock.now,
    }),
    clock,
    get rootFingerprint() {
      return on.trust.rootFingerprint();
    },
    joinMaster: on.joinMaster,
    tlsFingerprint: () => pinnedCertificate(dataDir),
  });
  return { tokens, watch };
};
