#include "kernel.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>

#include <algorithm>
#include <cerrno>

#include "netns.hpp"
#include "print_capture.hpp"

namespace aegis {

namespace {

constexpr uint32_t kMaxAttached = 1024;
constexpr size_t kMaxBtfBytes = 64U * 1024 * 1024;

int nextId(IdKind kind, uint32_t id, uint32_t* next) {
  switch (kind) {
    case IdKind::program:
      return bpf_prog_get_next_id(id, next);
    case IdKind::map:
      return bpf_map_get_next_id(id, next);
    case IdKind::link:
      return bpf_link_get_next_id(id, next);
    case IdKind::btf:
      return bpf_btf_get_next_id(id, next);
  }
  return -1;
}

// With `links`: asks for the links too, which only tcx answers.
Result<HookState> queryHook(uint32_t target, uint32_t attachType, uint32_t flags, bool links, const std::string& what) {
  HookState state;
  state.programs.resize(kMaxAttached);
  if (links) state.links.resize(kMaxAttached);
  sys::ProgQuery attribute{};
  attribute.target = target;
  attribute.attachType = attachType;
  attribute.queryFlags = flags;
  attribute.programIds = sys::pointer(state.programs.data());
  attribute.count = kMaxAttached;
  if (links) attribute.linkIds = sys::pointer(state.links.data());
  if (sys::bpf(sys::kProgQuery, attribute) != 0) {
    const int error = errno;
    if (error == EINVAL) return Failure{.code = "bpf.unsupported", .message = "This kernel does not tell who is attached to " + what + ".", .error = error};
    return failureOf(error, "Cannot read who is attached to " + what);
  }
  state.programs.resize(std::min(attribute.count, kMaxAttached));
  if (links) {
    state.links.resize(state.programs.size());
    state.revision = attribute.revision;
  }
  return state;
}

}  // namespace

Result<std::vector<uint32_t>> allIds(IdKind kind) {
  std::vector<uint32_t> ids;
  uint32_t id = 0;
  while (nextId(kind, id, &id) == 0) ids.push_back(id);
  if (errno != ENOENT) return failureOf(errno, "Cannot list what the kernel holds");
  return ids;
}

Result<XdpState> queryXdp(const std::string& interface, const std::string& netns) {
  return inNetns(netns, [&]() -> Result<XdpState> {
    Result<unsigned int> index = interfaceIndex(interface);
    if (!index) return index.failure();
    const PrintCapture printed;
    LIBBPF_OPTS(bpf_xdp_query_opts, found);
    if (const int error = bpf_xdp_query(static_cast<int>(*index), 0, &found); error != 0)
      return failureOf(-error, "Cannot read XDP of " + interface);
    XdpState state{.ifindex = *index, .mode = found.attach_mode, .native = found.drv_prog_id, .generic = found.skb_prog_id, .offload = found.hw_prog_id};
    return state;
  });
}

Result<HookState> queryTcx(const std::string& interface, uint32_t attachType, const std::string& netns) {
  return inNetns(netns, [&]() -> Result<HookState> {
    Result<unsigned int> index = interfaceIndex(interface);
    if (!index) return index.failure();
    Result<HookState> state = queryHook(*index, attachType, 0, true, "tcx of " + interface);
    // Nothing attached so far is ENOENT on some kernels, an empty list on others.
    if (!state && state.failure().error == ENOENT) return HookState{.programs = {}, .links = {}, .revision = 1};
    return state;
  });
}

Result<HookState> queryCgroup(const std::string& cgroup, uint32_t attachType, bool effective) {
  const Descriptor folder(open(cgroup.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.valid())
    return Failure{.code = "bpf.no_such_target", .message = "Cannot open cgroup " + cgroup + ": " + errnoText(errno) + ".", .error = errno};
  return queryHook(static_cast<uint32_t>(folder.get()), attachType, effective ? BPF_F_QUERY_EFFECTIVE : 0, false, "cgroup " + cgroup);
}

Result<HookState> queryNetns(const std::string& netns, uint32_t attachType) {
  const std::string path = netns.empty() ? "/proc/self/ns/net" : netns;
  const Descriptor fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid())
    return Failure{.code = "bpf.no_such_target", .message = "Cannot open network namespace " + path + ": " + errnoText(errno) + ".", .error = errno};
  return queryHook(static_cast<uint32_t>(fd.get()), attachType, 0, false, "network namespace " + path);
}

Result<Descriptor> enableStats() {
  Descriptor fd(bpf_enable_stats(BPF_STATS_RUN_TIME));
  if (fd.valid()) return fd;
  const int error = errno;
  if (error == EINVAL)
    return Failure{.code = "bpf.unsupported", .message = "This kernel counts runs only by sysctl kernel.bpf_stats_enabled (by descriptor since Linux 5.8).", .error = error};
  return failureOf(error, "Cannot turn on the statistics of eBPF programs");
}

Result<std::vector<uint8_t>> btfBytes(uint32_t id) {
  const Descriptor fd(bpf_btf_get_fd_by_id(id));
  if (!fd.valid()) {
    if (errno == ENOENT) return Failure{.code = "bpf.not_found", .message = "The kernel has no BTF " + std::to_string(id) + ".", .error = ENOENT};
    return failureOf(errno, "Cannot open BTF " + std::to_string(id));
  }
  bpf_btf_info info{};
  uint32_t size = sizeof info;
  if (bpf_obj_get_info_by_fd(fd.get(), &info, &size) != 0) return failureOf(errno, "Cannot read BTF " + std::to_string(id));
  if (info.btf_size > kMaxBtfBytes) return Failure{.code = "bpf.failed", .message = "BTF " + std::to_string(id) + " is too large.", .error = E2BIG};
  std::vector<uint8_t> bytes(info.btf_size);
  info = {};
  info.btf = sys::pointer(bytes.data());
  info.btf_size = static_cast<uint32_t>(bytes.size());
  size = sizeof info;
  if (bpf_obj_get_info_by_fd(fd.get(), &info, &size) != 0) return failureOf(errno, "Cannot read BTF " + std::to_string(id));
  return bytes;
}

Result<unsigned int> interfaceIndexIn(const std::string& interface, const std::string& netns) {
  return inNetns(netns, [&] { return interfaceIndex(interface); });
}

}  // namespace aegis
