// load(), for JavaScript.
#include "js.hpp"
#include "object.hpp"

namespace aegis::js {

namespace {

template <class Each>
void eachOf(const Napi::Object& object, const char* name, Each each) {
  const Napi::Value value = object.Get(name);
  if (!value.IsArray()) return;
  const auto array = value.As<Napi::Array>();
  for (uint32_t index = 0; index < array.Length(); index++) {
    const Napi::Value one = array.Get(index);
    if (one.IsObject()) each(one.As<Napi::Object>());
  }
}

LoadRequest requestOf(const Napi::CallbackInfo& info) {
  LoadRequest request;
  request.bytes = bytesOf(info[0]);
  if (!info[1].IsObject()) return request;
  const auto options = info[1].As<Napi::Object>();
  request.name = textOf(options, "name");
  request.allPrograms = flagOf(options, "allPrograms");
  request.kernelBtf = bytesOf(options.Get("kernelBtf"));
  if (const auto limit = numberOf(options, "logLimitBytes")) request.logLimitBytes = *limit;
  eachOf(options, "programs", [&](const Napi::Object& one) {
    request.programs.push_back({textOf(one, "name"), numberOf(one, "type"), numberOf(one, "expectedAttachType"), textOf(one, "attachTo"), textOf(one, "offloadInterface")});
  });
  eachOf(options, "maps", [&](const Napi::Object& one) { request.maps.push_back({textOf(one, "name"), textOf(one, "pinPath"), numberOf(one, "maxEntries")}); });
  eachOf(options, "globals", [&](const Napi::Object& one) { request.globals.push_back({textOf(one, "name"), bytesOf(one.Get("bytes"))}); });
  return request;
}

Napi::Value loadedValue(Napi::Env env, Loaded& loaded) {
  Napi::Object value = Napi::Object::New(env);
  Napi::Array programs = Napi::Array::New(env);
  for (LoadedProgram& program : loaded.programs) {
    Napi::Object one = Napi::Object::New(env);
    one.Set("name", program.name);
    one.Set("section", program.section);
    one.Set("type", Napi::Number::New(env, program.type));
    one.Set("expectedAttachType", Napi::Number::New(env, program.expectedAttachType));
    one.Set("handle", handle(env, Kind::program, std::move(program.fd)));
    programs.Set(programs.Length(), one);
  }
  Napi::Array maps = Napi::Array::New(env);
  for (LoadedMap& map : loaded.maps) {
    Napi::Object one = Napi::Object::New(env);
    one.Set("name", map.name);
    one.Set("internal", map.internal);
    one.Set("reused", map.reused);
    one.Set("pinned", map.pinned);
    one.Set("handle", handle(env, Kind::map, std::move(map.fd)));
    maps.Set(maps.Length(), one);
  }
  value.Set("programs", programs);
  value.Set("maps", maps);
  return value;
}

Napi::Value loadObject(const Napi::CallbackInfo& info) {
  auto request = std::make_shared<LoadRequest>(requestOf(info));
  return Task<Loaded>::start(info.Env(), [request] { return load(std::move(*request)); }, loadedValue);
}

}  // namespace

void addObject(Napi::Env, Napi::Object exports) { add(exports, "loadObject", loadObject); }

}  // namespace aegis::js
