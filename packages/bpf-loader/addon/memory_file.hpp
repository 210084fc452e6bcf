// Bytes that a library wants to read by path: a memfd, gone with its owner.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <string>
#include <vector>

#include "descriptor.hpp"
#include "result.hpp"

namespace aegis {

class MemoryFile {
 public:
  MemoryFile() = default;
  static Result<MemoryFile> holding(const char* name, const std::vector<uint8_t>& bytes) {
    MemoryFile file;
    file.fd_ = Descriptor(memfd_create(name, MFD_CLOEXEC));
    size_t done = 0;
    while (file.fd_.valid() && done < bytes.size()) {
      const ssize_t wrote = write(file.fd_.get(), bytes.data() + done, bytes.size() - done);
      if (wrote <= 0) break;
      done += static_cast<size_t>(wrote);
    }
    if (!file.fd_.valid() || done < bytes.size()) return failureOf(errno, "Cannot hold bytes in memory");
    return file;
  }
  [[nodiscard]] std::string path() const { return fd_.valid() ? "/proc/self/fd/" + std::to_string(fd_.get()) : std::string(); }

 private:
  Descriptor fd_;
};

}  // namespace aegis
