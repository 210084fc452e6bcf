#include "bpffs.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <cerrno>
#include <cstring>
#include <memory>

namespace aegis {

namespace {

constexpr int kFolder = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
constexpr int kMaxDepth = 32;

Failure refused(int error, const std::string& path, const std::string& what) {
  if (error == ENOENT) return Failure{.code = "bpf.not_found", .message = "There is no folder " + path + ".", .error = error};
  if (error == ELOOP || error == ENOTDIR) return Failure{.code = "bpf.invalid", .message = path + " is not a folder (a symbolic link is not followed).", .error = error};
  return failureOf(error, what + " " + path);
}

class Walk {
 public:
  static Result<Walk> begin(const std::string& root) {
    Walk walk;
    walk.path_ = root;
    walk.folder_ = Descriptor(open(root.c_str(), kFolder));
    if (!walk.folder_.valid()) return refused(errno, root, "Cannot open");
    struct statfs system{};
    struct stat self{};
    if (fstatfs(walk.folder_.get(), &system) != 0 || fstat(walk.folder_.get(), &self) != 0) return failureOf(errno, "Cannot read " + root);
    if (system.f_type != BPF_FS_MAGIC)
      return Failure{.code = "bpf.invalid", .message = "There is no bpf file system at " + root + ": mount one first.", .error = EINVAL};
    walk.device_ = self.st_dev;
    return walk;
  }

  Status enter(const std::string& name) {
    path_ += "/" + name;
    Descriptor next(openat(folder_.get(), name.c_str(), kFolder));
    if (!next.valid()) return refused(errno, path_, "Cannot open");
    struct stat self{};
    if (fstat(next.get(), &self) != 0 || self.st_dev != device_)
      return Failure{.code = "bpf.invalid", .message = "Another file system is mounted at " + path_ + ".", .error = EXDEV};
    folder_ = std::move(next);
    return Nothing{};
  }

  Status enterAll(const Names& names, size_t count) {
    for (size_t at = 0; at < count; at++) {
      if (Status status = enter(names[at]); !status) return status;
    }
    return Nothing{};
  }

  [[nodiscard]] int fd() const { return folder_.get(); }
  [[nodiscard]] dev_t device() const { return device_; }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  Descriptor folder_;
  dev_t device_ = 0;
  std::string path_;
};

struct CloseFolder {
  void operator()(DIR* folder) const { closedir(folder); }
};

Result<std::vector<Entry>> entriesOf(int fd) {
  const int copy = openat(fd, ".", kFolder);
  const std::unique_ptr<DIR, CloseFolder> folder(copy < 0 ? nullptr : fdopendir(copy));
  if (!folder) {
    const int error = errno;
    if (copy >= 0) close(copy);
    return failureOf(error, "Cannot list a folder");
  }
  std::vector<Entry> entries;
  while (const dirent* one = readdir(folder.get())) {
    const std::string name = one->d_name;
    if (name == "." || name == "..") continue;
    struct stat self{};
    if (fstatat(fd, one->d_name, &self, AT_SYMLINK_NOFOLLOW) != 0) continue;
    entries.push_back({name, S_ISDIR(self.st_mode) ? Entry::folder : S_ISREG(self.st_mode) ? Entry::pin : Entry::other});
  }
  return entries;
}

Status empty(int fd, dev_t device, int depth, uint32_t& removed) {
  if (depth > kMaxDepth) return Failure{.code = "bpf.invalid", .message = "The folders are nested too deeply to be removed.", .error = ELOOP};
  Result<std::vector<Entry>> entries = entriesOf(fd);
  if (!entries) return entries.failure();
  for (const Entry& entry : *entries) {
    if (entry.kind != Entry::folder) {
      if (unlinkat(fd, entry.name.c_str(), 0) == 0)
        removed++;
      else if (errno != ENOENT)
        return failureOf(errno, "Cannot remove pin " + entry.name);
      continue;
    }
    const Descriptor below(openat(fd, entry.name.c_str(), kFolder));
    struct stat self{};
    if (!below.valid() || fstat(below.get(), &self) != 0) return failureOf(errno, "Cannot open folder " + entry.name);
    if (self.st_dev != device) return Failure{.code = "bpf.invalid", .message = "Another file system is mounted at " + entry.name + ".", .error = EXDEV};
    if (Status status = empty(below.get(), device, depth + 1, removed); !status) return status;
    if (unlinkat(fd, entry.name.c_str(), AT_REMOVEDIR) != 0 && errno != ENOENT) return failureOf(errno, "Cannot remove folder " + entry.name);
  }
  return Nothing{};
}

}  // namespace

Status mountBpffs(const std::string& root) {
  if (mount("bpf", root.c_str(), "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RELATIME, "mode=0700") == 0) return Nothing{};
  const int error = errno;
  if (error == ENODEV) return Failure{.code = "bpf.unsupported", .message = "This kernel has no bpf file system (since Linux 4.4, CONFIG_BPF_SYSCALL).", .error = error};
  return failureOf(error, "Cannot mount a bpf file system at " + root);
}

Status makeFolders(const std::string& root, const Names& names) {
  Result<Walk> walk = Walk::begin(root);
  if (!walk) return walk.failure();
  for (const std::string& name : names) {
    if (mkdirat(walk->fd(), name.c_str(), 0700) != 0 && errno != EEXIST) return failureOf(errno, "Cannot make folder " + walk->path() + "/" + name);
    if (Status status = walk->enter(name); !status) return status;
  }
  return Nothing{};
}

Result<std::vector<Entry>> listFolder(const std::string& root, const Names& names) {
  Result<Walk> walk = Walk::begin(root);
  if (!walk) return walk.failure();
  if (Status status = walk->enterAll(names, names.size()); !status) return status.failure();
  return entriesOf(walk->fd());
}

Result<bool> removePin(const std::string& root, const Names& names) {
  Result<Walk> walk = Walk::begin(root);
  if (!walk) return walk.failure();
  if (names.empty()) return Failure{.code = "bpf.invalid", .message = "The root is not removed.", .error = EINVAL};
  if (Status status = walk->enterAll(names, names.size() - 1); !status) {
    if (status.failure().error == ENOENT) return false;
    return status.failure();
  }
  if (unlinkat(walk->fd(), names.back().c_str(), 0) == 0) return true;
  if (errno == ENOENT) return false;
  return failureOf(errno, "Cannot remove pin " + walk->path() + "/" + names.back());
}

Result<uint32_t> removeTree(const std::string& root, const Names& names) {
  Result<Walk> walk = Walk::begin(root);
  if (!walk) return walk.failure();
  if (names.empty()) return Failure{.code = "bpf.invalid", .message = "The root is not removed.", .error = EINVAL};
  uint32_t removed = 0;
  if (Status status = walk->enterAll(names, names.size() - 1); !status) {
    if (status.failure().error == ENOENT) return removed;
    return status.failure();
  }
  const Descriptor parent(openat(walk->fd(), ".", kFolder));
  if (Status status = walk->enter(names.back()); !status) {
    if (status.failure().error == ENOENT) return removed;
    return status.failure();
  }
  if (Status status = empty(walk->fd(), walk->device(), 0, removed); !status) return status.failure();
  if (!parent.valid() || (unlinkat(parent.get(), names.back().c_str(), AT_REMOVEDIR) != 0 && errno != ENOENT))
    return failureOf(errno, "Cannot remove folder " + walk->path());
  return removed;
}

}  // namespace aegis
