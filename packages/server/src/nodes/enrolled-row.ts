import { keyIdOf } from '@aegis/protocol/access/keys';
import type { RegisterInit, TokenRequest } from '@aegis/protocol/nodes/enrolment';
import type { Attrs, Labels } from '@aegis/protocol/nodes/node';
import type { NodeRow } from './repository.ts';
import { sortedJson } from './service.ts';

/** From what a node says at enrolment to its row. Site and labels of the join token go over the node's own. */

interface Granted {
  site: string | null;
  labels: Labels;
}

const textOf = (attrs: Attrs | undefined, ...names: string[]): string | null => {
  for (const name of names) {
    const value = attrs?.[name];
    if (typeof value === 'string' && value !== '') return value;
  }
  return null;
};

/** The columns that listings and selectors know, taken from the free-form attributes. */
export const attrColumns = (attrs: Attrs | undefined) => ({
  attrs: JSON.stringify(attrs ?? {}),
  version: textOf(attrs, 'version', 'agent_version'),
  os: textOf(attrs, 'os'),
  kernel: textOf(attrs, 'kernel', 'kernel_version'),
  container_engine: textOf(attrs, 'container_engine'),
});

/** What a node says of itself when it renews its token: an upgrade or a new kernel shows without a new enrolment. */
export const renewedFacts = ({ attrs, capabilities }: Pick<TokenRequest, 'attrs' | 'capabilities'>) => ({
  ...(attrs === undefined ? {} : attrColumns(attrs)),
  ...(capabilities === undefined ? {} : { capabilities: capabilitiesText(capabilities) }),
});

const capabilitiesText = (capabilities: readonly string[]): string => JSON.stringify([...new Set(capabilities)].sort());

/** What a repeated enrolment brings up to date. What operators have set since stays where neither node nor token says anything. */
export const factsOf = (init: RegisterInit, granted: Granted | null, before: Pick<NodeRow, 'site' | 'labels'>) => ({
  ...attrColumns(init.attrs),
  capabilities: capabilitiesText(init.capabilities ?? []),
  sealing_key: init.sealing_key === undefined ? null : Buffer.from(init.sealing_key, 'base64'),
  site: granted?.site ?? init.site ?? before.site,
  labels: sortedJson({ ...(init.labels ?? (JSON.parse(before.labels) as Labels)), ...granted?.labels }),
});

export const enrolledRow = (uid: string, init: RegisterInit, granted: Granted | null, now: number): NodeRow => {
  const publicKey = Buffer.from(init.public_key, 'base64');
  return {
    uid,
    name: init.host_id,
    state: 'active',
    maintenance: 0,
    keyless: 0,
    key_id: keyIdOf(publicKey),
    public_key: publicKey,
    ...factsOf(init, granted, { site: null, labels: '{}' }),
    last_seen: now,
    created_at: now,
    updated_at: now,
    deactivated_at: null,
    said_status: null,
  };
};

export const keylessRow = (
  uid: string,
  name: string,
  attrs: Attrs | undefined,
  granted: Granted | null,
  now: number,
): NodeRow => ({
  uid,
  name,
  state: 'active',
  maintenance: 0,
  keyless: 1,
  key_id: null,
  public_key: null,
  sealing_key: null,
  site: granted?.site ?? null,
  labels: sortedJson(granted?.labels ?? {}),
  ...attrColumns(attrs),
  capabilities: '[]',
  last_seen: now,
  created_at: now,
  updated_at: now,
  deactivated_at: null,
  said_status: null,
});
