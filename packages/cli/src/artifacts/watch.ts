import type { NodeArtifact } from '@aegis/protocol/artifacts/endpoints';
import { type Watched, watch } from '../following/watch.ts';
import { plainText } from '../ui/plain-text.ts';
import { statusRow, statusTable } from './status-rows.ts';

/** `aegis artifacts status --watch`. */

type Options = Pick<Watched<NodeArtifact>, 'json' | 'around' | 'signal' | 'ask' | 'say'>;

export const watchStatus = async (options: Options): Promise<void> => {
  const { json } = options;
  await watch<NodeArtifact>({
    ...options,
    key: ({ node_uid, name }) => `${node_uid} ${name}`,
    state: (item) =>
      json
        ? JSON.stringify({ ...item, reported_at: null, report: item.report && { ...item.report, at: '' } })
        : statusRow(item).join('\n'),
    table: statusTable,
    line: (item, gone) => (json ? jsonLine(item, gone) : textLine(item, gone)),
  });
};

const jsonLine = (item: NodeArtifact, gone: boolean): string => {
  const { name, node, node_uid } = item;
  return JSON.stringify(gone ? { type: 'gone', name, node, node_uid } : { type: 'status', ...item });
};
const textLine = (item: NodeArtifact, gone: boolean): string =>
  gone ? `${plainText(item.name)}  ${plainText(item.node)}  gone` : statusRow(item).map(plainText).join('  ').trimEnd();
