// bpf_links: made, pinned, updated, and what the kernel says of them.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "descriptor.hpp"
#include "result.hpp"
#include "syscall.hpp"

namespace aegis {

struct LinkInfo {
  uint32_t id = 0;
  std::string kind;
  uint32_t programId = 0;
  std::optional<uint32_t> ifindex{};
  std::optional<uint32_t> attachType{};
  std::optional<uint64_t> cgroupId{};
  std::optional<uint32_t> netnsInode{};
  std::optional<std::string> name{};
  std::optional<uint32_t> family{};
  std::optional<uint32_t> hook{};
  std::optional<int32_t> priority{};
  std::optional<uint64_t> offset{};
};

Result<LinkInfo> linkInfo(int fd);

// `make` makes the link; then it is pinned, and only a pinned link is given out. A pin that fails takes the link with it.
Result<LinkFd> pinnedLink(const std::string& pinPath, const std::function<Result<LinkFd>()>& make);

// One BPF_LINK_CREATE. `what` begins the message of a failure.
Result<LinkFd> createLink(sys::LinkCreate& attribute, const std::string& what);

Status updateLink(int fd, int programFd, int expectedProgramFd);
Status detachLink(int fd);
Status pinObject(int fd, const std::string& path);

}  // namespace aegis
