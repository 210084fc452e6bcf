// bpf(2) for what libbpf 1.1 has no call for: attributes with the layout of linux/bpf.h up to 6.18. The kernel takes a longer
// attribute than it knows as long as the rest is zero, so each struct is cleared first and filled only where asked.
#pragma once

#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace aegis::sys {

enum Command : int {
  kProgQuery = 16,
  kRawTracepointOpen = 17,
  kLinkCreate = 28,
  kLinkUpdate = 29,
};

// Attach types by number: the installed header may be older than the kernel.
enum AttachType : uint32_t {
  kFlowDissector = 17,
  kTraceRawTp = 23,
  kTraceFentry = 24,
  kTraceFexit = 25,
  kLsmMac = 27,
  kSkLookup = 36,
  kXdp = 37,
  kPerfEvent = 41,
  kNetfilter = 45,
  kTcxIngress = 46,
  kTcxEgress = 47,
};

constexpr uint32_t kReplace = 1U << 2;
constexpr uint32_t kBefore = 1U << 3;
constexpr uint32_t kAfter = 1U << 4;
constexpr uint32_t kById = 1U << 5;

struct LinkCreate {
  uint32_t programFd;
  uint32_t target;  // descriptor or interface index
  uint32_t attachType;
  uint32_t flags;
  union {
    struct {
      uint32_t protocolFamily;
      uint32_t hook;
      int32_t priority;
      uint32_t flags;
    } netfilter;
    struct {
      uint32_t relative;
      uint32_t padding;
      uint64_t expectedRevision;
    } tcx;
    uint64_t cookie;
    uint64_t room[6];
  };
};

struct LinkUpdate {
  uint32_t linkFd;
  uint32_t newProgramFd;
  uint32_t flags;
  uint32_t oldProgramFd;
};

struct RawTracepointOpen {
  uint64_t name;
  uint32_t programFd;
  uint32_t padding;
  uint64_t cookie;
};

struct ProgQuery {
  uint32_t target;
  uint32_t attachType;
  uint32_t queryFlags;
  uint32_t attachFlags;
  uint64_t programIds;
  uint32_t count;
  uint32_t padding;
  uint64_t programAttachFlags;
  uint64_t linkIds;
  uint64_t linkAttachFlags;
  uint64_t revision;
};

template <class Attribute>
int bpf(Command command, Attribute& attribute) {
  return static_cast<int>(syscall(SYS_bpf, command, &attribute, sizeof attribute));
}

inline uint64_t pointer(const void* address) { return reinterpret_cast<uintptr_t>(address); }

}  // namespace aegis::sys
