// What the kernel holds: ids of programs, maps and links, and who is attached where.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "attach.hpp"
#include "descriptor.hpp"
#include "result.hpp"

namespace aegis {

enum class IdKind { program, map, link, btf };
Result<std::vector<uint32_t>> allIds(IdKind kind);

struct XdpState {
  uint32_t ifindex;
  // 0 none, 1 native, 2 generic, 3 offload, 4 several at once
  uint32_t mode;
  uint32_t native;
  uint32_t generic;
  uint32_t offload;
};
Result<XdpState> queryXdp(const std::string& interface, const std::string& netns);

struct HookState {
  std::vector<uint32_t> programs;
  // Of tcx; 0 where a program is attached without a link.
  std::vector<uint32_t> links;
  std::optional<uint64_t> revision;
};
Result<HookState> queryTcx(const std::string& interface, uint32_t attachType, const std::string& netns);
// `effective`: with those of the parents, in the order in which they run.
Result<HookState> queryCgroup(const std::string& cgroup, uint32_t attachType, bool effective);
Result<HookState> queryNetns(const std::string& netns, uint32_t attachType);

// Counts runs and run time of all programs while the descriptor is open.
Result<Descriptor> enableStats();
// The raw BTF of the kernel's BTF object `id`.
Result<std::vector<uint8_t>> btfBytes(uint32_t id);
Result<unsigned int> interfaceIndexIn(const std::string& interface, const std::string& netns);

}  // namespace aegis
