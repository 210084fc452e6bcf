// Between JavaScript and the rest: handles, errors, tasks. TypeScript checked the arguments; a wrong one still only gives an error.
// Node-API's failures are C++ exceptions in js*.cc (and nowhere else), so that a worker's end in the middle of an answer unwinds it:
// without them node-addon-api goes on with an empty value and aborts the process.
#pragma once

#include <napi.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "descriptor.hpp"
#include "result.hpp"

namespace aegis::js {

enum class Kind : uint32_t { program = 1, map, link, hold };

// What a JavaScript handle holds. A task under way shares it, so that closing the handle never pulls a descriptor from under it.
struct Held {
  Kind kind;
  std::shared_ptr<Descriptor> fd;
};

Napi::Value handle(Napi::Env env, Kind kind, Descriptor fd);
// Null, with an exception pending, when it is not such a handle or closed.
std::shared_ptr<Descriptor> held(const Napi::Value& value, Kind kind);
std::shared_ptr<Descriptor> anyHeld(const Napi::Value& value);
void closeHandle(const Napi::Value& value);

Napi::Value errorOf(Napi::Env env, const Failure& failure);
void raise(Napi::Env env, const Failure& failure);

// Reading of plain objects; a missing member gives the empty value.
std::string text(const Napi::Value& value);
std::string textOf(const Napi::Object& object, const char* name);
std::optional<uint32_t> numberOf(const Napi::Object& object, const char* name);
int64_t integerOf(const Napi::Object& object, const char* name);
bool flagOf(const Napi::Object& object, const char* name);
std::vector<uint8_t> bytesOf(const Napi::Value& value);

template <class Value>
void setIf(Napi::Object& object, const char* name, const std::optional<Value>& value) {
  if (!value) return;
  if constexpr (std::is_same_v<Value, std::string>)
    object.Set(name, *value);
  else if constexpr (std::is_same_v<Value, uint64_t>)
    object.Set(name, Napi::BigInt::New(object.Env(), *value));
  else
    object.Set(name, Napi::Number::New(object.Env(), *value));
}

// `work` off the main thread, `give` on it. The promise is rejected with the failure.
template <class T>
class Task final : public Napi::AsyncWorker {
 public:
  using Work = std::function<Result<T>()>;
  using Give = std::function<Napi::Value(Napi::Env, T&)>;
  static Napi::Value start(Napi::Env env, Work work, Give give) {
    std::unique_ptr<Task> task(new Task(env, std::move(work), std::move(give)));
    const Napi::Value promise = task->deferred_.Promise();
    task->Queue();
    static_cast<void>(task.release());  // destroys itself when it is done
    return promise;
  }

 protected:
  void Execute() override { result_.emplace(work_()); }
  void OnOK() override {
    // A worker may be ended at any moment: then the next call throws, what was made is released, and nobody waits for it.
    if (result_->ok())
      deferred_.Resolve(give_(Env(), **result_));
    else
      deferred_.Reject(errorOf(Env(), result_->failure()));
  }

 private:
  Task(Napi::Env env, Work work, Give give)
      : Napi::AsyncWorker(env), deferred_(Napi::Promise::Deferred::New(env)), work_(std::move(work)), give_(std::move(give)) {}
  Napi::Promise::Deferred deferred_;
  Work work_;
  Give give_;
  std::optional<Result<T>> result_;
};

inline Napi::Value nothing(Napi::Env env, Nothing&) { return env.Undefined(); }

// Called by addon.cc, one for each topic.
void addObject(Napi::Env env, Napi::Object exports);
void addAttach(Napi::Env env, Napi::Object exports);
void addLink(Napi::Env env, Napi::Object exports);
void addMap(Napi::Env env, Napi::Object exports);
void addKernel(Napi::Env env, Napi::Object exports);
void addRings(Napi::Env env, Napi::Object exports);
void addBpffs(Napi::Env env, Napi::Object exports);
void addNetwork(Napi::Env env, Napi::Object exports);

inline void add(Napi::Object& exports, const char* name, Napi::Value (*function)(const Napi::CallbackInfo&)) {
  exports.Set(name, Napi::Function::New(exports.Env(), function, name));
}

}  // namespace aegis::js
