#include "network.hpp"

#include <fcntl.h>
#include <net/if.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include "descriptor.hpp"
#include "netns.hpp"

namespace aegis {

namespace {

// Default routes come first; a router's whole table is not read.
constexpr size_t kRouteBytes = 256U * 1024;

struct FreeNames {
  void operator()(struct if_nameindex* names) const { if_freenameindex(names); }
};

// Empty where the file is missing (a kernel without IPv6).
std::string beginningOf(const char* path) {
  const Descriptor fd(open(path, O_RDONLY | O_CLOEXEC));
  std::string text;
  char block[16384];
  while (fd.valid() && text.size() < kRouteBytes) {
    const ssize_t got = read(fd.get(), block, sizeof block);
    if (got <= 0) break;
    text.append(block, static_cast<size_t>(got));
  }
  return text;
}

Result<NamespaceFacts> factsHere(bool withRoutes) {
  NamespaceFacts facts;
  // Of this thread: the process's main thread may be in another namespace.
  struct stat here{};
  if (stat("/proc/thread-self/ns/net", &here) != 0) return failureOf(errno, "Cannot read this thread's network namespace: mount /proc");
  facts.inode = here.st_ino;
  const std::unique_ptr<struct if_nameindex, FreeNames> names(if_nameindex());
  if (!names) return failureOf(errno, "Cannot list the interfaces");
  for (const struct if_nameindex* one = names.get(); one->if_index != 0; one++) facts.interfaces.emplace_back(one->if_name, one->if_index);
  if (withRoutes) {
    facts.routes = beginningOf("/proc/thread-self/net/route");
    facts.routes6 = beginningOf("/proc/thread-self/net/ipv6_route");
  }
  return facts;
}

}  // namespace

Result<NamespaceFacts> namespaceFacts(const std::string& netns, bool withRoutes) {
  return inNetns(netns, [&] { return factsHere(withRoutes); });
}

}  // namespace aegis
