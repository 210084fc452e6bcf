#include "link.hpp"

#include <bpf/bpf.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

namespace aegis {

namespace {

// struct bpf_link_info of 6.18; only the parts that are read have names.
struct RawLinkInfo {
  uint32_t type;
  uint32_t id;
  uint32_t programId;
  uint32_t padding;
  union {
    struct {
      uint64_t name;
      uint32_t nameLength;
    } rawTracepoint;
    struct {
      uint32_t attachType;
      uint32_t targetObject;
      uint32_t targetBtf;
    } tracing;
    struct {
      uint64_t cgroupId;
      uint32_t attachType;
    } cgroup;
    struct {
      uint32_t inode;
      uint32_t attachType;
    } netns;
    struct {
      uint32_t ifindex;
      uint32_t attachType;
    } device;
    struct {
      uint32_t family;
      uint32_t hook;
      int32_t priority;
      uint32_t flags;
    } netfilter;
    struct {
      uint32_t type;
      uint32_t padding;
      uint64_t name;
      uint32_t nameLength;
      uint32_t offset;
      uint64_t more[4];
    } perf;
    uint64_t room[16];
  };
};

enum LinkType : uint32_t { kRawTracepoint = 1, kTracing, kCgroup, kIter, kNetns, kXdpLink, kPerf, kKprobeMulti, kStructOps, kNetfilterLink, kTcx, kUprobeMulti, kNetkit };
constexpr const char* kKinds[] = {"unspec",       "raw_tracepoint", "tracing",   "cgroup", "iter",         "netns",  "xdp",
                                  "perf_event",   "kprobe_multi",   "struct_ops", "netfilter", "tcx", "uprobe_multi", "netkit", "sockmap"};
enum PerfType : uint32_t { kUprobe = 1, kUretprobe, kKprobe, kKretprobe, kTracepoint, kEvent };
constexpr const char* kPerfKinds[] = {"perf_event", "uprobe", "uretprobe", "kprobe", "kretprobe", "tracepoint", "perf_event"};

void fill(LinkInfo& info, const RawLinkInfo& raw, const char* name) {
  switch (raw.type) {
    case kRawTracepoint:
      info.name = name;
      break;
    case kTracing:
      info.attachType = raw.tracing.attachType;
      break;
    case kCgroup:
      info.cgroupId = raw.cgroup.cgroupId;
      info.attachType = raw.cgroup.attachType;
      break;
    case kNetns:
      info.netnsInode = raw.netns.inode;
      info.attachType = raw.netns.attachType;
      break;
    case kXdpLink:
      info.ifindex = raw.device.ifindex;
      info.attachType = sys::kXdp;
      break;
    case kTcx:
    case kNetkit:
      info.ifindex = raw.device.ifindex;
      info.attachType = raw.device.attachType;
      break;
    case kNetfilterLink:
      info.family = raw.netfilter.family;
      info.hook = raw.netfilter.hook;
      info.priority = raw.netfilter.priority;
      break;
    case kPerf:
      info.kind = raw.perf.type <= kEvent ? kPerfKinds[raw.perf.type] : "perf_event";
      if (raw.perf.type != 0 && raw.perf.type != kEvent) info.name = name;
      if (raw.perf.type >= kUprobe && raw.perf.type <= kKretprobe) info.offset = raw.perf.offset;
      break;
    default:
      break;
  }
}

}  // namespace

Result<LinkInfo> linkInfo(int fd) {
  RawLinkInfo raw{};
  uint32_t size = sizeof raw;
  if (bpf_obj_get_info_by_fd(fd, &raw, &size) != 0) return failureOf(errno, "Cannot read the link");
  char name[512] = {};
  if (raw.type == kRawTracepoint || raw.type == kPerf) {
    // Once more, with room for the name. Which names there are depends on the kind, which only the first call tells.
    const RawLinkInfo first = raw;
    raw = {};
    size = sizeof raw;
    if (first.type == kRawTracepoint) {
      raw.rawTracepoint.name = sys::pointer(name);
      raw.rawTracepoint.nameLength = sizeof name;
    } else {
      raw.perf.type = first.perf.type;
      raw.perf.name = sys::pointer(name);
      raw.perf.nameLength = sizeof name;
    }
    if (bpf_obj_get_info_by_fd(fd, &raw, &size) != 0) raw = first;
  }
  name[sizeof name - 1] = '\0';
  LinkInfo info{.id = raw.id, .kind = raw.type < std::size(kKinds) ? kKinds[raw.type] : "type_" + std::to_string(raw.type), .programId = raw.programId};
  fill(info, raw, name);
  return info;
}

Status pinObject(int fd, const std::string& path) {
  if (bpf_obj_pin(fd, path.c_str()) == 0) return Nothing{};
  const int error = errno;
  if (error == EEXIST)
    return Failure{.code = "bpf.pin_failed", .message = "Something is pinned at " + path + " already: remove it first or take another name.", .error = error}
        .with("pinPath", path);
  if (error == ENOENT)
    return Failure{.code = "bpf.pin_failed", .message = "The folder of " + path + " is not there: make it in a bpf file system first.", .error = error}
        .with("pinPath", path);
  Failure failure = failureOf(error, "Cannot pin at " + path, "bpf.pin_failed");
  failure.code = "bpf.pin_failed";
  return failure.with("pinPath", path);
}

Result<LinkFd> pinnedLink(const std::string& pinPath, const std::function<Result<LinkFd>()>& make) {
  struct stat there{};
  // A pin that cannot succeed must not make a program run even for a moment.
  if (!pinPath.empty() && lstat(pinPath.c_str(), &there) == 0)
    return Failure{.code = "bpf.pin_failed", .message = "Something is pinned at " + pinPath + " already: remove it first or take another name.", .error = EEXIST}
        .with("pinPath", pinPath);
  Result<LinkFd> link = make();
  if (!link || pinPath.empty()) return link;
  if (Status status = pinObject(link->get(), pinPath); !status) return status.failure();
  return link;
}

Result<LinkFd> createLink(sys::LinkCreate& attribute, const std::string& what) {
  LinkFd fd(sys::bpf(sys::kLinkCreate, attribute));
  if (fd.valid()) return fd;
  return failureOf(errno, what, "bpf.attach_refused");
}

namespace {
bool takesOtherPrograms(const std::string& kind) { return kind == "xdp" || kind == "tcx" || kind == "cgroup" || kind == "netns" || kind == "netkit" || kind == "iter"; }
}  // namespace

Status updateLink(int fd, int programFd, int expectedProgramFd) {
  sys::LinkUpdate attribute{};
  attribute.linkFd = static_cast<uint32_t>(fd);
  attribute.newProgramFd = static_cast<uint32_t>(programFd);
  if (expectedProgramFd >= 0) {
    attribute.flags = sys::kReplace;
    attribute.oldProgramFd = static_cast<uint32_t>(expectedProgramFd);
  }
  if (sys::bpf(sys::kLinkUpdate, attribute) == 0) return Nothing{};
  const int error = errno;
  if (error == EPERM && expectedProgramFd >= 0)
    return Failure{.code = "bpf.attach_refused", .message = "The link runs another program than expected: read it again before replacing it.", .error = error};
  if (error == EINVAL) {
    Result<LinkInfo> info = linkInfo(fd);
    if (info && !takesOtherPrograms(info->kind))
      return Failure{.code = "bpf.unsupported",
                     .message = "A link of kind " + info->kind + " takes no other program: attach the new one beside it, then remove this link.",
                     .error = error};
  }
  return failureOf(error, "Cannot put another program into this link", "bpf.attach_refused");
}

Status detachLink(int fd) {
  if (bpf_link_detach(fd) == 0) return Nothing{};
  return failureOf(errno, "Cannot detach this link");
}

}  // namespace aegis
