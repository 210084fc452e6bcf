// The kernel's lists and hooks, for JavaScript.
#include "js.hpp"
#include "kernel.hpp"

namespace aegis::js {

namespace {

Napi::Array numbers(Napi::Env env, const std::vector<uint32_t>& all) {
  Napi::Array array = Napi::Array::New(env, all.size());
  for (size_t at = 0; at < all.size(); at++) array.Set(static_cast<uint32_t>(at), Napi::Number::New(env, all[at]));
  return array;
}

uint32_t number(const Napi::Value& value) { return value.IsNumber() ? value.As<Napi::Number>().Uint32Value() : 0; }

// listIds(kind)
Napi::Value listIds(const Napi::CallbackInfo& call) {
  const std::string kind = text(call[0]);
  Result<std::vector<uint32_t>> ids = allIds(kind == "program" ? IdKind::program : kind == "map" ? IdKind::map : kind == "link" ? IdKind::link : IdKind::btf);
  if (ids) return numbers(call.Env(), *ids);
  raise(call.Env(), ids.failure());
  return call.Env().Undefined();
}

Napi::Value xdpState(const Napi::CallbackInfo& call) {
  return Task<XdpState>::start(
      call.Env(), [interface = text(call[0]), netns = text(call[1])] { return queryXdp(interface, netns); },
      [](Napi::Env env, XdpState& state) -> Napi::Value {
        Napi::Object value = Napi::Object::New(env);
        value.Set("ifindex", Napi::Number::New(env, state.ifindex));
        value.Set("native", Napi::Number::New(env, state.native));
        value.Set("generic", Napi::Number::New(env, state.generic));
        value.Set("offload", Napi::Number::New(env, state.offload));
        return value;
      });
}

Napi::Value hookValue(Napi::Env env, HookState& state) {
  Napi::Object value = Napi::Object::New(env);
  value.Set("programs", numbers(env, state.programs));
  value.Set("links", numbers(env, state.links));
  setIf(value, "revision", state.revision);
  return value;
}

// tcxState(interface, attachType, netns), cgroupState(path, attachType, effective), netnsState(path, attachType)
Napi::Value tcxState(const Napi::CallbackInfo& call) {
  return Task<HookState>::start(
      call.Env(), [interface = text(call[0]), type = number(call[1]), netns = text(call[2])] { return queryTcx(interface, type, netns); }, hookValue);
}

Napi::Value cgroupState(const Napi::CallbackInfo& call) {
  const bool effective = call[2].IsBoolean() && call[2].As<Napi::Boolean>().Value();
  return Task<HookState>::start(
      call.Env(), [cgroup = text(call[0]), type = number(call[1]), effective] { return queryCgroup(cgroup, type, effective); }, hookValue);
}

Napi::Value netnsState(const Napi::CallbackInfo& call) {
  return Task<HookState>::start(
      call.Env(), [netns = text(call[0]), type = number(call[1])] { return queryNetns(netns, type); }, hookValue);
}

Napi::Value stats(const Napi::CallbackInfo& call) {
  Result<Descriptor> fd = enableStats();
  if (fd) return handle(call.Env(), Kind::hold, std::move(*fd));
  raise(call.Env(), fd.failure());
  return call.Env().Undefined();
}

Napi::Value btf(const Napi::CallbackInfo& call) {
  Result<std::vector<uint8_t>> bytes = btfBytes(number(call[0]));
  if (bytes) return Napi::Buffer<uint8_t>::Copy(call.Env(), bytes->data(), bytes->size());
  raise(call.Env(), bytes.failure());
  return call.Env().Undefined();
}

Napi::Value ifindex(const Napi::CallbackInfo& call) {
  return Task<unsigned int>::start(
      call.Env(), [interface = text(call[0]), netns = text(call[1])] { return interfaceIndexIn(interface, netns); },
      [](Napi::Env env, unsigned int& index) -> Napi::Value { return Napi::Number::New(env, index); });
}

}  // namespace

void addKernel(Napi::Env, Napi::Object exports) {
  add(exports, "listIds", listIds);
  add(exports, "xdpState", xdpState);
  add(exports, "tcxState", tcxState);
  add(exports, "cgroupState", cgroupState);
  add(exports, "netnsState", netnsState);
  add(exports, "enableStats", stats);
  add(exports, "btfBytes", btf);
  add(exports, "interfaceIndex", ifindex);
}

}  // namespace aegis::js
