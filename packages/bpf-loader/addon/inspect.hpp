// What an object says of itself, without loading anything.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "result.hpp"

namespace aegis {

struct ProgramReport {
  std::string name;
  std::string section;
  uint32_t type;
  uint32_t expectedAttachType;
  uint32_t instructions;
};
struct MapReport {
  std::string name;
  uint32_t type;
  uint32_t keySize;
  uint32_t valueSize;
  uint32_t maxEntries;
  uint32_t flags;
  bool internal;
  bool pinByName;
};
struct GlobalReport {
  std::string name;
  std::string section;
  uint32_t offset;
  uint32_t size;
  uint32_t typeId;
  std::string typeName;
  std::vector<uint8_t> initial;
};
struct ExternReport {
  std::string name;
  bool function;
  std::string section;  // .ksyms or .kconfig
};
struct ObjectReport {
  std::vector<ProgramReport> programs;
  std::vector<MapReport> maps;
  std::vector<GlobalReport> globals;
  std::vector<ExternReport> externs;
  std::string license;
  bool hasBtf = false;
  bool hasBtfExt = false;
  uint32_t coreRelocations = 0;
  std::vector<uint8_t> btf;
};

Result<ObjectReport> inspectObject(const std::vector<uint8_t>& bytes);

}  // namespace aegis
