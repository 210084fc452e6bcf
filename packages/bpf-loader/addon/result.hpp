// What an operation gives: a value, or a Failure that TypeScript turns into a LoaderError. Nothing here throws, so nothing can be
// thrown across N-API.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace aegis {

using Detail = std::variant<std::string, double, bool, std::vector<std::string>>;

struct Failure {
  std::string code;     // a LoaderErrorCode of src/types.ts
  std::string message;  // a sentence
  int error = 0;        // positive errno, 0 where there is none
  std::string program{};
  std::string reason{};
  std::string log{};
  std::vector<std::pair<std::string, Detail>> details{};

  Failure& with(std::string name, Detail value) {
    details.emplace_back(std::move(name), std::move(value));
    return *this;
  }
};

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : held_(std::in_place_index<0>, std::move(value)) {}
  Result(Failure failure) : held_(std::in_place_index<1>, std::move(failure)) {}
  [[nodiscard]] bool ok() const { return held_.index() == 0; }
  explicit operator bool() const { return ok(); }
  T& operator*() { return *std::get_if<0>(&held_); }
  T* operator->() { return std::get_if<0>(&held_); }
  Failure& failure() { return *std::get_if<1>(&held_); }

 private:
  std::variant<T, Failure> held_;
};

struct Nothing {};
using Status = Result<Nothing>;

// "no such file or directory (ENOENT)"-like text of an errno.
std::string errnoText(int error);

// A failure by errno alone: EPERM → bpf.not_permitted, EOPNOTSUPP and its like → bpf.unsupported, ENOENT → bpf.not_found, else `code`.
Failure failureOf(int error, const std::string& what, const char* code = "bpf.failed");

}  // namespace aegis
