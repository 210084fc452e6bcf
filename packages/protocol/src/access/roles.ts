/** Who calls. Identity comes from the verified token or key, never from a body. `none` routes answer anyone. */
export const ROLES = ['viewer', 'operator', 'admin'] as const;
export type Role = (typeof ROLES)[number];
/** What a route demands: a least operator role, a node's own token, either (the handler tells them apart), or nothing. */
export type Caller = Role | 'node' | 'viewer-or-node' | 'anyone';

export const roleAllows = (have: Role, need: Role): boolean => ROLES.indexOf(have) >= ROLES.indexOf(need);
