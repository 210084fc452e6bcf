#include "map.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "program.hpp"

namespace aegis {

namespace {

constexpr uint32_t kBatch = 1024;
constexpr uint64_t kMaxBatchBytes = 64U * 1024 * 1024;
// With which reading begins; only a map of long chains needs more at once.
constexpr uint64_t kFirstBatchBytes = 1024U * 1024;

bool isPerCpu(uint32_t type) {
  return type == BPF_MAP_TYPE_PERCPU_HASH || type == BPF_MAP_TYPE_PERCPU_ARRAY || type == BPF_MAP_TYPE_LRU_PERCPU_HASH ||
         type == BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE;
}

// Maps whose elements user space takes by key; others hold sockets, devices' state or a stream.
bool hasElements(const MapInfo& info) {
  switch (info.type) {
    case BPF_MAP_TYPE_RINGBUF:
    case BPF_MAP_TYPE_USER_RINGBUF:
    case BPF_MAP_TYPE_PERF_EVENT_ARRAY:
    case BPF_MAP_TYPE_STRUCT_OPS:
    case BPF_MAP_TYPE_QUEUE:
    case BPF_MAP_TYPE_STACK:
    case BPF_MAP_TYPE_BLOOM_FILTER:
    case BPF_MAP_TYPE_SK_STORAGE:
    case BPF_MAP_TYPE_TASK_STORAGE:
    case BPF_MAP_TYPE_INODE_STORAGE:
      return false;
    default:
      return info.keySize > 0;
  }
}

Failure wrongSize(const char* what, size_t wanted, size_t given) {
  return Failure{.code = "bpf.invalid",
                 .message = std::string("The ") + what + " of this map takes " + std::to_string(wanted) + " bytes and was given " + std::to_string(given) + ".",
                 .error = EINVAL};
}

void* orNull(const Bytes& bytes) { return bytes.empty() ? nullptr : const_cast<uint8_t*>(bytes.data()); }

// How many elements, and what of them is kept.
struct Bound {
  uint32_t limit;
  uint64_t maxBytes;
  uint64_t elementBytes;

  Bound(const MapInfo& info, uint32_t count, uint64_t bytes) : limit(count), maxBytes(bytes), elementBytes(std::max<uint64_t>(1, uint64_t{info.keySize} + info.elementBytes)) {
    if (keeps()) limit = static_cast<uint32_t>(std::min<uint64_t>(limit, maxBytes / elementBytes));
  }
  [[nodiscard]] bool keeps() const { return maxBytes > 0; }
};

// Hash tables answer ENOSPC when the batch is smaller than one bucket; a larger one is tried then.
Result<bool> dumpByBatches(int fd, const MapInfo& info, const Bound& bound, MapDump& dump) {
  const uint32_t limit = bound.limit;
  // The kernel writes a cursor of its own here: at least a u32, or a key.
  Bytes cursor(std::max<size_t>(info.keySize, 8));
  Bytes next(cursor.size());
  bool first = true;
  const uint64_t one = bound.elementBytes;
  auto batch = static_cast<uint32_t>(std::min<uint64_t>({kBatch, limit, kFirstBatchBytes / one}));
  while (dump.count < limit) {
    const uint32_t wanted = std::max(batch, 1U);
    Bytes keys(size_t{wanted} * info.keySize);
    Bytes values(size_t{wanted} * info.elementBytes);
    uint32_t count = wanted;
    LIBBPF_OPTS(bpf_map_batch_opts, options);
    errno = 0;
    const int result = bpf_map_lookup_batch(fd, first ? nullptr : cursor.data(), next.data(), keys.data(), values.data(), &count, &options);
    const int error = result == 0 ? 0 : errno;
    if (error == ENOSPC && uint64_t{wanted} * 4 * one <= kMaxBatchBytes) {
      batch = wanted * 4;
      continue;
    }
    if (error != 0 && error != ENOENT) {
      if (first && (error == EOPNOTSUPP || error == 524 || error == EINVAL || error == ENOSPC)) return false;
      return failureOf(error, "Cannot read the map");
    }
    const uint32_t take = std::min(count, limit - dump.count);
    if (bound.keeps()) {
      dump.keys.insert(dump.keys.end(), keys.begin(), keys.begin() + static_cast<ptrdiff_t>(size_t{take} * info.keySize));
      dump.values.insert(dump.values.end(), values.begin(), values.begin() + static_cast<ptrdiff_t>(size_t{take} * info.elementBytes));
    }
    dump.count += take;
    first = false;
    std::swap(cursor, next);
    if (error == ENOENT) {
      dump.complete = take == count;
      return true;
    }
  }
  return true;
}

Status dumpByKeys(int fd, const MapInfo& info, const Bound& bound, MapDump& dump) {
  Bytes key(info.keySize);
  Bytes next(info.keySize);
  Bytes value(info.elementBytes);
  bool first = true;
  // Deletions meanwhile make the kernel start over: the steps are bounded, not only the elements.
  for (uint64_t steps = uint64_t{info.maxEntries} * 2 + 16; steps > 0; steps--) {
    errno = 0;
    if (bpf_map_get_next_key(fd, first ? nullptr : key.data(), next.data()) != 0) {
      if (errno != ENOENT) return failureOf(errno, "Cannot read the map");
      dump.complete = true;
      return Nothing{};
    }
    if (dump.count == bound.limit) return Nothing{};
    first = false;
    std::swap(key, next);
    if (bpf_map_lookup_elem(fd, key.data(), value.data()) != 0) {
      if (errno == ENOENT) continue;
      return failureOf(errno, "Cannot read the map");
    }
    if (bound.keeps()) {
      dump.keys.insert(dump.keys.end(), key.begin(), key.end());
      dump.values.insert(dump.values.end(), value.begin(), value.end());
    }
    dump.count++;
  }
  return Nothing{};
}

}  // namespace

Result<MapInfo> mapInfo(int fd) {
  bpf_map_info raw{};
  uint32_t size = sizeof raw;
  if (bpf_obj_get_info_by_fd(fd, &raw, &size) != 0) return failureOf(errno, "Cannot read the map");
  const bool perCpu = isPerCpu(raw.type);
  const int cpus = perCpu ? libbpf_num_possible_cpus() : 0;
  if (cpus < 0) return failureOf(-cpus, "Cannot count the CPUs");
  const uint32_t rounded = (raw.value_size + 7) / 8 * 8;
  return MapInfo{.id = raw.id,
                 .name = std::string(raw.name, strnlen(raw.name, sizeof raw.name)),
                 .type = raw.type,
                 .keySize = raw.key_size,
                 .valueSize = raw.value_size,
                 .maxEntries = raw.max_entries,
                 .flags = raw.map_flags,
                 .btfId = raw.btf_id,
                 .btfKeyTypeId = raw.btf_key_type_id,
                 .btfValueTypeId = raw.btf_value_type_id,
                 .elementBytes = perCpu ? rounded * static_cast<uint32_t>(cpus) : raw.value_size,
                 .cpus = static_cast<uint32_t>(cpus)};
}

MapState mapState(int fd) { return {.frozen = descriptorField(fd, "frozen") != 0, .memlockBytes = descriptorField(fd, "memlock")}; }

Result<std::optional<Bytes>> mapLookup(int fd, const MapInfo& info, const Bytes& key, bool remove) {
  Bytes value(info.elementBytes);
  if (info.type == BPF_MAP_TYPE_BLOOM_FILTER) {
    // Here the value is the question.
    if (key.size() != info.elementBytes) return wrongSize("value", info.elementBytes, key.size());
    value = key;
    if (bpf_map_lookup_elem(fd, nullptr, value.data()) == 0) return std::optional<Bytes>(std::move(value));
  } else {
    if (key.size() != info.keySize) return wrongSize("key", info.keySize, key.size());
    const int result = remove ? bpf_map_lookup_and_delete_elem(fd, orNull(key), value.data()) : bpf_map_lookup_elem(fd, orNull(key), value.data());
    if (result == 0) return std::optional<Bytes>(std::move(value));
  }
  if (errno == ENOENT) return std::optional<Bytes>();
  return failureOf(errno, "Cannot read an element of the map");
}

Status mapUpdate(int fd, const MapInfo& info, const Bytes& key, const Bytes& value, uint64_t flags) {
  if (key.size() != info.keySize) return wrongSize("key", info.keySize, key.size());
  if (value.size() != info.elementBytes) return wrongSize("value", info.elementBytes, value.size());
  if (bpf_map_update_elem(fd, orNull(key), value.data(), flags) == 0) return Nothing{};
  const int error = errno;
  if (error == E2BIG) return Failure{.code = "bpf.map_failed", .message = "The map is full, or the key is past its end.", .error = error};
  if (error == EPERM && mapState(fd).frozen) return Failure{.code = "bpf.map_failed", .message = "The map is frozen: nothing can be written.", .error = error};
  if (error == EEXIST) return Failure{.code = "bpf.map_failed", .message = "The map has this key already.", .error = error};
  if (error == ENOENT) return Failure{.code = "bpf.not_found", .message = "The map has no such key.", .error = error};
  return failureOf(error, "Cannot write an element of the map", "bpf.map_failed");
}

Result<bool> mapDelete(int fd, const MapInfo& info, const Bytes& key) {
  if (key.size() != info.keySize) return wrongSize("key", info.keySize, key.size());
  if (bpf_map_delete_elem(fd, orNull(key)) == 0) return true;
  if (errno == ENOENT) return false;
  if (errno == EINVAL) return Failure{.code = "bpf.unsupported", .message = "Elements of this type of map cannot be deleted.", .error = EINVAL};
  return failureOf(errno, "Cannot delete an element of the map", "bpf.map_failed");
}

Result<MapDump> mapDump(int fd, const MapInfo& info, uint32_t limit, uint64_t maxBytes) {
  if (!hasElements(info))
    return Failure{.code = "bpf.unsupported", .message = "Maps of this type have no elements that can be listed.", .error = EOPNOTSUPP};
  MapDump dump;
  const Bound bound(info, limit, maxBytes);
  Result<bool> batched = dumpByBatches(fd, info, bound, dump);
  if (!batched) return batched.failure();
  if (!*batched) {
    if (Status status = dumpByKeys(fd, info, bound, dump); !status) return status.failure();
  }
  return dump;
}

Status mapFreeze(int fd) {
  if (bpf_map_freeze(fd) == 0) return Nothing{};
  return failureOf(errno, "Cannot freeze the map", "bpf.map_failed");
}

}  // namespace aegis
