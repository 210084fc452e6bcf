// What a network namespace holds: its interfaces, and its default routes as /proc tells them.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "result.hpp"

namespace aegis {

struct NamespaceFacts {
  // Of the namespace itself, as LinkInfo.netnsInode has it.
  uint64_t inode = 0;
  std::vector<std::pair<std::string, uint32_t>> interfaces;
  // The beginnings of /proc/net/route and /proc/net/ipv6_route, where default routes stand.
  std::string routes;
  std::string routes6;
};

// An empty path is the process's own namespace. `withRoutes`: reads the routes too.
Result<NamespaceFacts> namespaceFacts(const std::string& netns, bool withRoutes);

}  // namespace aegis
