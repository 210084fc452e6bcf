import { AegisError } from '@aegis/protocol/errors';

/** `multipart/form-data` (RFC 7578) of a body that is there as a whole and bounded: strict where lenient readers differ. A part
 *  with a file name is bytes, one without is text. The bytes are not copied. */

const MAX_PARTS = 32;
const MAX_HEADER_BYTES = 1024;
const MAX_TEXT_BYTES = 64 * 1024;
const CRLF = '\r\n';

/** The boundary of a `multipart/form-data` content type; undefined for any other type.
 *  @throws AegisError http.malformed when it has none */
export const boundaryOf = (contentType: string | undefined): string | undefined => {
  const type = /^\s*multipart\/form-data\s*(;.*)?$/is.exec(contentType ?? '');
  if (!type) return undefined;
  const [, quoted, plain] =
    /(?:^|;)\s*boundary=(?:"([^"\\]{1,70})"|([A-Za-z0-9'()+_,./:=?-]{1,70}))\s*(?:;|$)/i.exec(type[1] ?? '') ?? [];
  const boundary = quoted ?? plain;
  if (boundary === undefined) throw malformed('its Content-Type names no boundary');
  return boundary;
};

/** @throws AegisError http.malformed */
export const parseMultipart = (body: Buffer, boundary: string): Record<string, string | Buffer> => {
  const delimiter = Buffer.from(`${CRLF}--${boundary}`, 'latin1');
  const parts: Record<string, string | Buffer> = Object.create(null);
  if (!body.subarray(0, delimiter.length - 2).equals(delimiter.subarray(2)))
    throw malformed('it does not begin with its boundary');
  let at = delimiter.length - 2;
  for (let count = 0; ; count++) {
    const after = body.toString('latin1', at, at + 2);
    if (after === '--') break;
    if (after !== CRLF) throw malformed('a boundary is not followed by a line end');
    if (count >= MAX_PARTS) throw malformed(`it has more than ${MAX_PARTS} parts`);
    at += 2;
    const headerEnd = body.subarray(at, at + MAX_HEADER_BYTES).indexOf(CRLF + CRLF);
    if (headerEnd < 0) throw malformed("a part's headers do not end");
    const { name, isFile } = partOf(body.toString('utf8', at, at + headerEnd));
    const from = at + headerEnd + 4;
    const end = body.indexOf(delimiter, from);
    if (end < 0) throw malformed('it breaks off');
    const bytes = body.subarray(from, end);
    if (name in parts) throw malformed(`it has the part '${name}' twice`);
    parts[name] = isFile ? bytes : textOf(name, bytes);
    at = end + delimiter.length;
  }
  const rest = body.subarray(at + 2);
  if (rest.length > 0 && rest.toString('latin1') !== CRLF) throw malformed('something follows its end');
  return { ...parts };
};

const partOf = (headers: string): { name: string; isFile: boolean } => {
  let disposition: { name: string; isFile: boolean } | undefined;
  for (const line of headers.split(CRLF)) {
    const [, header = '', value = ''] = /^([A-Za-z-]+):[ \t]*(.*)$/.exec(line) ?? [];
    switch (header.toLowerCase()) {
      case 'content-disposition': {
        const [, name, file] =
          /^form-data; name="([A-Za-z0-9_-]{1,64})"(; filename="(?:[^"\\]|\\.)*")?$/i.exec(value) ?? [];
        if (name === undefined || disposition) throw malformed('a part does not say its name in form-data');
        disposition = { name, isFile: file !== undefined };
        break;
      }
      case 'content-type':
        break;
      default:
        throw malformed(`a part has the header '${header.slice(0, 40)}', which is none of a form's`);
    }
  }
  if (!disposition) throw malformed('a part does not say its name in form-data');
  return disposition;
};

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const textOf = (name: string, bytes: Buffer): string => {
  if (bytes.length > MAX_TEXT_BYTES) throw malformed(`the part '${name}' is longer than text may be`);
  try {
    return utf8.decode(bytes);
  } catch (cause) {
    throw malformed(`the part '${name}' is not UTF-8`, cause);
  }
};

const malformed = (why: string, cause?: unknown): AegisError =>
  new AegisError('http.malformed', `The form is malformed: ${why}.`, { cause });
