/* sha256.c, for aegis-exec and for the addon. */
#ifndef AEGIS_SHA256_H
#define AEGIS_SHA256_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct sha256 {
  uint32_t state[8];
  uint64_t bytes;
  uint8_t block[64];
};
void sha256_init(struct sha256 *hash);
void sha256_update(struct sha256 *hash, const uint8_t *data, size_t size);
bool sha256_paths_agree(void);
void sha256_hex(const struct sha256 *hash, char hex[65]); /* leaves the hash usable */

#ifdef __cplusplus
}
#endif

#endif
