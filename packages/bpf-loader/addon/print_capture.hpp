// What libbpf prints, caught for the call under way in this thread; nothing reaches stderr.
#pragma once

#include <cstddef>
#include <string>

namespace aegis {

class PrintCapture {
 public:
  explicit PrintCapture(size_t limitBytes = 256 * 1024);
  ~PrintCapture();
  PrintCapture(const PrintCapture&) = delete;
  PrintCapture& operator=(const PrintCapture&) = delete;
  [[nodiscard]] const std::string& text() const { return text_; }
  // The last line that says something, without libbpf's prefix.
  [[nodiscard]] std::string lastLine() const;
  void add(const char* text, size_t size);

 private:
  std::string text_;
  size_t limit_;
  PrintCapture* outer_;
};

}  // namespace aegis
