import type { NodeArtifact } from '@aegis/protocol/artifacts/endpoints';
import type { AttachmentReport } from '@aegis/protocol/artifacts/status';
import type { Api } from '../api/client.ts';
import { everyPage } from '../api/pages.ts';
import { routes } from '../api/routes.ts';

/** An artifact's state on each node, as the server tells it and as a table shows it. */

export interface StatusFilter {
  name?: string | undefined;
  node?: string | undefined;
}

export const statusOf = async (api: Api, { name, node }: StatusFilter): Promise<NodeArtifact[]> => {
  const items: NodeArtifact[] = [];
  const pages = everyPage((cursor) => api.call(routes.artifactStatus, { query: { name, node, limit: 1000, cursor } }));
  for await (const page of pages) items.push(...page.items);
  return items;
};

export const HEAD = ['ARTIFACT', 'NODE', 'VERSION', 'STATE', 'ATTACHED', 'DRIFT', 'NOTE'] as const;

export const statusRow = (item: NodeArtifact): string[] => {
  const { report } = item;
  const attachments = report?.attachments ?? [];
  const attached = attachments.filter(({ state }) => state === 'attached').length;
  return [
    item.name,
    item.online ? item.node : `${item.node} (offline)`,
    item.version ?? '-',
    item.version === null && item.state !== 'detached' ? `${item.state} (to be taken off)` : item.state,
    attachments.length > 0 ? `${attached}/${attachments.length}` : '-',
    String(report?.drift.length ?? 0),
    noteOf(item, attachments),
  ];
};

/** Why it is not as it should be; else where it is attached. */
const noteOf = ({ report, state }: NodeArtifact, attachments: readonly AttachmentReport[]): string => {
  if (report?.reason) {
    const { code, message, version } = report.reason;
    return version !== undefined && version !== report.version
      ? `${version} failed (${code}), ${report.version} runs: ${message}`
      : `${code}: ${message}`;
  }
  const waiting = attachments.filter((one) => one.state === 'waiting' || one.state === 'failed');
  const shown = waiting.length > 0 ? waiting : state === 'attached' ? attachments : [];
  return shown.map((one) => (one.reason ? `${hookText(one)} (${one.reason})` : hookText(one))).join('; ');
};

/** The wished hook may be a glob: the interface that it came to belongs with it. */
const hookText = ({ hook, interface: name }: AttachmentReport): string =>
  name === undefined || hook.split(' ').includes(name) ? hook : `${hook} (${name})`;
