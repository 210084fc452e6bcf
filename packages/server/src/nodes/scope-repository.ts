import { parseScope } from '@aegis/protocol/access/scope';
import { matchSelector, type Selector } from '@aegis/protocol/commands/selector';
import { type RawBuilder, sql } from 'kysely';
import type { NodeScope } from '../platform/node-scope.ts';
import type { StorageKind } from '../platform/storage/storage.ts';

/** Scopes of tokens as conditions on the registry: read from what is stored at each call, so that a node whose site or labels
 *  change is within or beyond at once. Both forms say the same: matchSelector of a node, and SQL of its row. */

const KEPT = 1000;

export type ScopeOf = (text: string) => NodeScope;

/** @throws (the function made) AegisError access.bad_scope */
export const nodeScopes = (kind: StorageKind): ScopeOf => {
  const kept = new Map<string, NodeScope>();
  return (text) => {
    const known = kept.get(text);
    if (known) return known;
    const made = scopeOf(kind, text);
    if (kept.size >= KEPT) kept.clear();
    kept.set(text, made);
    return made;
  };
};

const scopeOf = (kind: StorageKind, text: string): NodeScope => {
  const selector = parseScope(text);
  const row = condition(kind, selector);
  return {
    text,
    includes: ({ site, labels }) => matchSelector(selector, { ...SAYS_NOTHING, site, labels }),
    holds: (uidColumn) => {
      const column = sql.ref(uidColumn);
      // Elsewhere uids are ordered by bytes, and an index counts only in its own order.
      const uid = kind === 'postgres' ? sql`${column} collate "default"` : column;
      return sql<boolean>`exists (select 1 from nodes where nodes.uid = ${uid} and ${row})`;
    },
    row,
  };
};

/** What no scope asks for. */
const SAYS_NOTHING = { name: '', capabilities: [], os: null, container_engine: null, status: '' };

const condition = (kind: StorageKind, selector: Selector): RawBuilder<boolean> => {
  switch (selector.kind) {
    case 'all':
      return sql<boolean>`1 = 1`;
    case 'not':
      return sql<boolean>`not ${condition(kind, selector.of)}`;
    case 'and':
    case 'or': {
      const parts = selector.of.map((one) => condition(kind, one));
      return sql<boolean>`(${sql.join(parts, selector.kind === 'and' ? sql` and ` : sql` or `)})`;
    }
    case 'term': {
      const value = storedValue(kind, selector.key);
      const is = sql<boolean>`(${value} is not null and ${matches(kind, value, selector.value)})`;
      return selector.equals ? is : sql<boolean>`not ${is}`;
    }
  }
};

const storedValue = (kind: StorageKind, key: string): RawBuilder<string | null> => {
  if (key === 'site') return sql`nodes.site`;
  const name = key.slice('label.'.length);
  // No key has a quote or a backslash.
  return kind === 'sqlite'
    ? sql`json_extract(nodes.labels, ${`$."${name}"`})`
    : sql`(nodes.labels::json ->> ${name}::text)`;
};

/** `*` alone matches any run; capitals count. */
const matches = (kind: StorageKind, value: RawBuilder<string | null>, pattern: string): RawBuilder<boolean> => {
  if (!pattern.includes('*')) return sql<boolean>`${value} = ${pattern}`;
  return kind === 'sqlite'
    ? sql<boolean>`${value} glob ${pattern.replace(/[?[]/g, '[$&]')}`
    : sql<boolean>`${value} like ${pattern.replace(/[\\%_]/g, '\\$&').replaceAll('*', '%')}`;
};
