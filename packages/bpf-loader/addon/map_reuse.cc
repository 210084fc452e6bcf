// Maps that outlive their object: a pin that is there is taken again when it is what the object wants, and refused by name of the
// difference when it is not.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <unistd.h>

#include <cerrno>

#include "load_failure.hpp"
#include "object.hpp"

namespace aegis {

namespace {

uint32_t ringSize(uint32_t wanted) {
  const auto page = static_cast<uint32_t>(sysconf(_SC_PAGESIZE));
  uint32_t size = page;
  while (size < wanted && size < (1U << 31)) size <<= 1;
  return size;
}

void compare(std::vector<std::string>& differs, const char* what, uint32_t wanted, uint32_t found) {
  if (wanted != found) differs.push_back(std::string(what) + ": wanted " + std::to_string(wanted) + ", found " + std::to_string(found));
}

std::vector<std::string> differences(const bpf_map* map, const bpf_map_info& info) {
  std::vector<std::string> differs;
  const bpf_map_type type = bpf_map__type(map);
  const auto named = [](bpf_map_type one) {
    const char* name = libbpf_bpf_map_type_str(one);
    return std::string(name ? name : std::to_string(one).c_str());
  };
  if (type != info.type) differs.push_back("type: wanted " + named(type) + ", found " + named(static_cast<bpf_map_type>(info.type)));
  compare(differs, "key_size", bpf_map__key_size(map), info.key_size);
  compare(differs, "value_size", bpf_map__value_size(map), info.value_size);
  uint32_t entries = bpf_map__max_entries(map);
  if (type == BPF_MAP_TYPE_RINGBUF || type == BPF_MAP_TYPE_USER_RINGBUF) entries = ringSize(entries);
  // Zero stands for "as many as there are CPUs".
  if (!(type == BPF_MAP_TYPE_PERF_EVENT_ARRAY && entries == 0)) compare(differs, "max_entries", entries, info.max_entries);
  compare(differs, "map_flags", bpf_map__map_flags(map), info.map_flags);
  return differs;
}

}  // namespace

Status reusePinnedMaps(bpf_object* object, const std::vector<MapRequest>& maps, std::vector<std::string>& reused) {
  for (const MapRequest& wanted : maps) {
    if (wanted.pinPath.empty()) continue;
    bpf_map* map = findMap(object, wanted.name);
    if (!map) return unknownMap(object, wanted.name);
    const MapFd fd(bpf_obj_get(wanted.pinPath.c_str()));
    if (!fd.valid()) {
      if (errno == ENOENT) continue;
      return failureOf(errno, "Cannot open the pinned map " + wanted.pinPath, "bpf.map_mismatch").with("map", wanted.name);
    }
    bpf_map_info info{};
    uint32_t size = sizeof info;
    if (bpf_obj_get_info_by_fd(fd.get(), &info, &size) != 0)
      return Failure{.code = "bpf.map_mismatch", .message = wanted.pinPath + " is not a map.", .error = errno}.with("map", wanted.name);
    const std::vector<std::string> differs = differences(map, info);
    if (!differs.empty()) {
      std::string list;
      for (const std::string& one : differs) list += (list.empty() ? "" : "; ") + one;
      return Failure{.code = "bpf.map_mismatch",
                     .message = "The map kept at " + wanted.pinPath + " is not of the shape that map " + wanted.name + " wants (" + list + ").",
                     .error = EEXIST}
          .with("map", wanted.name)
          .with("pinPath", wanted.pinPath)
          .with("differs", differs);
    }
    if (const int error = bpf_map__reuse_fd(map, fd.get()); error != 0)
      return failureOf(-error, "Cannot reuse the pinned map " + wanted.pinPath, "bpf.map_failed").with("map", wanted.name);
    reused.push_back(wanted.name);
  }
  return Nothing{};
}

}  // namespace aegis
