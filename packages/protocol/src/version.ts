/** The product version and the one integer by which both sides tell what the other understands. */
export const VERSION = '0.1.0';

/** Wire protocol version. History: 1 (0.1.0) enrolment, directives, long poll, output by offset, signed reports. */
export const PROTOCOL_VERSION = 1;
