#include "js.hpp"

#include <cerrno>

namespace aegis::js {

namespace {

constexpr napi_type_tag kTag{0x6165676973627066, 0x68616e646c653031};

Held* holder(const Napi::Value& value) {
  if (!value.IsExternal()) return nullptr;
  auto external = value.As<Napi::External<Held>>();
  return external.CheckTypeTag(&kTag) ? external.Data() : nullptr;
}

Napi::Value detailValue(Napi::Env env, const Detail& detail) {
  if (const auto* words = std::get_if<std::string>(&detail)) return Napi::String::New(env, *words);
  if (const auto* number = std::get_if<double>(&detail)) return Napi::Number::New(env, *number);
  if (const auto* flag = std::get_if<bool>(&detail)) return Napi::Boolean::New(env, *flag);
  const auto& list = *std::get_if<std::vector<std::string>>(&detail);
  Napi::Array array = Napi::Array::New(env, list.size());
  for (size_t index = 0; index < list.size(); index++) array.Set(static_cast<uint32_t>(index), list[index]);
  return array;
}

}  // namespace

Napi::Value handle(Napi::Env env, Kind kind, Descriptor fd) {
  auto mine = std::make_unique<Held>(Held{kind, std::make_shared<Descriptor>(std::move(fd))});
  auto external = Napi::External<Held>::New(env, mine.get(), [](Napi::Env, Held* held) { delete held; });
  static_cast<void>(mine.release());  // JavaScript's from here on
  external.TypeTag(&kTag);
  return external;
}

std::shared_ptr<Descriptor> anyHeld(const Napi::Value& value) {
  const Held* found = holder(value);
  if (found && found->fd) return found->fd;
  raise(value.Env(), {.code = "bpf.invalid", .message = found ? "This handle is closed." : "This is not a handle of bpf-loader.", .error = EBADF});
  return nullptr;
}

std::shared_ptr<Descriptor> held(const Napi::Value& value, Kind kind) {
  const Held* found = holder(value);
  if (found && found->kind != kind) {
    raise(value.Env(), {.code = "bpf.invalid", .message = "This handle is of another kind.", .error = EBADF});
    return nullptr;
  }
  return anyHeld(value);
}

void closeHandle(const Napi::Value& value) {
  if (Held* found = holder(value)) found->fd.reset();
}

Napi::Value errorOf(Napi::Env env, const Failure& failure) {
  Napi::Object error = Napi::Error::New(env, failure.message).Value();
  error.Set("code", failure.code);
  error.Set("errno", Napi::Number::New(env, failure.error));
  if (!failure.program.empty()) error.Set("program", failure.program);
  if (!failure.reason.empty()) error.Set("reason", failure.reason);
  if (!failure.log.empty()) error.Set("log", failure.log);
  Napi::Object details = Napi::Object::New(env);
  for (const auto& [name, value] : failure.details) details.Set(name, detailValue(env, value));
  error.Set("details", details);
  return error;
}

void raise(Napi::Env env, const Failure& failure) {
  if (env.IsExceptionPending()) return;
  napi_throw(env, errorOf(env, failure));
}

std::string text(const Napi::Value& value) { return value.IsString() ? value.As<Napi::String>().Utf8Value() : std::string(); }

std::string textOf(const Napi::Object& object, const char* name) { return text(object.Get(name)); }

std::optional<uint32_t> numberOf(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  if (!value.IsNumber()) return std::nullopt;
  return value.As<Napi::Number>().Uint32Value();
}

int64_t integerOf(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  if (value.IsBigInt()) {
    bool lossless = false;
    return static_cast<int64_t>(value.As<Napi::BigInt>().Uint64Value(&lossless));
  }
  return value.IsNumber() ? value.As<Napi::Number>().Int64Value() : 0;
}

bool flagOf(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  return value.IsBoolean() && value.As<Napi::Boolean>().Value();
}

std::vector<uint8_t> bytesOf(const Napi::Value& value) {
  if (!value.IsTypedArray()) return {};
  const auto array = value.As<Napi::Uint8Array>();
  return {array.Data(), array.Data() + array.ByteLength()};
}

}  // namespace aegis::js
