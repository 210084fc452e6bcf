import { createHash, sign } from 'node:crypto';
import { PAYLOAD_TYPES, signEnvelope } from '@aegis/protocol/access/dsse';
import { parseJoinToken } from '@aegis/protocol/access/join-token';
import { generateKeyPair, type KeyPair } from '@aegis/protocol/access/keys';
import { keysFor, openTrustBundle } from '@aegis/protocol/access/trust-bundle';
import type { OfferedCommand, PollAnswer, PostedReport, Report, StatusAnswer } from '@aegis/protocol/commands/carrier';
import { ackCommands, pollCommands, pushStatus } from '@aegis/protocol/commands/endpoints';
import { registerComplete, registerInit } from '@aegis/protocol/nodes/endpoints';
import {
  enrolmentTranscript,
  joinTokenMac,
  type RegisterCompleteAnswer,
  type RegisterInit,
  type RegisterInitAnswer,
} from '@aegis/protocol/nodes/enrolment';
import type { Pool } from 'undici';
import type * as z from 'zod/mini';
import { call, type Session } from './node-session.ts';
import { attachWhatIsAssigned } from './simulated-artifacts.ts';
import { type BackedUp, type BackupPlan, backUp } from './simulated-backups.ts';

/** A node as the server sees one, without running anything: enrols with keys of its own, waits in the long poll, acknowledges,
 *  and reports success with a little output, signed. Each step waits for the server's answer, as a daemon's does. */
export interface SimulatedNode {
  /** Works until that many executions have been accepted as succeeded; counts the requests of each kind. */
  work(executions: number): Promise<{ polls: number; reports: number }>;
  /** Waits for one assignment of this artifact, fetches and verifies it as a daemon does, and reports it attached. */
  attach(artifact: string): Promise<void>;
  /** Makes one backup at the time of its schedule, but for the archive. */
  backUp(nth: number, plan: BackupPlan): Promise<BackedUp>;
}

const OUTPUT = Buffer.from('ok\n');
const REPORTS_AT_ONCE = 100;
const POLL_WAIT_SEC = 20;
const stream = (bytes: Buffer) => ({ bytes: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex') });
const TOTALS = { stdout: stream(OUTPUT), stderr: stream(Buffer.alloc(0)) };

export const enrolSimulatedNode = async (pool: Pool, joinToken: string, name: string): Promise<SimulatedNode> => {
  const keys = generateKeyPair();
  const session = await enrol(pool, joinToken, name, keys);
  const { token } = session;
  const pollPath = `${pollCommands.path}?wait=${POLL_WAIT_SEC}`;
  return {
    work: async (executions) => {
      const counts = { polls: 0, reports: 0 };
      for (let done = 0; done < executions; ) {
        const { commands } = await call<PollAnswer>(pool, pollCommands, { path: pollPath, token });
        if (commands.length === 0) continue;
        counts.polls++;
        await call(pool, ackCommands, { token, body: { ids: commands.map((one) => one.execution_id) } });
        for (let at = 0; at < commands.length; at += REPORTS_AT_ONCE) {
          const reports = commands.slice(at, at + REPORTS_AT_ONCE).map((one) => reportOf(one, keys));
          const { results } = await call<z.infer<typeof StatusAnswer>>(pool, pushStatus, { token, body: { reports } });
          const refused = results.find((one) => one.error || one.state !== 'succeeded');
          if (refused) throw new Error(`a report was refused: ${JSON.stringify(refused)}`);
          counts.reports++;
          done += results.length;
        }
      }
      return counts;
    },
    attach: (artifact) => attachWhatIsAssigned(session, artifact),
    backUp: (nth, plan) => backUp(session, nth, plan),
  };
};

export const reportOf = ({ command_id, execution_id, attempt }: OfferedCommand, keys: KeyPair): PostedReport => {
  const now = new Date().toISOString();
  const report: Report = {
    command_id,
    execution_id,
    attempt,
    state: 'succeeded',
    exit_code: 0,
    signal: null,
    started_at: now,
    finished_at: now,
    output: TOTALS,
    usage: { user_us: 400, system_us: 600, max_rss_kb: 1800, duration_ms: 1 },
    tree_empty: true,
    error: null,
  };
  return {
    ...report,
    report: signEnvelope(PAYLOAD_TYPES.report, report, keys),
    chunks: [{ offset: 0, stream: 'stdout', data: OUTPUT.toString('utf8') }],
  };
};

export const enrol = async (pool: Pool, joinTokenText: string, name: string, keys: KeyPair): Promise<Session> => {
  const joinToken = parseJoinToken(joinTokenText);
  const init: RegisterInit = {
    token_id: joinToken.id,
    host_id: name,
    public_key: keys.publicRaw.toString('base64'),
    sealing_key: generateKeyPair('x25519').publicRaw.toString('base64'),
  };
  const answer = await call<RegisterInitAnswer>(pool, registerInit, { body: init });
  const { bundle, rootFingerprint } = openTrustBundle(answer.trust_bundle, joinToken.rootFingerprint, Date.now());
  const transcript = enrolmentTranscript('node', {
    fleet: bundle.fleet,
    rootFingerprint,
    serverKey: Buffer.from(answer.server_key, 'base64'),
    challenge: Buffer.from(answer.challenge, 'base64'),
    registrationId: answer.registration_id,
    init,
  });
  const { token, agent_uid: uid } = await call<RegisterCompleteAnswer>(pool, registerComplete, {
    body: {
      registration_id: answer.registration_id,
      token_mac: joinTokenMac(joinToken.secret, transcript).toString('base64'),
      signature: sign(null, transcript, keys.privateKey).toString('base64'),
    },
  });
  return { pool, uid, token, keys, signers: keysFor(bundle, 'serve') };
};
