// What every call of the addon shares: reading arguments without trusting them, and answering with a value or -errno.
// A wrong argument throws a TypeError; a system call that fails answers with -errno, of which TypeScript makes the error:
// so a refusal in the middle of a large scan costs no exception here.
#pragma once

#include <napi.h>

#include <array>
#include <cerrno>
#include <climits>
#include <cstdint>
#include <cstring>
#include <span>
#include <unistd.h>

namespace aegis {

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool valid() const { return fd_ >= 0; }
  [[nodiscard]] int release() {
    const int fd = fd_;
    fd_ = -1;
    return fd;
  }

 private:
  int fd_;
};

// A name or path as the kernel wants it: without NUL inside, at most PATH_MAX - 1 bytes.
struct Name {
  std::array<char, PATH_MAX> text;
  int error = 0;
  [[nodiscard]] const char* get() const { return text.data(); }
};

class Arguments {
 public:
  explicit Arguments(const Napi::CallbackInfo& info) : info_(info), env_(info.Env()) {}

  [[nodiscard]] bool wrong() const { return wrong_; }

  int64_t integer(size_t index) {
    double value = 0;
    if (napi_get_value_double(env_, info_[index], &value) != napi_ok || value != value || value < -9007199254740991.0 || value > 9007199254740991.0) {
      refuse("a safe integer was expected");
      return 0;
    }
    return static_cast<int64_t>(value);
  }

  int descriptor(size_t index) {
    const int64_t value = integer(index);
    if (value < INT_MIN || value > INT_MAX) refuse("a file descriptor was expected");
    return static_cast<int>(value);
  }

  std::span<uint8_t> bytes(size_t index) {
    void* data = nullptr;
    size_t length = 0;
    napi_typedarray_type type{};
    if (napi_get_typedarray_info(env_, info_[index], &type, &length, &data, nullptr, nullptr) != napi_ok || type != napi_uint8_array) {
      refuse("a Buffer was expected");
      return {};
    }
    return {static_cast<uint8_t*>(data), length};
  }

  std::span<double> doubles(size_t index) {
    void* data = nullptr;
    size_t length = 0;
    napi_typedarray_type type{};
    if (napi_get_typedarray_info(env_, info_[index], &type, &length, &data, nullptr, nullptr) != napi_ok || type != napi_float64_array) {
      refuse("a Float64Array was expected");
      return {};
    }
    return {static_cast<double*>(data), length};
  }

  std::span<uint32_t> words(size_t index) {
    void* data = nullptr;
    size_t length = 0;
    napi_typedarray_type type{};
    if (napi_get_typedarray_info(env_, info_[index], &type, &length, &data, nullptr, nullptr) != napi_ok || type != napi_uint32_array) {
      refuse("a Uint32Array was expected");
      return {};
    }
    return {static_cast<uint32_t*>(data), length};
  }

  void name(size_t index, Name& out) {
    const std::span<uint8_t> given = bytes(index);
    out.error = 0;
    out.text[0] = '\0';
    if (given.size() >= out.text.size()) {
      out.error = ENAMETOOLONG;
    } else if (!given.empty() && std::memchr(given.data(), 0, given.size()) != nullptr) {
      out.error = EINVAL;
    } else {
      if (!given.empty()) std::memcpy(out.text.data(), given.data(), given.size());
      out.text[given.size()] = '\0';
    }
  }

  void refuse(const char* what) {
    if (wrong_) return;
    wrong_ = true;
    Napi::TypeError::New(env_, what).ThrowAsJavaScriptException();
  }

 private:
  const Napi::CallbackInfo& info_;
  Napi::Env env_;
  bool wrong_ = false;
};

inline Napi::Value failed(Napi::Env env, int number) { return Napi::Number::New(env, -number); }

// The result of a system call that returned `value`, or -errno.
inline Napi::Value answered(Napi::Env env, int64_t value) { return Napi::Number::New(env, static_cast<double>(value < 0 ? -errno : value)); }

template <typename Call>
auto uninterrupted(Call call) {
  decltype(call()) result;
  do result = call();
  while (result == -1 && errno == EINTR);
  return result;
}

void exportOpening(Napi::Env env, Napi::Object exports);
void exportDirectories(Napi::Env env, Napi::Object exports);
void exportContents(Napi::Env env, Napi::Object exports);
void exportXattrs(Napi::Env env, Napi::Object exports);
void exportChanges(Napi::Env env, Napi::Object exports);
void exportFileBatch(Napi::Env env, Napi::Object exports);

}  // namespace aegis
