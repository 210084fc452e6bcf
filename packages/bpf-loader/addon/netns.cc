#include "netns.hpp"

#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <sys/statfs.h>

#include <cerrno>

#include "descriptor.hpp"

namespace aegis {

Result<int> enterNetns(const std::string& path) {
  const Descriptor fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) {
    const int error = errno;
    if (error == ENOENT)
      return Failure{.code = "bpf.no_such_target", .message = "There is no network namespace " + path + ".", .error = error}.with("netns", path);
    return failureOf(error, "Cannot open network namespace " + path, "bpf.no_such_target");
  }
  if (setns(fd.get(), CLONE_NEWNET) != 0) {
    const int error = errno;
    if (error == EINVAL)
      return Failure{.code = "bpf.no_such_target", .message = path + " is not a network namespace.", .error = error}.with("netns", path);
    return failureOf(error, "Cannot enter network namespace " + path);
  }
  return 0;
}

Result<unsigned int> interfaceIndex(const std::string& name) {
  const unsigned int index = if_nametoindex(name.c_str());
  if (index != 0) return index;
  return Failure{.code = "bpf.no_such_target", .message = "There is no interface " + name + ".", .error = errno == 0 ? ENODEV : errno}.with("interface", name);
}

}  // namespace aegis
