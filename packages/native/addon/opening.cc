// Opening and closing below a directory descriptor.
#include "arguments.hpp"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>

namespace aegis {
namespace {

// openAt(dirFd, name, flags, mode) → fd | -errno
Napi::Value openAt(const Napi::CallbackInfo& info) {
  Arguments given(info);
  const int dir = given.descriptor(0);
  Name name;
  given.name(1, name);
  const auto flags = static_cast<int>(given.integer(2));
  const auto mode = static_cast<mode_t>(given.integer(3));
  if (given.wrong()) return info.Env().Undefined();
  if (name.error != 0) return failed(info.Env(), name.error);
  return answered(info.Env(), uninterrupted([&] { return openat(dir, name.get(), flags | O_CLOEXEC, mode); }));
}

// openBeneath(dirFd, path, flags, mode) → fd | -errno; ENOSYS before Linux 5.6.
Napi::Value openBeneath(const Napi::CallbackInfo& info) {
  Arguments given(info);
  const int dir = given.descriptor(0);
  Name name;
  given.name(1, name);
  open_how how{};
  how.flags = static_cast<uint64_t>(given.integer(2)) | O_CLOEXEC;
  how.mode = static_cast<uint64_t>(given.integer(3));
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  if (given.wrong()) return info.Env().Undefined();
  if (name.error != 0) return failed(info.Env(), name.error);
  int64_t fd = -1;
  // EAGAIN: something was renamed during the walk and the kernel could not tell whether it stayed beneath.
  for (int attempt = 0; attempt < 64; attempt++) {
    fd = uninterrupted([&] { return syscall(SYS_openat2, dir, name.get(), &how, sizeof how); });
    if (fd >= 0 || errno != EAGAIN) break;
  }
  return answered(info.Env(), fd);
}

// closeFd(fd) → 0 | -errno. Never repeated: on Linux the descriptor is gone also when close says EINTR.
Napi::Value closeFd(const Napi::CallbackInfo& info) {
  Arguments given(info);
  const int fd = given.descriptor(0);
  if (given.wrong()) return info.Env().Undefined();
  return answered(info.Env(), close(fd));
}

}  // namespace

void exportOpening(Napi::Env env, Napi::Object exports) {
  exports.Set("openAt", Napi::Function::New(env, openAt, "openAt"));
  exports.Set("openBeneath", Napi::Function::New(env, openBeneath, "openBeneath"));
  exports.Set("closeFd", Napi::Function::New(env, closeFd, "closeFd"));
}

}  // namespace aegis
