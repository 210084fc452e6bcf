// Maps, for JavaScript. One element is one short system call, made at once; a dump is a task.
#include "js.hpp"
#include "map.hpp"

namespace aegis::js {

namespace {

struct OpenMap {
  std::shared_ptr<Descriptor> fd;
  MapInfo info;
};

std::optional<OpenMap> openMap(const Napi::CallbackInfo& call) {
  const auto fd = held(call[0], Kind::map);
  if (!fd) return std::nullopt;
  Result<MapInfo> info = mapInfo(fd->get());
  if (info) return OpenMap{fd, std::move(*info)};
  raise(call.Env(), info.failure());
  return std::nullopt;
}

Napi::Value buffer(Napi::Env env, const Bytes& bytes) { return Napi::Buffer<uint8_t>::Copy(env, bytes.data(), bytes.size()); }

Napi::Value infoValue(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  const auto map = openMap(call);
  if (!map) return env.Undefined();
  const MapInfo& info = map->info;
  Napi::Object value = Napi::Object::New(env);
  const auto set = [&](const char* name, double number) { value.Set(name, Napi::Number::New(env, number)); };
  set("id", info.id);
  value.Set("name", info.name);
  set("type", info.type);
  set("keySize", info.keySize);
  set("valueSize", info.valueSize);
  set("maxEntries", info.maxEntries);
  set("flags", info.flags);
  set("btfId", info.btfId);
  set("btfKeyTypeId", info.btfKeyTypeId);
  set("btfValueTypeId", info.btfValueTypeId);
  const MapState state = mapState(map->fd->get());
  value.Set("frozen", Napi::Boolean::New(env, state.frozen));
  set("memlockBytes", static_cast<double>(state.memlockBytes));
  set("elementBytes", info.elementBytes);
  set("cpus", info.cpus);
  return value;
}

// mapLookup(map, key, remove): bytes, or undefined.
Napi::Value lookup(const Napi::CallbackInfo& call) {
  const auto map = openMap(call);
  if (!map) return call.Env().Undefined();
  Result<std::optional<Bytes>> found = mapLookup(map->fd->get(), map->info, bytesOf(call[1]), call[2].IsBoolean() && call[2].As<Napi::Boolean>().Value());
  if (found && *found) return buffer(call.Env(), **found);
  if (!found) raise(call.Env(), found.failure());
  return call.Env().Undefined();
}

// mapUpdate(map, key, value, flags)
Napi::Value update(const Napi::CallbackInfo& call) {
  const auto map = openMap(call);
  if (!map) return call.Env().Undefined();
  const uint64_t flags = call[3].IsNumber() ? call[3].As<Napi::Number>().Uint32Value() : 0;
  if (Status status = mapUpdate(map->fd->get(), map->info, bytesOf(call[1]), bytesOf(call[2]), flags); !status) raise(call.Env(), status.failure());
  return call.Env().Undefined();
}

Napi::Value remove(const Napi::CallbackInfo& call) {
  const auto map = openMap(call);
  if (!map) return call.Env().Undefined();
  Result<bool> gone = mapDelete(map->fd->get(), map->info, bytesOf(call[1]));
  if (gone) return Napi::Boolean::New(call.Env(), *gone);
  raise(call.Env(), gone.failure());
  return call.Env().Undefined();
}

// mapDump(map, limit, maxBytes)
Napi::Value dump(const Napi::CallbackInfo& call) {
  const auto map = openMap(call);
  if (!map) return call.Env().Undefined();
  const uint32_t limit = call[1].IsNumber() ? call[1].As<Napi::Number>().Uint32Value() : 0;
  const uint64_t maxBytes = call[2].IsNumber() ? static_cast<uint64_t>(call[2].As<Napi::Number>().Int64Value()) : 0;
  return Task<MapDump>::start(
      call.Env(), [map = *map, limit, maxBytes] { return mapDump(map.fd->get(), map.info, limit, maxBytes); },
      [](Napi::Env env, MapDump& found) -> Napi::Value {
        Napi::Object value = Napi::Object::New(env);
        value.Set("count", Napi::Number::New(env, found.count));
        value.Set("complete", Napi::Boolean::New(env, found.complete));
        value.Set("keys", buffer(env, found.keys));
        value.Set("values", buffer(env, found.values));
        return value;
      });
}

Napi::Value freeze(const Napi::CallbackInfo& call) {
  const auto map = held(call[0], Kind::map);
  if (!map) return call.Env().Undefined();
  if (Status status = mapFreeze(map->get()); !status) raise(call.Env(), status.failure());
  return call.Env().Undefined();
}

}  // namespace

void addMap(Napi::Env, Napi::Object exports) {
  add(exports, "mapInfo", infoValue);
  add(exports, "mapLookup", lookup);
  add(exports, "mapUpdate", update);
  add(exports, "mapDelete", remove);
  add(exports, "mapDump", dump);
  add(exports, "mapFreeze", freeze);
}

}  // namespace aegis::js
