import { AegisError } from '@aegis/protocol/errors';
import { asUnavailable } from '../storage/failures.ts';
import { TOO_LARGE } from './json-body.ts';

/** Every error as one that may be shown. What we did not foresee becomes http.internal, its cause for the log alone. */
export const asShown = (error: unknown): AegisError => {
  const known = asUnavailable(error);
  if (known instanceof AegisError) return known;
  const code = codeOf(error);
  const sentence = FRAMEWORK[code];
  if (sentence) return new AegisError(...sentence, { cause: error });
  const status = statusOf(error);
  if (status >= 400 && status < 500)
    return new AegisError('http.malformed', 'The request cannot be read. Check its path, headers and body.', {
      cause: error,
    });
  return new AegisError(
    'http.internal',
    "Something went wrong on the server. Its log tells more under this answer's request_id.",
    { cause: error },
  );
};

type Shown = readonly [ConstructorParameters<typeof AegisError>[0], string];
const FRAMEWORK: Readonly<Record<string, Shown>> = {
  FST_ERR_CTP_BODY_TOO_LARGE: ['http.too_large', TOO_LARGE],
  FST_ERR_CTP_INVALID_MEDIA_TYPE: ['http.unsupported_media_type', 'Send the body as application/json.'],
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: ['http.malformed', 'The body does not have the length that Content-Length says.'],
  FST_ERR_BAD_URL: ['http.malformed', 'The path is not a valid URL path.'],
};

const codeOf = (error: unknown): string =>
  typeof error === 'object' && error !== null && 'code' in error && typeof error.code === 'string' ? error.code : '';
const statusOf = (error: unknown): number =>
  typeof error === 'object' && error !== null && 'statusCode' in error && typeof error.statusCode === 'number'
    ? error.statusCode
    : 500;
