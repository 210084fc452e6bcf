import type { KeyObject } from 'node:crypto';
import * as z from 'zod/mini';
import {
  looksLikeSelector,
  matchSelector,
  parseSelector,
  type Selectable,
  selectorKeys,
} from '../commands/selector.ts';
import { AegisError } from '../errors.ts';
import { Directive, type DirectiveKind } from './directive.ts';
import { type Envelope, openEnvelope, PAYLOAD_TYPES } from './dsse.ts';
import { keyIdOf, publicKeyFromRaw } from './keys.ts';
import { parseStrictJson } from './strict-json.ts';
import type { TrustBundle } from './trust-bundle.ts';

/** Operators' own signatures: whose keys a trust bundle lists for `operate`, how far each reaches, and how what an operator named becomes
 *  a selector that a node can judge by itself. Shared by who signs (CLI), who checks and carries (server) and who obeys (daemon). */

export interface OperatorKey {
  keyId: string;
  name: string;
  publicKey: KeyObject;
  /** Whose it is; null where the bundle does not say: then it counts alone, and never towards a number of persons. */
  person: string | null;
  /** Absent kinds or selector: no bound. */
  scope: { kinds?: readonly string[] | undefined; selector?: string | undefined };
}

/** The active keys with the usage `operate`, by key id. A key listed under an id that is not its own is left out. */
export const operatorKeysOf = (bundle: TrustBundle): Map<string, OperatorKey> => {
  const found = new Map<string, OperatorKey>();
  for (const key of bundle.keys) {
    const raw = Buffer.from(key.public_key, 'base64');
    if (key.state !== 'active' || !key.usage.includes('operate') || keyIdOf(raw) !== key.keyid) continue;
    found.set(key.keyid, {
      keyId: key.keyid,
      name: key.name,
      publicKey: publicKeyFromRaw(raw),
      person: key.person ?? null,
      scope: key.scope ?? {},
    });
  }
  return found;
};

/** What only a server says of a node, which a node therefore cannot judge. */
const ONLY_SERVER_KNOWS = 'status';

/** Whether a selector means this node, by what the node knows of itself. Null: it asks for what only a server could say, or is not understood. */
export const meansNode = (text: string, self: Selectable): boolean | null => {
  try {
    const selector = parseSelector(text);
    return selectorKeys(selector).has(ONLY_SERVER_KNOWS) ? null : matchSelector(selector, self);
  } catch {
    return null;
  }
};

/** Whether a key may order this kind here. What is not understood of a scope bounds it to nothing. */
export const reaches = ({ scope }: OperatorKey, kind: DirectiveKind, self: Selectable): boolean =>
  (scope.kinds?.includes(kind) ?? true) && (scope.selector === undefined || meansNode(scope.selector, self) === true);

/** Distinct persons behind these keys. Of a key without a person nobody knows whose it is: it never adds to others. */
export const personsOf = (keys: readonly OperatorKey[]): Set<string> => {
  const named = new Set(keys.flatMap(({ person }) => (person === null ? [] : [person])));
  const [first] = keys;
  return named.size > 0 || !first ? named : new Set([first.keyId]);
};

const UID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
const NAME = /^[A-Za-z0-9._:-]{1,128}$/;

/** The one selector that says what several targets say: names, uids and selectors, any of them.
 *  @throws AegisError commands.bad_selector, also for what a node could not judge by itself */
export const selectorOfTargets = (targets: readonly string[]): string => {
  const terms = targets.map((target) => {
    if (looksLikeSelector(target)) return targets.length === 1 ? target : `(${target})`;
    if (UID.test(target)) return `uid=${target.toLowerCase()}`;
    if (NAME.test(target)) return `name=${target}`;
    throw new AegisError('commands.bad_selector', `'${target.slice(0, 128)}' names no node. See 'aegis nodes list'.`);
  });
  const text = terms.join(' or ');
  if (selectorKeys(parseSelector(text)).has(ONLY_SERVER_KNOWS))
    throw new AegisError(
      'commands.bad_selector',
      "A signed command cannot select by 'status': only the server knows it, and nodes judge signed targets by themselves. Leave it out.",
    );
  return text;
};

export interface SignedBy {
  directive: Directive;
  /** Those keys whose signatures are good; never empty. */
  keys: OperatorKey[];
}

const fatalUtf8 = new TextDecoder('utf-8', { fatal: true });

/** Reads a directive whoever signed it. @throws AegisError access.bad_directive */
export const readDirective = (envelope: Envelope): Directive => {
  try {
    return z.parse(Directive, parseStrictJson(fatalUtf8.decode(Buffer.from(envelope.payload, 'base64'))));
  } catch (cause) {
    const why = cause instanceof SyntaxError ? cause.message : 'a field is missing, unknown or of the wrong type';
    throw new AegisError('access.bad_directive', `It is no directive that this release understands (${why}).`, {
      cause,
    });
  }
};

/** @throws AegisError access.bad_signature unless every signature is good and of one of these keys, access.bad_directive */
export const openOperatorDirective = (envelope: Envelope, keys: ReadonlyMap<string, OperatorKey>): SignedBy => {
  const publicKeys = new Map([...keys].map(([id, { publicKey }]) => [id, publicKey]));
  const { signedBy } = openEnvelope(envelope, PAYLOAD_TYPES.directive, publicKeys);
  const bad = envelope.signatures.find(({ keyid }) => !signedBy.includes(keyid));
  if (bad || signedBy.length === 0)
    throw new AegisError(
      'access.bad_signature',
      `The signature by the key ${bad?.keyid.slice(0, 16) ?? ''} is not a good one of an operator's key that this fleet lists. See 'aegis access keys list'.`,
    );
  return {
    directive: readDirective(envelope),
    keys: signedBy.flatMap((id) => {
      const key = keys.get(id);
      return key ? [key] : [];
    }),
  };
};
