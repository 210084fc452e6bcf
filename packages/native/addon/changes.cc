// Making, linking, renaming and removing names below a directory descriptor, and owners, modes and times. None follows a symlink.
#include "arguments.hpp"

#include <cstdio>
#include <fcntl.h>
#include <string>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

namespace aegis {
namespace {

// mkdirAt(dirFd, name, mode) → 0 | -errno
Napi::Value mkdirAt(const Napi::CallbackInfo& info) {
  Arguments given(info);
  const int dir = given.descriptor(0);
  Name name;
  given.name(1, name);
  const auto mode = static_cast<mode_t>(given.integer(2));
  if (given.wrong()) return info.Env().Undefined();
  if (name.error != 0) return failed(info.Env(), name.error);
  return answered(info.Env(), mkdirat(dir, name.get(), mode));
}

// mknodAt(dirFd, name, mode with type, major, minor) → 0 | -errno
Napi::Value mknodAt(const Napi::CallbackInfo& info) {
  Arguments given(info);
  const int dir = given.descriptor(0);
  Name name;
  given.name(1, name);
  const auto mode = static_cast<mode_t>(given.integer(2));
  const auto major = static_cast<unsigned>(given.integer(3));
  const auto minor = static_cast<unsigned>(given.integer(4));
  if (given.wrong()) return info.Env().Undefined();
  if (name.error != 0) return failed(info.Env(), name.error);
  return answered(info.Env(), mknodat(dir, name.get(), mode, makedev(major, minor)));
}

// symlinkAt(target, dirFd, name) → 0 | -errno
Napi::Value symlinkAt(const Napi::CallbackInfo& info) {
  Arguments given(info);
  Name target;
  given.name(0, target);
  const int dir = given.descriptor(1);
  Name name;
  given.name(2, name);
  if (given.wrong()) return info.Env().Undefined();
  if (target.error != 0 || name.error != 0) return failed(info.Env(), target.error != 0 ? target.error : name.error);
  return answered(info.Env(), symlinkat(target.get(), dir, name.get()));
}

// linkAt(fromDirFd, from, toDirFd, to) → 0 | -errno
Napi::Value linkAt(const Napi::CallbackInfo& info) {
  Arguments given(info);
  const int fromDir = given.descriptor(0);
  Name from;
  given.name(1, from);
  const int toDir = given.descriptor(2);
  Name to;
  given.name(3, to);
  if (given.wrong()) return info.Env().Undefined();
  if (from.error != 0 || to.error != 0) return failed(info.Env(), from.error != 0 ? from.error : to.error);
  return answered(info.Env(), linkat(fromDir, from.get(), toDir, to.get(), 0));
}

// linkFd(fd, toDirFd, to) → 0 | -errno: gives a name to an open file, also one made with O_TMPFILE.
Napi::Value linkFd(const Napi::CallbackInfo& info) {
  Arguments given(info);
  const int fd = given.descriptor(0);
  const int toDir = given.descriptor(1);
  Name to;
  given.name(2, to);
  if (given.wrong()) return info.Env().Undefined();
  if (to.error != 0) return failed(info.Env(), to.error);
  int result = linkat(fd, "", toDir, to.get(), AT_EMPTY_PATH);
  // Without CAP_DAC_READ_SEARCH the kernel says ENOENT; /proc is the way that linkat(2) names.
  if (result != 0 && errno == ENOENT) result = linkat(AT_FDCWD, ("/proc/self/fd/" + std::to_string(fd)).c_str(), toDir, to.get(), AT_SYMLINK_FOLLOW);
  return answered(info.Env(), result);
}

// renameAt(fromDirFd, from, toDirFd, to, noReplace) → 0 | -errno
Napi::Value renameAt(const Napi::CallbackInfo& info) {
  Arguments given(info);
  const int fromDir = given.descriptor(0);
  Name from;
  given.name(1, from);
  const int toDir = given.descriptor(2);
  Name to;
  given.name(3, to);
  const bool noReplace = given.integer(4) != 0;
  if (given.wrong()) return info.Env().Undefined();
  if (from.error != 0 || to.error != 0) return failed(info.Env(), from.error != 0 ? from.error : to.error);
  return answered(info.Env(), renameat2(fromDir, from.get(), toDir, to.get(), noReplace ? RENAME_NOREPLACE : 0));
}

// unlinkAt(dirFd, name, directory) → 0 | -errno
Napi::Value unlinkAt(const Napi::CallbackInfo& info) {
  Arguments given(info);
  const int dir = given.descriptor(0);
  Name name;
  given.name(1, name);
  const bool directory = given.integer(2) != 0;
  if (given.wrong()) return info.Env().Undefined();
  if (name.error != 0) return failed(info.Env(), name.error);
  return answered(info.Env(), unlinkat(dir, name.get(), directory ? AT_REMOVEDIR : 0));
}

// chownAt(dirFd, name, uid, gid) → 0 | -errno; an empty name means dirFd itself.
Napi::Value chownAt(const Napi::CallbackInfo& info) {
  Arguments given(info);
  const int dir = given.descriptor(0);
  Name name;
  given.name(1, name);
  const auto uid = static_cast<uid_t>(given.integer(2));
  const auto gid = static_cast<gid_t>(given.integer(3));
  if (given.wrong()) return info.Env().Undefined();
  if (name.error != 0) return failed(info.Env(), name.error);
  return answered(info.Env(), fchownat(dir, name.get(), uid, gid, AT_SYMLINK_NOFOLLOW | (name.text[0] == '\0' ? AT_EMPTY_PATH : 0)));
}

// chmodFd(fd, mode) → 0 | -errno, also of a descriptor opened with O_PATH, unless it is a symlink (EOPNOTSUPP).
Napi::Value chmodFd(const Napi::CallbackInfo& info) {
  Arguments given(info);
  const int fd = given.descriptor(0);
  const auto mode = static_cast<mode_t>(given.integer(1));
  if (given.wrong()) return info.Env().Undefined();
  int result = fchmod(fd, mode);
  if (result != 0 && errno == EBADF) {
    struct stat found{};
    if (fstat(fd, &found) != 0) return failed(info.Env(), errno);
    if (S_ISLNK(found.st_mode)) return failed(info.Env(), EOPNOTSUPP);
    result = chmod(("/proc/self/fd/" + std::to_string(fd)).c_str(), mode);
  }
  return answered(info.Env(), result);
}

// utimesAt(dirFd, name, atimeSec, atimeNsec, mtimeSec, mtimeNsec) → 0 | -errno; an empty name means dirFd itself, also when it
// was opened with O_PATH.
Napi::Value utimesAt(const Napi::CallbackInfo& info) {
  Arguments given(info);
  const int dir = given.descriptor(0);
  Name name;
  given.name(1, name);
  const std::array<timespec, 2> times{timespec{given.integer(2), static_cast<long>(given.integer(3))}, timespec{given.integer(4), static_cast<long>(given.integer(5))}};
  if (given.wrong()) return info.Env().Undefined();
  if (name.error != 0) return failed(info.Env(), name.error);
  if (name.text[0] == '\0') {
    int result = futimens(dir, times.data());
    if (result != 0 && errno == EBADF) result = utimensat(dir, "", times.data(), AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW);
    // Before Linux 5.8. The kernel resolves it to the very inode, also to a symlink (open(2), O_PATH).
    if (result != 0 && errno == EINVAL) result = utimensat(AT_FDCWD, ("/proc/self/fd/" + std::to_string(dir)).c_str(), times.data(), 0);
    return answered(info.Env(), result);
  }
  return answered(info.Env(), utimensat(dir, name.get(), times.data(), AT_SYMLINK_NOFOLLOW));
}

}  // namespace

void exportChanges(Napi::Env env, Napi::Object exports) {
  exports.Set("mkdirAt", Napi::Function::New(env, mkdirAt, "mkdirAt"));
  exports.Set("mknodAt", Napi::Function::New(env, mknodAt, "mknodAt"));
  exports.Set("symlinkAt", Napi::Function::New(env, symlinkAt, "symlinkAt"));
  exports.Set("linkAt", Napi::Function::New(env, linkAt, "linkAt"));
  exports.Set("linkFd", Napi::Function::New(env, linkFd, "linkFd"));
  exports.Set("renameAt", Napi::Function::New(env, renameAt, "renameAt"));
  exports.Set("unlinkAt", Napi::Function::New(env, unlinkAt, "unlinkAt"));
  exports.Set("chownAt", Napi::Function::New(env, chownAt, "chownAt"));
  exports.Set("chmodFd", Napi::Function::New(env, chmodFd, "chmodFd"));
  exports.Set("utimesAt", Napi::Function::New(env, utimesAt, "utimesAt"));
}

}  // namespace aegis
