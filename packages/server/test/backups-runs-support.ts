import { showRun } from '@aegis/protocol/backups/endpoints';
import type { Run } from '@aegis/protocol/backups/run';
import { create } from './backups-support.ts';
import type { TestServer } from './start-test-server.ts';

/** Runs for tests: two nodes with one configuration, and what an operator sees of a run. */

export const show = (server: TestServer, id: string): Promise<Run> =>
  server.as('viewer').call(showRun, { params: { id } });
export const stage = async (server: TestServer, more: Record<string, unknown> = {}) => {
  const node = await server.enrol('web-1');
  const other = await server.enrol('web-2');
  const { config } = await create(server, { nodes: ['web-1', 'web-2'], ...more });
  return { node, other, id: config.config_id };
};
