#pragma once

#include <bpf/libbpf.h>

#include <cstdint>
#include <string>
#include <vector>

namespace aegis {

struct Global {
  std::string name;
  std::string section;
  uint32_t offset;
  uint32_t size;
  uint32_t typeId;
};

// The variables of .rodata*, .data* and .bss* of an opened object; empty without BTF.
std::vector<Global> globalsOf(const bpf_object* object);

}  // namespace aegis
