import { createToken } from '@aegis/protocol/access/endpoints';
import type { Role } from '@aegis/protocol/access/roles';
import { apiPatchNode } from '@aegis/protocol/nodes/endpoints';
import type { EnrolledNode, TestServer } from './start-test-server.ts';
import type { TestClient } from './test-client.ts';

/** A server with a node in Frankfurt and one in Berlin, for those whose scope is one of them. */
export interface ScopeStage {
  fra: EnrolledNode;
  ber: EnrolledNode;
  /** With a token of that role for these nodes alone. */
  scoped(role: Role, scope: string): Promise<TestClient>;
  move(node: EnrolledNode, site: string): Promise<void>;
}

export const scopeStage = async (server: TestServer): Promise<ScopeStage> => {
  const admin = server.as('admin');
  const move = async ({ uid }: EnrolledNode, site: string) => {
    await admin.call(apiPatchNode, { params: { id: uid }, body: { site } });
  };
  const fra = await server.enrol('in-fra');
  const ber = await server.enrol('in-ber');
  await move(fra, 'fra');
  await move(ber, 'ber');
  return {
    fra,
    ber,
    move,
    scoped: async (role, scope) => {
      const { token } = await admin.call(createToken, { body: { name: `scoped ${role}`, role, scope } });
      return server.withToken(token);
    },
  };
};
