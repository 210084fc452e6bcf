import { createHash } from 'node:crypto';
import { readBundle } from '@aegis/archive/bundle/read';
import { Directive } from '@aegis/protocol/access/directive';
import { openEnvelope, PAYLOAD_TYPES } from '@aegis/protocol/access/dsse';
import { showTrust } from '@aegis/protocol/access/endpoints';
import { openTrustBundle } from '@aegis/protocol/access/trust-bundle';
import { AssignmentBody, type PresentBody } from '@aegis/protocol/artifacts/assignment';
import { artifactBinary, artifactsForHost, type ForHost, postStatus } from '@aegis/protocol/artifacts/endpoints';
import { artifactKeysOf, verifyBundleSignature } from '@aegis/protocol/artifacts/signature';
import type { StatusReport } from '@aegis/protocol/artifacts/status';
import type { PollAnswer } from '@aegis/protocol/commands/carrier';
import { pollCommands } from '@aegis/protocol/commands/endpoints';
import { pathOf } from '@aegis/protocol/endpoint';
import * as z from 'zod/mini';
import { call, type Session } from './node-session.ts';

/** A simulated node's side of an assignment: all that a daemon does but for the kernel's part. */
export const attachWhatIsAssigned = async (session: Session, artifact: string): Promise<void> => {
  const { pool, token, uid } = session;
  for (let held = 0; ; ) {
    const path = `${pollCommands.path}?wait=30&desired=${held}`;
    const { desired = held } = await call<PollAnswer>(pool, pollCommands, { path, token });
    if (desired <= held) continue;
    const wished = await call<ForHost>(pool, artifactsForHost, {
      path: pathOf(artifactsForHost, { host_id: uid }),
      token,
    });
    held = wished.revision;
    for (const envelope of wished.directives) {
      const { payload, signedBy } = openEnvelope(envelope, PAYLOAD_TYPES.directive, session.signers);
      if (signedBy.length === 0) throw new Error('a directive without a good signature');
      const directive = z.parse(Directive, JSON.parse(payload.toString('utf8')));
      const body = z.parse(AssignmentBody, directive.body);
      if (body.state !== 'present' || body.name !== artifact) continue;
      await fetchAndVerify(session, body);
      const report: StatusReport = {
        name: body.name,
        version: body.version,
        generation: directive.generation ?? 0,
        state: 'attached',
        at: new Date().toISOString(),
        attachments: [],
        maps: [],
        drift: [],
        kernel: 'simulated',
      };
      const { stored } = await call<{ stored: boolean }>(pool, postStatus, {
        path: pathOf(postStatus, { id: body.artifact_id }),
        token,
        body: report,
      });
      if (!stored) throw new Error('the report was not stored');
      return;
    }
  }
};

const fetchAndVerify = async ({ pool, token }: Session, body: PresentBody): Promise<void> => {
  const answer = await pool.request({
    method: 'GET',
    path: pathOf(artifactBinary, { id: body.artifact_id }),
    headers: { authorization: `Bearer ${token}` },
  });
  const bundle = Buffer.from(await answer.body.arrayBuffer());
  if (answer.statusCode !== 200 || createHash('sha256').update(bundle).digest('hex') !== body.sha256)
    throw new Error(`the bundle is not what was assigned: ${answer.statusCode}, ${bundle.length} bytes`);
  // A daemon keeps the newest trust bundle; so does this process.
  trusted ??= call<z.infer<typeof showTrust.response>>(pool, showTrust, { token }).then(
    ({ trust_bundle, root_fingerprint }) =>
      artifactKeysOf(openTrustBundle(trust_bundle, root_fingerprint, Date.now()).bundle),
  );
  const { name, version, signature } = body;
  verifyBundleSignature({ bundle, name, version, signature, keys: await trusted });
  await readBundle(bundle);
};
let trusted: Promise<ReturnType<typeof artifactKeysOf>> | undefined;
