import { isDeepStrictEqual } from 'node:util';
import type { BackupSpec } from '@aegis/protocol/backups/config';
import { ConfigBody, presentConfig } from '@aegis/protocol/backups/directive';
import type { ConfigAnswer } from '@aegis/protocol/backups/endpoints';
import * as z from 'zod/mini';
import type { Api } from '../api/client.ts';
import { everyPage } from '../api/pages.ts';
import { routes } from '../api/routes.ts';
import type { OperatorSigner } from './operator-key.ts';
import { signWishesOf } from './wishes.ts';

/** Backup configurations under an operator's own signature, where he has said all of one: by flags, or in a file. What the server would have
 *  signed is held against that, field by field. */

/** Throws where nodes could not judge the targets by themselves: before anything is changed. @throws AegisError commands.bad_selector */
export const refuseUnsignable = async (signer: OperatorSigner | null, { nodes }: BackupSpec): Promise<void> => {
  if (signer === null || nodes.length === 0) return;
  (await import('@aegis/protocol/access/operators')).selectorOfTargets(nodes);
};

/** For each node that has it, what was said and nothing else; of one that was just made, its first generation.
 *  @throws AegisError access.untrusted where the server wishes for another thing */
export const signConfig = async (
  api: Api,
  signer: OperatorSigner | null,
  { config }: ConfigAnswer,
  { spec, created }: { spec: BackupSpec; created: boolean },
  now: number,
): Promise<void> => {
  if (signer === null || spec.nodes.length === 0) return;
  const uids: string[] = [];
  const params = { id: config.config_id };
  const pages = everyPage((cursor) => api.call(routes.configNodes, { params, query: { limit: 1000, cursor } }));
  for await (const { items } of pages) uids.push(...items.map(({ node_uid }) => node_uid));
  const said = JSON.parse(JSON.stringify(presentConfig(config.config_id, spec)));
  await signWishesOf(
    api,
    signer,
    uids,
    {
      kind: 'backups.config',
      objectId: config.config_id,
      targets: spec.nodes,
      isMeant: (shown, { generation }) => {
        const body = z.safeParse(ConfigBody, shown);
        return body.success && isDeepStrictEqual(body.data, said) && (!created || generation === 1);
      },
    },
    now,
  );
};
