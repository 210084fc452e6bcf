// Extended attributes of anything that can be opened, also with O_PATH. An O_PATH descriptor has no fgetxattr, but the kernel
// resolves /proc/self/fd/N to exactly that inode (open(2), O_PATH), also when it is a symlink or a device.
#include "arguments.hpp"

#include <fcntl.h>
#include <string>
#include <sys/xattr.h>
#include <vector>

namespace aegis {
namespace {

class Target {
 public:
  explicit Target(int fd) : fd_(fd) {
    const int flags = fcntl(fd, F_GETFL);
    if (flags >= 0 && (flags & O_PATH) != 0) path_ = "/proc/self/fd/" + std::to_string(fd);
  }
  ssize_t list(char* out, size_t size) const { return path_.empty() ? flistxattr(fd_, out, size) : listxattr(path_.c_str(), out, size); }
  ssize_t get(const char* name, void* out, size_t size) const { return path_.empty() ? fgetxattr(fd_, name, out, size) : getxattr(path_.c_str(), name, out, size); }
  int set(const char* name, const void* value, size_t size) const { return path_.empty() ? fsetxattr(fd_, name, value, size, 0) : setxattr(path_.c_str(), name, value, size, 0); }
  int remove(const char* name) const { return path_.empty() ? fremovexattr(fd_, name) : removexattr(path_.c_str(), name); }

 private:
  int fd_;
  std::string path_;
};

// Grows until the answer fits: another process may add attributes between asking for the size and reading.
template <typename Read>
ssize_t readAll(std::vector<char>& out, Read read) {
  for (;;) {
    const ssize_t length = uninterrupted([&] { return read(out.data(), out.size()); });
    if (length >= 0 || errno != ERANGE) return length;
    const ssize_t needed = uninterrupted([&] { return read(nullptr, 0); });
    if (needed < 0) return needed;
    out.resize(static_cast<size_t>(needed) + 256);
  }
}

// getXattrs(fd, most) → [name, value, …] as Buffers | undefined when there are none | -errno; -E2BIG where names and values have more than `most`
// bytes. Whoever owns a file may give it thousands of values of 64 KiB: they are not read to see that they are too many.
Napi::Value getXattrs(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Arguments given(info);
  const int fd = given.descriptor(0);
  const int64_t most = info.Length() > 1 ? given.integer(1) : INT64_MAX;
  if (given.wrong()) return env.Undefined();
  const Target target(fd);
  std::array<char, 1024> few;
  const ssize_t short_ = uninterrupted([&] { return target.list(few.data(), few.size()); });
  if (short_ == 0) return env.Undefined();
  if (short_ < 0 && errno == EOPNOTSUPP) return env.Undefined();
  std::vector<char> names;
  if (short_ > 0) {
    names.assign(few.begin(), few.begin() + short_);
  } else {
    if (errno != ERANGE) return failed(env, errno);
    names.resize(4096);  // of an empty one the kernel would only tell the length
    const ssize_t length = readAll(names, [&](char* out, size_t size) { return target.list(out, size); });
    if (length < 0) return failed(env, errno);
    names.resize(static_cast<size_t>(length));
  }
  Napi::Array result = Napi::Array::New(env);
  std::vector<char> value(1024);
  uint32_t count = 0;
  int64_t taken = 0;
  for (size_t at = 0; at < names.size();) {
    const size_t length = strnlen(names.data() + at, names.size() - at);
    if (at + length >= names.size()) return failed(env, EIO);  // the kernel ends each name with NUL
    const char* name = names.data() + at;
    at += length + 1;
    const ssize_t got = readAll(value, [&](char* out, size_t size) { return target.get(name, out, size); });
    if (got < 0 && errno == ENODATA) continue;  // removed since
    if (got < 0) return failed(env, errno);
    taken += static_cast<int64_t>(length) + got;
    if (taken > most) return failed(env, E2BIG);
    result.Set(count++, Napi::Buffer<char>::Copy(env, name, length));
    result.Set(count++, Napi::Buffer<char>::Copy(env, value.data(), static_cast<size_t>(got)));
    if (env.IsExceptionPending()) return env.Undefined();
  }
  return result;
}

// setXattr(fd, name, value) → 0 | -errno
Napi::Value setXattr(const Napi::CallbackInfo& info) {
  Arguments given(info);
  const int fd = given.descriptor(0);
  Name name;
  given.name(1, name);
  const std::span<uint8_t> value = given.bytes(2);
  if (given.wrong()) return info.Env().Undefined();
  if (name.error != 0) return failed(info.Env(), name.error);
  const Target target(fd);
  return answered(info.Env(), uninterrupted([&] { return target.set(name.get(), value.data(), value.size()); }));
}

// removeXattr(fd, name) → 0 | -errno
Napi::Value removeXattr(const Napi::CallbackInfo& info) {
  Arguments given(info);
  const int fd = given.descriptor(0);
  Name name;
  given.name(1, name);
  if (given.wrong()) return info.Env().Undefined();
  if (name.error != 0) return failed(info.Env(), name.error);
  const Target target(fd);
  return answered(info.Env(), uninterrupted([&] { return target.remove(name.get()); }));
}

}  // namespace

void exportXattrs(Napi::Env env, Napi::Object exports) {
  exports.Set("getXattrs", Napi::Function::New(env, getXattrs, "getXattrs"));
  exports.Set("setXattr", Napi::Function::New(env, setXattr, "setXattr"));
  exports.Set("removeXattr", Napi::Function::New(env, removeXattr, "removeXattr"));
}

}  // namespace aegis
