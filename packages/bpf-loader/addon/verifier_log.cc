#include "verifier_log.hpp"

#include <sys/mman.h>

#include <cctype>
#include <cstring>

namespace aegis {

namespace {

constexpr const char* kCounters[] = {"processed ", "verification time ", "stack depth ", "max_states_per_insn",
                                     "peak_states ", "mark_read ", "total_states ", "func#", "-- "};

bool isCounter(const std::string& line) {
  for (const char* start : kCounters) {
    if (line.starts_with(start)) return true;
  }
  return false;
}

// "12: (79) r1 = …", "; return x;", "R0=…": the verifier's walk, not its verdict.
bool isWalk(const std::string& line) {
  if (line.starts_with(";") || line.starts_with("cur state:") || line.starts_with("old state:")) return true;
  size_t digits = 0;
  while (digits < line.size() && std::isdigit(static_cast<unsigned char>(line[digits]))) digits++;
  if (digits > 0 && line.compare(digits, 1, ":") == 0) return true;
  return line.starts_with("from ") && line.find(": R") != std::string::npos;
}

std::string trimmed(const std::string& line) {
  size_t from = 0;
  size_t to = line.size();
  while (from < to && std::isspace(static_cast<unsigned char>(line[from]))) from++;
  while (to > from && std::isspace(static_cast<unsigned char>(line[to - 1]))) to--;
  return line.substr(from, to - from);
}

}  // namespace

LogBuffer::LogBuffer(size_t limitBytes) {
  void* room = mmap(nullptr, limitBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) return;
  data_ = static_cast<char*>(room);
  size_ = limitBytes;
}

LogBuffer::~LogBuffer() {
  if (data_) munmap(data_, size_);
}

std::string LogBuffer::text() const { return data_ ? std::string(data_, strnlen(data_, size_)) : std::string(); }

std::string reasonLine(const std::string& log) {
  std::string walk;
  size_t end = log.size();
  while (end > 0) {
    const size_t newline = log.rfind('\n', end - 1);
    const size_t from = newline == std::string::npos ? 0 : newline + 1;
    const std::string line = trimmed(log.substr(from, end - from));
    if (!line.empty() && !isCounter(line)) {
      if (!isWalk(line)) return line;
      if (walk.empty()) walk = line;
    }
    if (newline == std::string::npos) break;
    end = newline;
  }
  return walk;
}

}  // namespace aegis
