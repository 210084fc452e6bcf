// load and inspect, for JavaScript.
#include "inspect.hpp"
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
  request.netns = textOf(options, "netns");
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

class Row {
 public:
  explicit Row(Napi::Env env) : object_(Napi::Object::New(env)) {}
  Row& number(const char* name, double value) {
    object_.Set(name, Napi::Number::New(object_.Env(), value));
    return *this;
  }
  Row& text(const char* name, const std::string& value) {
    object_.Set(name, value);
    return *this;
  }
  Row& flag(const char* name, bool value) {
    object_.Set(name, Napi::Boolean::New(object_.Env(), value));
    return *this;
  }
  Row& bytes(const char* name, const std::vector<uint8_t>& value) {
    object_.Set(name, Napi::Buffer<uint8_t>::Copy(object_.Env(), value.data(), value.size()));
    return *this;
  }
  [[nodiscard]] Napi::Object object() const { return object_; }

 private:
  Napi::Object object_;
};

template <class T, class Describe>
Napi::Array rows(Napi::Env env, const std::vector<T>& all, Describe describe) {
  Napi::Array array = Napi::Array::New(env, all.size());
  for (size_t at = 0; at < all.size(); at++) {
    Row row(env);
    describe(row, all[at]);
    array.Set(static_cast<uint32_t>(at), row.object());
  }
  return array;
}

Napi::Value reportValue(Napi::Env env, ObjectReport& report) {
  Row row(env);
  row.text("license", report.license).flag("hasBtf", report.hasBtf).flag("hasBtfExt", report.hasBtfExt).number("coreRelocations", report.coreRelocations);
  row.bytes("btf", report.btf);
  row.object().Set("programs", rows(env, report.programs, [](Row& one, const ProgramReport& program) {
    one.text("name", program.name).text("section", program.section).number("type", program.type);
    one.number("expectedAttachType", program.expectedAttachType).number("instructions", program.instructions);
  }));
  row.object().Set("maps", rows(env, report.maps, [](Row& one, const MapReport& map) {
    one.text("name", map.name).number("type", map.type).number("keySize", map.keySize).number("valueSize", map.valueSize);
    one.number("maxEntries", map.maxEntries).number("flags", map.flags).flag("internal", map.internal).flag("pinByName", map.pinByName);
  }));
  row.object().Set("globals", rows(env, report.globals, [](Row& one, const GlobalReport& global) {
    one.text("name", global.name).text("section", global.section).number("offset", global.offset).number("size", global.size);
    one.number("typeId", global.typeId).text("typeName", global.typeName).bytes("initial", global.initial);
  }));
  row.object().Set("externs", rows(env, report.externs, [](Row& one, const ExternReport& external) {
    one.text("name", external.name).flag("function", external.function).text("section", external.section);
  }));
  return row.object();
}

Napi::Value inspectValue(const Napi::CallbackInfo& info) {
  auto bytes = std::make_shared<std::vector<uint8_t>>(bytesOf(info[0]));
  return Task<ObjectReport>::start(info.Env(), [bytes] { return inspectObject(*bytes); }, reportValue);
}

}  // namespace

void addObject(Napi::Env, Napi::Object exports) {
  add(exports, "loadObject", loadObject);
  add(exports, "inspectObject", inspectValue);
}

}  // namespace aegis::js
