// Listing a directory, and stat of one name or of a whole listing.
#include "arguments.hpp"

#include <algorithm>
#include <fcntl.h>
#include <string_view>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <vector>

namespace aegis {
namespace {

// Order and count must match STAT in src/files.ts.
constexpr size_t FIELDS = 20;

struct DirEntry64 {
  uint64_t ino;
  int64_t off;
  uint16_t reclen;
  uint8_t type;
  char name[];
};

struct Entry {
  size_t start;
  uint32_t length;
  uint8_t type;
};

void store(const struct statx& from, double* out) {
  out[0] = from.stx_mode;
  out[1] = from.stx_nlink;
  out[2] = from.stx_uid;
  out[3] = from.stx_gid;
  out[4] = static_cast<double>(from.stx_size);
  out[5] = static_cast<double>(from.stx_blocks);
  out[6] = static_cast<double>(from.stx_mtime.tv_sec);
  out[7] = from.stx_mtime.tv_nsec;
  out[8] = static_cast<double>(from.stx_atime.tv_sec);
  out[9] = from.stx_atime.tv_nsec;
  out[10] = static_cast<double>(from.stx_ctime.tv_sec);
  out[11] = from.stx_ctime.tv_nsec;
  out[12] = from.stx_dev_major;
  out[13] = from.stx_dev_minor;
  out[14] = static_cast<double>(from.stx_ino >> 32);
  out[15] = static_cast<double>(from.stx_ino & 0xffffffffU);
  out[16] = from.stx_rdev_major;
  out[17] = from.stx_rdev_minor;
  out[18] = (from.stx_mask & STATX_MNT_ID) != 0 ? static_cast<double>(from.stx_mnt_id) : -1;
  out[19] = static_cast<double>(from.stx_attributes & from.stx_attributes_mask & (STATX_ATTR_MOUNT_ROOT | STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND));
}

int statInto(int dir, const char* name, int flags, double* out) {
  struct statx found{};
  const int result = uninterrupted([&] { return statx(dir, name, flags | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_BASIC_STATS | STATX_MNT_ID, &found); });
  if (result != 0) return -errno;
  store(found, out);
  return 0;
}

// readDirectory(fd) → {bytes, ends, types} | -errno: all names after one another in byte order, without '.' and '..'.
Napi::Value readDirectory(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Arguments given(info);
  const int fd = given.descriptor(0);
  if (given.wrong()) return env.Undefined();
  if (lseek(fd, 0, SEEK_SET) < 0) return failed(env, errno);
  std::vector<char> names;
  std::vector<Entry> entries;
  alignas(DirEntry64) std::array<char, 65536> chunk;
  for (;;) {
    const long got = uninterrupted([&] { return syscall(SYS_getdents64, fd, chunk.data(), chunk.size()); });
    if (got < 0) return failed(env, errno);
    if (got == 0) break;
    for (long at = 0; at < got;) {
      const auto* entry = reinterpret_cast<const DirEntry64*>(chunk.data() + at);
      const std::string_view name(entry->name);
      if (name != "." && name != "..") {
        entries.push_back({names.size(), static_cast<uint32_t>(name.size()), entry->type});
        names.insert(names.end(), name.begin(), name.end());
      }
      at += entry->reclen;
    }
  }
  if (names.size() > UINT32_MAX) return failed(env, EOVERFLOW);
  const auto text = [&](const Entry& entry) { return std::string_view(names.data() + entry.start, entry.length); };
  // char_traits<char> compares as unsigned bytes.
  std::sort(entries.begin(), entries.end(), [&](const Entry& a, const Entry& b) { return text(a) < text(b); });
  Napi::Buffer<char> bytes = Napi::Buffer<char>::New(env, names.size());
  Napi::Uint32Array ends = Napi::Uint32Array::New(env, entries.size());
  Napi::Uint8Array types = Napi::Uint8Array::New(env, entries.size());
  if (env.IsExceptionPending()) return env.Undefined();
  char* out = bytes.Data();
  size_t used = 0;
  for (size_t index = 0; index < entries.size(); index++) {
    const Entry& entry = entries[index];
    std::memcpy(out + used, names.data() + entry.start, entry.length);
    used += entry.length;
    ends.Data()[index] = static_cast<uint32_t>(used);
    types.Data()[index] = entry.type;
  }
  Napi::Object listing = Napi::Object::New(env);
  listing.Set("bytes", bytes);
  listing.Set("ends", ends);
  listing.Set("types", types);
  return listing;
}

// statAt(dirFd, name, out, at) → 0 | -errno; an empty name means dirFd itself.
Napi::Value statAt(const Napi::CallbackInfo& info) {
  Arguments given(info);
  const int dir = given.descriptor(0);
  Name name;
  given.name(1, name);
  const std::span<double> out = given.doubles(2);
  const int64_t at = given.integer(3);
  if (!given.wrong() && (at < 0 || static_cast<uint64_t>(at) + FIELDS > out.size())) given.refuse("the array is too short for a stat result");
  if (given.wrong()) return info.Env().Undefined();
  if (name.error != 0) return failed(info.Env(), name.error);
  return Napi::Number::New(info.Env(), statInto(dir, name.get(), name.text[0] == '\0' ? AT_EMPTY_PATH : 0, out.data() + at));
}

// statListing(dirFd, bytes, ends, out) → 0; the first field of a name that cannot be read is -errno.
Napi::Value statListing(const Napi::CallbackInfo& info) {
  Arguments given(info);
  const int dir = given.descriptor(0);
  const std::span<uint8_t> bytes = given.bytes(1);
  const std::span<uint32_t> ends = given.words(2);
  const std::span<double> out = given.doubles(3);
  if (!given.wrong() && ends.size() * FIELDS > out.size()) given.refuse("the array is too short for these stat results");
  if (given.wrong()) return info.Env().Undefined();
  std::array<char, NAME_MAX + 1> name;
  uint32_t start = 0;
  for (size_t index = 0; index < ends.size(); index++) {
    const uint32_t end = ends[index];
    double* result = out.data() + index * FIELDS;
    if (end < start || end > bytes.size()) {
      given.refuse("the listing is damaged");
      return info.Env().Undefined();
    }
    const size_t length = end - start;
    if (length == 0 || length > NAME_MAX) {
      result[0] = -ENAMETOOLONG;
    } else {
      std::memcpy(name.data(), bytes.data() + start, length);
      name[length] = '\0';
      const int status = statInto(dir, name.data(), 0, result);
      if (status != 0) result[0] = status;
    }
    start = end;
  }
  return Napi::Number::New(info.Env(), 0);
}

// readLinkAt(dirFd, name) → Buffer | -errno; an empty name means dirFd itself, opened with O_PATH.
Napi::Value readLinkAt(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Arguments given(info);
  const int dir = given.descriptor(0);
  Name name;
  given.name(1, name);
  if (given.wrong()) return env.Undefined();
  if (name.error != 0) return failed(env, name.error);
  std::array<char, PATH_MAX + 1> target;
  const ssize_t length = readlinkat(dir, name.get(), target.data(), target.size());
  if (length < 0) return failed(env, errno);
  if (static_cast<size_t>(length) == target.size()) return failed(env, ENAMETOOLONG);
  return Napi::Buffer<char>::Copy(env, target.data(), static_cast<size_t>(length));
}

}  // namespace

void exportDirectories(Napi::Env env, Napi::Object exports) {
  exports.Set("readDirectory", Napi::Function::New(env, readDirectory, "readDirectory"));
  exports.Set("statAt", Napi::Function::New(env, statAt, "statAt"));
  exports.Set("statListing", Napi::Function::New(env, statListing, "statListing"));
  exports.Set("readLinkAt", Napi::Function::New(env, readLinkAt, "readLinkAt"));
}

}  // namespace aegis
