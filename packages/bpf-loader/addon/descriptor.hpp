// The one owner of a file descriptor. Program, map, link and socket handles are descriptors of their own type, so that one is not
// taken for another.
#pragma once

#include <unistd.h>

#include <utility>

namespace aegis {

class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() { reset(); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool valid() const { return fd_ >= 0; }
  void reset() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }

 private:
  int fd_ = -1;
};

struct ProgramFd : Descriptor {
  using Descriptor::Descriptor;
};
struct MapFd : Descriptor {
  using Descriptor::Descriptor;
};
struct LinkFd : Descriptor {
  using Descriptor::Descriptor;
};
struct PerfFd : Descriptor {
  using Descriptor::Descriptor;
};

}  // namespace aegis
