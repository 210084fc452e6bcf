// Maps: what they are, and their elements as bytes. The value of a per-CPU map is one value for each possible CPU, each rounded up
// to 8 bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "descriptor.hpp"
#include "result.hpp"

namespace aegis {

struct MapInfo {
  uint32_t id;
  std::string name;
  uint32_t type;
  uint32_t keySize;
  uint32_t valueSize;
  uint32_t maxEntries;
  uint32_t flags;
  uint32_t btfId;
  uint32_t btfKeyTypeId;
  uint32_t btfValueTypeId;
  // Bytes of a value as read and written here; for a per-CPU map of all CPUs.
  uint32_t elementBytes;
  uint32_t cpus;  // 0 when not per CPU
};
// One system call, so that every element can be checked against it.
Result<MapInfo> mapInfo(int fd);

struct MapState {
  bool frozen;
  uint64_t memlockBytes;
};
// From /proc, which costs more.
MapState mapState(int fd);

using Bytes = std::vector<uint8_t>;

// Sizes must be the map's own; nothing is read or written past them. An empty key stands for none (queue, stack, bloom filter).
Result<std::optional<Bytes>> mapLookup(int fd, const MapInfo& info, const Bytes& key, bool remove);
Status mapUpdate(int fd, const MapInfo& info, const Bytes& key, const Bytes& value, uint64_t flags);
// False when there was none.
Result<bool> mapDelete(int fd, const MapInfo& info, const Bytes& key);

struct MapDump {
  uint32_t count = 0;
  bool complete = false;
  Bytes keys;
  Bytes values;
};
// At most `limit` elements, and no more of their bytes than `maxBytes` (0: counts only, whatever their size). A map that changes meanwhile may give an element twice or not at all, as the kernel's iteration does.
Result<MapDump> mapDump(int fd, const MapInfo& info, uint32_t limit, uint64_t maxBytes);
Status mapFreeze(int fd);

}  // namespace aegis
