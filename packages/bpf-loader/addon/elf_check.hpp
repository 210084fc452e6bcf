// Vets an ELF object before libelf and libbpf see it: everything that they index with is in bounds. Pure; bounded by the size of
// its input; used by the addon and by the fuzz harness alike.
#pragma once

#include <cstddef>
#include <cstdint>

#include "result.hpp"

namespace aegis {

constexpr size_t kMaxObjectBytes = 16U * 1024 * 1024;

Status checkElf(const uint8_t* bytes, size_t size);

}  // namespace aegis
