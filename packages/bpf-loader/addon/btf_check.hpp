// Vets .BTF and .BTF.ext: each record, name and type id in bounds, no type that holds itself by value or by a chain of modifiers
// (libbpf follows such chains without counting).
#pragma once

#include <cstddef>
#include <cstdint>

#include "result.hpp"

namespace aegis {

struct BtfBounds {
  uint32_t typeCount = 1;  // ids run from 0 (void) to typeCount - 1
  uint32_t textSize = 0;
};

Status checkBtf(const uint8_t* bytes, size_t size, BtfBounds& bounds);
Status checkBtfExt(const uint8_t* bytes, size_t size, const BtfBounds& bounds);

}  // namespace aegis
