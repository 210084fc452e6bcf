#include "result.hpp"

#include <cerrno>
#include <cstring>

namespace aegis {

namespace {
constexpr int kNotSupportedInKernel = 524;  // ENOTSUPP leaks out of the kernel although user space has no name for it
}

std::string errnoText(int error) {
  if (error == kNotSupportedInKernel) return "operation not supported (ENOTSUPP)";
  char buffer[128];
  const char* text = strerror_r(error, buffer, sizeof buffer);
  const char* name = strerrorname_np(error);
  return std::string(text) + " (" + (name ? name : std::to_string(error).c_str()) + ")";
}

Failure failureOf(int error, const std::string& what, const char* code) {
  switch (error) {
    case EPERM:
    case EACCES:
      code = "bpf.not_permitted";
      break;
    case EOPNOTSUPP:
    case ENOSYS:
    case kNotSupportedInKernel:
      code = "bpf.unsupported";
      break;
    default:
      break;
  }
  return Failure{.code = code, .message = what + ": " + errnoText(error), .error = error};
}

}  // namespace aegis
