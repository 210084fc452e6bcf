#include "print_capture.hpp"

#include <bpf/libbpf.h>

#include <cstdarg>
#include <cstdio>
#include <mutex>
#include <vector>

namespace aegis {

namespace {

thread_local PrintCapture* current = nullptr;

int print(enum libbpf_print_level level, const char* format, va_list arguments) {
  if (level == LIBBPF_DEBUG || current == nullptr) return 0;
  va_list again;
  va_copy(again, arguments);
  const int size = std::vsnprintf(nullptr, 0, format, again);
  va_end(again);
  if (size <= 0) return 0;
  std::vector<char> line(static_cast<size_t>(size) + 1);
  std::vsnprintf(line.data(), line.size(), format, arguments);
  current->add(line.data(), static_cast<size_t>(size));
  return size;
}

}  // namespace

PrintCapture::PrintCapture(size_t limitBytes) : limit_(limitBytes), outer_(current) {
  static std::once_flag once;
  std::call_once(once, [] { libbpf_set_print(print); });
  current = this;
}

PrintCapture::~PrintCapture() { current = outer_; }

void PrintCapture::add(const char* text, size_t size) {
  const size_t room = limit_ - text_.size();
  text_.append(text, size < room ? size : room);
}

std::string PrintCapture::lastLine() const {
  size_t end = text_.size();
  while (end > 0) {
    const size_t start = text_.rfind('\n', end - 1);
    const size_t from = start == std::string::npos ? 0 : start + 1;
    std::string line = text_.substr(from, end - from);
    if (line.starts_with("libbpf: ")) line.erase(0, 8);
    if (!line.empty()) return line;
    if (start == std::string::npos) break;
    end = start;
  }
  return {};
}

}  // namespace aegis
