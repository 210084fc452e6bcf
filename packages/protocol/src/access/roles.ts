/** Who calls. Identity comes from the verified token or key, never from a body. `none` routes answer anyone. */
export const ROLES = ['viewer', 'operator', 'admin'] as const;
export type Role = (typeof ROLES)[number];
/** What a route demands: a least operator role, a node's own token, either (the handler tells them apart), or nothing. */
export type Caller = Role | 'node' | 'viewer-or-node' | 'anyone';

/** How the scope of an operator's token bears on an endpoint: `nodes`: it acts on the nodes within and knows no others; `fleet`: it is about the
 *  whole fleet, and a token with a scope is refused; `none`: it tells and changes nothing of any node. */
export const SCOPE_RULES = ['nodes', 'fleet', 'none'] as const;
export type ScopeRule = (typeof SCOPE_RULES)[number];
/** Whether operators may call, so that a rule for scopes is needed. */
export const takesOperators = (caller: Caller): boolean => caller !== 'node' && caller !== 'anyone';

export const roleAllows = (have: Role, need: Role): boolean => ROLES.indexOf(have) >= ROLES.indexOf(need);
