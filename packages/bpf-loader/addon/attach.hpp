// Attaching, one function for each mechanism of the kernel. All but the socket give a link, pinned before it is given out. They may
// wait: call them off the main thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "descriptor.hpp"
#include "link.hpp"
#include "result.hpp"

namespace aegis {

struct XdpTarget {
  std::string interface;
  uint32_t flags;  // XDP_FLAGS_*_MODE
  std::string netns;
};
Result<LinkFd> attachXdp(int program, const XdpTarget& target, const std::string& pinPath);

struct TcxTarget {
  std::string interface;
  uint32_t attachType;
  uint32_t flags;  // BPF_F_BEFORE, BPF_F_AFTER, BPF_F_ID
  uint32_t relative;
  std::string netns;
};
Result<LinkFd> attachTcx(int program, const TcxTarget& target, const std::string& pinPath);

struct NetfilterTarget {
  uint32_t family;
  uint32_t hook;
  int32_t priority;
  std::string netns;
};
Result<LinkFd> attachNetfilter(int program, const NetfilterTarget& target, const std::string& pinPath);

// sk_lookup and flow_dissector; an empty path is the process's own namespace.
Result<LinkFd> attachNetns(int program, const std::string& netns, uint32_t attachType, const std::string& pinPath);
Result<LinkFd> attachCgroup(int program, const std::string& cgroup, uint32_t attachType, const std::string& pinPath);
// fentry, fexit, lsm: the target was bound at load.
Result<LinkFd> attachTracing(int program, uint32_t attachType, const std::string& pinPath);
// An empty name for programs whose tracepoint was bound at load (tp_btf).
Result<LinkFd> attachRawTracepoint(int program, const std::string& name, const std::string& pinPath);

struct PerfTarget {
  uint32_t type;
  uint64_t config;
  std::string text;  // kprobe: function, uprobe: binary
  uint64_t offset;
  uint64_t period;
  uint64_t frequency;
  int pid;
  int cpu;
};
Result<LinkFd> attachPerf(int program, const PerfTarget& target, const std::string& pinPath);
// File offset of a function in an ELF file, for a uprobe.
Result<uint64_t> symbolOffset(const std::string& binary, const std::string& symbol);

struct SocketTarget {
  std::string interface;
  std::string netns;
};
Result<Descriptor> attachSocket(int program, const SocketTarget& target);

struct TcTarget {
  std::string interface;
  bool egress;
  uint32_t priority;
  uint32_t handle;
  std::string netns;
};
struct TcFilter {
  uint32_t programId;
  bool madeQdisc;
};
// `replace`: the program id that stands there and may be replaced; 0: nothing may stand there.
Result<TcFilter> attachTc(int program, const TcTarget& target, uint32_t replace);
// 0 when no filter of eBPF stands there.
Result<uint32_t> queryTc(const TcTarget& target);
// Only when `expected` stands there. With `removeQdisc` also the clsact qdisc, unless it holds others' filters; true when removed.
Result<bool> detachTc(const TcTarget& target, uint32_t expected, bool removeQdisc);

}  // namespace aegis
