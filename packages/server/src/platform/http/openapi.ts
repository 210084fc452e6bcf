import { type Endpoint, endpoint, type Schema } from '@aegis/protocol/endpoint';
import { VERSION } from '@aegis/protocol/version';
import * as z from 'zod/mini';
import { type Route, route } from './route.ts';

/** `/openapi.json`, generated from the endpoints that mount.ts mounts: there is nothing to keep in step. */

export const openApi = endpoint({
  id: 'openApi',
  door: 'every',
  method: 'GET',
  path: '/openapi.json',
  caller: 'viewer',
  scope: 'none',
  tag: 'health',
  summary: 'This description of the API (OpenAPI 3.1)',
});

export const openApiRoute = (served: readonly Endpoint[]): Route => {
  let document: string | undefined; // made once, when somebody first asks
  return route(openApi, ({ reply }) => {
    document ??= JSON.stringify(openApiDocument([...served, openApi]));
    return reply.header('content-type', 'application/json; charset=utf-8').send(document);
  });
};

export const openApiDocument = (endpoints: readonly Endpoint[]): Record<string, unknown> => {
  const paths: Record<string, Record<string, unknown>> = {};
  for (const one of endpoints) {
    const path = paths[one.path] ?? {};
    path[one.method.toLowerCase()] = operation(one);
    paths[one.path] = path;
  }
  return {
    openapi: '3.1.0',
    info: { title: 'Aegis', version: VERSION, license: { name: 'Apache-2.0', identifier: 'Apache-2.0' } },
    paths,
    components: {
      securitySchemes: {
        operator: { type: 'http', scheme: 'bearer', description: 'An operator token (a JWT)' },
        node: { type: 'http', scheme: 'bearer', bearerFormat: 'JWT', description: "A node's own token" },
        agent: {
          type: 'apiKey',
          in: 'header',
          name: 'X-Agent-API-Key',
          description: "A keyless agent's, shown once at its registration",
        },
      },
      schemas: { Error: ERROR_SCHEMA },
    },
  };
};

const ERROR_SCHEMA = {
  type: 'object',
  required: ['error', 'request_id'],
  properties: {
    error: {
      type: 'object',
      required: ['code', 'message', 'details'],
      properties: { code: { type: 'string' }, message: { type: 'string' }, details: { type: 'object' } },
    },
    request_id: { type: 'string' },
  },
};

const operation = (one: Endpoint): Record<string, unknown> => ({
  operationId: one.id,
  tags: [one.tag],
  summary: one.summary,
  'x-aegis-caller': one.caller,
  'x-aegis-door': one.door,
  security: securityOf(one),
  parameters: [...parameters(one.params, 'path'), ...parameters(one.query, 'query')],
  ...requestBody(one),
  responses: {
    [String(one.status ?? 200)]: { description: 'Done', content: answerContent(one) },
    default: {
      description: 'Refused or failed',
      content: { 'application/json': { schema: { $ref: '#/components/schemas/Error' } } },
    },
  },
});

const securityOf = ({ caller, agentKey }: Endpoint): Record<string, never[]>[] => {
  if (caller === 'anyone') return [];
  if (caller === 'viewer-or-node') return [{ operator: [] }, { node: [] }];
  if (caller !== 'node') return [{ operator: [] }];
  return agentKey ? [{ node: [] }, { agent: [] }] : [{ node: [] }];
};

const requestBody = (one: Endpoint): Record<string, unknown> => {
  if (one.rawBody) return { requestBody: { required: true, content: { 'application/octet-stream': {} } } };
  if (!one.body) return {};
  return {
    requestBody: {
      required: !one.bodyOptional,
      content: {
        'application/json': { schema: jsonSchema(one.body, 'input') },
        ...(one.form ? { 'multipart/form-data': { schema: jsonSchema(one.form, 'input') } } : {}),
      },
    },
  };
};

const answerContent = (one: Endpoint): Record<string, unknown> => ({
  ...(one.response ? { 'application/json': { schema: jsonSchema(one.response, 'output') } } : {}),
  ...Object.fromEntries((one.produces ?? []).map((type) => [type, {}])),
});

const parameters = (schema: Schema | undefined, where: 'path' | 'query'): unknown[] => {
  if (!schema) return [];
  const { properties = {}, required = [] } = jsonSchema(schema, 'input') as {
    properties?: Record<string, unknown>;
    required?: string[];
  };
  return Object.entries(properties).map(([name, of]) => ({
    name,
    in: where,
    required: where === 'path' || required.includes(name),
    schema: of,
  }));
};

const jsonSchema = (schema: Schema, io: 'input' | 'output'): Record<string, unknown> => {
  const { $schema: _, ...rest } = z.toJSONSchema(schema, { target: 'draft-2020-12', io, unrepresentable: 'any' });
  return rest;
};
