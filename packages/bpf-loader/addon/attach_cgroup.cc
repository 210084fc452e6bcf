// Every hook of a cgroup (v2), by link: many programs to a hook, each gone with its link.
#include <fcntl.h>
#include <sys/vfs.h>

#include <cerrno>

#include "attach.hpp"

namespace aegis {

namespace {
constexpr long kCgroup2Magic = 0x63677270;
}

Result<LinkFd> attachCgroup(int program, const std::string& cgroup, uint32_t attachType, const std::string& pinPath) {
  return pinnedLink(pinPath, [&]() -> Result<LinkFd> {
    const Descriptor folder(open(cgroup.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!folder.valid()) {
      const int error = errno;
      if (error == ENOENT || error == ENOTDIR)
        return Failure{.code = "bpf.no_such_target", .message = "There is no cgroup " + cgroup + ".", .error = error}.with("cgroup", cgroup);
      return failureOf(error, "Cannot open cgroup " + cgroup, "bpf.no_such_target");
    }
    struct statfs where{};
    if (fstatfs(folder.get(), &where) != 0 || where.f_type != kCgroup2Magic)
      return Failure{.code = "bpf.no_such_target", .message = cgroup + " is not in a cgroup v2 file system.", .error = EINVAL}.with("cgroup", cgroup);
    sys::LinkCreate attribute{};
    attribute.programFd = static_cast<uint32_t>(program);
    attribute.target = static_cast<uint32_t>(folder.get());
    attribute.attachType = attachType;
    Result<LinkFd> link = createLink(attribute, "The kernel did not attach the program to cgroup " + cgroup);
    // EPERM here is not about rights: a parent holds a program that was attached without leave for more.
    if (!link && link.failure().error == EPERM)
      return Failure{.code = "bpf.attach_refused",
                     .message = "A program of a parent of cgroup " + cgroup + " is attached exclusively, or this process lacks CAP_NET_ADMIN.",
                     .error = EPERM};
    if (!link && link.failure().error == E2BIG)
      return Failure{.code = "bpf.hook_busy", .message = "This hook of cgroup " + cgroup + " is full (64 programs): detach one first.", .error = E2BIG};
    return link;
  });
}

}  // namespace aegis
