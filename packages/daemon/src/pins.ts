/** The pins of this node as they lie in bpffs, for `aegis daemon attachments|maps|events`: where they are, what the records beside them say,
 *  and what the journal knows. Reads only. */
export { describePoint, parseRecord } from './artifacts/kernel/attachment.ts';
export { artifactKey, isKey, key16, layout, pinName } from './artifacts/kernel/layout.ts';
export { isThere, listFolder, readRecord, readText } from './artifacts/kernel/pin-folders.ts';
export { readIdentity } from './nodes/identity.ts';
