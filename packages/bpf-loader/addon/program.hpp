// Programs and what the kernel says of them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "descriptor.hpp"
#include "result.hpp"

namespace aegis {

struct ProgramInfo {
  uint32_t id;
  std::string name;
  uint32_t type;
  std::string tag;
  std::vector<uint32_t> mapIds;
  uint32_t btfId;
  double loadedAt;  // Unix time in milliseconds
  uint64_t runCount;
  uint64_t runTimeNs;
  uint32_t instructions;
  uint32_t jitedBytes;
  uint32_t verifiedInstructions;
  uint64_t memlockBytes;
};
Result<ProgramInfo> programInfo(int fd);

struct TestRun {
  std::vector<uint8_t> data;
  std::vector<uint8_t> context;
  uint32_t repeat;
};
struct TestOutcome {
  uint32_t returned;
  uint32_t durationNs;
  std::vector<uint8_t> data;
  std::vector<uint8_t> context;
};
Result<TestOutcome> testRun(int fd, const TestRun& run);

// A number of /proc/self/fdinfo/<fd>.
uint64_t descriptorField(int fd, const char* name);

}  // namespace aegis
