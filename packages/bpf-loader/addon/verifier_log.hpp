// The buffer that the verifier writes into, and what its last lines say.
#pragma once

#include <cstddef>
#include <string>

namespace aegis {

// Address space only until the kernel writes into it, so the whole limit can be set aside at once: no second and third load with a
// doubled buffer.
class LogBuffer {
 public:
  explicit LogBuffer(size_t limitBytes);
  ~LogBuffer();
  LogBuffer(const LogBuffer&) = delete;
  LogBuffer& operator=(const LogBuffer&) = delete;
  [[nodiscard]] char* data() const { return data_; }
  [[nodiscard]] size_t size() const { return size_; }
  [[nodiscard]] std::string text() const;

 private:
  char* data_ = nullptr;
  size_t size_ = 0;
};

// The line for a person: the last one that is neither a count ("processed 12 insns …") nor an instruction or a source line.
std::string reasonLine(const std::string& log);

}  // namespace aegis
