// Bytes of open files, and where there are none (holes).
#include "arguments.hpp"

#include <fcntl.h>
#include <vector>

namespace aegis {
namespace {

struct Range {
  uint8_t* data;
  size_t length;
  int64_t position;
};

// (fd, buffer, offset, length, position)
Range range(Arguments& given) {
  const std::span<uint8_t> buffer = given.bytes(1);
  const int64_t offset = given.integer(2);
  const int64_t length = given.integer(3);
  const int64_t position = given.integer(4);
  if (given.wrong()) return {};
  if (offset < 0 || length < 0 || position < 0 || static_cast<uint64_t>(offset) > buffer.size() || static_cast<uint64_t>(length) > buffer.size() - static_cast<uint64_t>(offset)) {
    given.refuse("offset and length must lie in the buffer");
    return {};
  }
  return {buffer.data() + offset, static_cast<size_t>(length), position};
}

// readInto(fd, buffer, offset, length, position) → bytes | -errno: reads until the length, the end of the file or an error after
// which bytes were got (the next call then meets it again).
Napi::Value readInto(const Napi::CallbackInfo& info) {
  Arguments given(info);
  const int fd = given.descriptor(0);
  const Range part = range(given);
  if (given.wrong()) return info.Env().Undefined();
  size_t done = 0;
  while (done < part.length) {
    const ssize_t got = uninterrupted([&] { return pread(fd, part.data + done, part.length - done, part.position + static_cast<int64_t>(done)); });
    if (got < 0 && done == 0) return failed(info.Env(), errno);
    if (got <= 0) break;
    done += static_cast<size_t>(got);
  }
  return Napi::Number::New(info.Env(), static_cast<double>(done));
}

// writeFrom(fd, buffer, offset, length, position) → 0 | -errno: all or an error.
Napi::Value writeFrom(const Napi::CallbackInfo& info) {
  Arguments given(info);
  const int fd = given.descriptor(0);
  const Range part = range(given);
  if (given.wrong()) return info.Env().Undefined();
  size_t done = 0;
  while (done < part.length) {
    const ssize_t put = uninterrupted([&] { return pwrite(fd, part.data + done, part.length - done, part.position + static_cast<int64_t>(done)); });
    if (put < 0) return failed(info.Env(), errno);
    if (put == 0) return failed(info.Env(), EIO);
    done += static_cast<size_t>(put);
  }
  return Napi::Number::New(info.Env(), 0);
}

// dataSegments(fd, size) → Float64Array of start, end, start, end … | -errno. A file system that cannot tell says one segment.
Napi::Value dataSegments(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Arguments given(info);
  const int fd = given.descriptor(0);
  const int64_t size = given.integer(1);
  if (size < 0) given.refuse("a size was expected");
  if (given.wrong()) return env.Undefined();
  std::vector<double> found;
  int64_t at = 0;
  while (at < size) {
    const int64_t start = lseek(fd, at, SEEK_DATA);
    if (start < 0 && errno == ENXIO) break;  // only a hole until the end
    if (start < 0 && (errno == EINVAL || errno == EOPNOTSUPP) && at == 0) {
      found = {0, static_cast<double>(size)};
      break;
    }
    if (start < 0) return failed(env, errno);
    if (start >= size) break;
    int64_t end = lseek(fd, start, SEEK_HOLE);
    if (end < 0 && errno == ENXIO) break;  // cut off since
    if (end < 0) return failed(env, errno);
    if (end <= start) return failed(env, EIO);
    if (end > size) end = size;
    found.push_back(static_cast<double>(start));
    found.push_back(static_cast<double>(end));
    at = end;
  }
  Napi::Float64Array result = Napi::Float64Array::New(env, found.size());
  if (env.IsExceptionPending()) return env.Undefined();
  if (!found.empty()) std::memcpy(result.Data(), found.data(), found.size() * sizeof(double));
  return result;
}

// punchHole(fd, position, length) → 0 | -errno
Napi::Value punchHole(const Napi::CallbackInfo& info) {
  Arguments given(info);
  const int fd = given.descriptor(0);
  const int64_t position = given.integer(1);
  const int64_t length = given.integer(2);
  if (given.wrong()) return info.Env().Undefined();
  return answered(info.Env(), uninterrupted([&] { return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, position, length); }));
}

// truncateFd(fd, size) → 0 | -errno
Napi::Value truncateFd(const Napi::CallbackInfo& info) {
  Arguments given(info);
  const int fd = given.descriptor(0);
  const int64_t size = given.integer(1);
  if (given.wrong()) return info.Env().Undefined();
  return answered(info.Env(), uninterrupted([&] { return ftruncate(fd, size); }));
}

}  // namespace

void exportContents(Napi::Env env, Napi::Object exports) {
  exports.Set("readInto", Napi::Function::New(env, readInto, "readInto"));
  exports.Set("writeFrom", Napi::Function::New(env, writeFrom, "writeFrom"));
  exports.Set("dataSegments", Napi::Function::New(env, dataSegments, "dataSegments"));
  exports.Set("punchHole", Napi::Function::New(env, punchHole, "punchHole"));
  exports.Set("truncateFd", Napi::Function::New(env, truncateFd, "truncateFd"));
}

}  // namespace aegis
