// namespaceFacts(netns, withRoutes), for JavaScript.
#include "js.hpp"
#include "network.hpp"

namespace aegis::js {

namespace {

Napi::Value factsValue(Napi::Env env, NamespaceFacts& facts) {
  Napi::Object value = Napi::Object::New(env);
  value.Set("inode", Napi::Number::New(env, static_cast<double>(facts.inode)));
  Napi::Array interfaces = Napi::Array::New(env, facts.interfaces.size());
  for (uint32_t at = 0; at < facts.interfaces.size(); at++) {
    Napi::Object one = Napi::Object::New(env);
    one.Set("name", facts.interfaces[at].first);
    one.Set("index", Napi::Number::New(env, facts.interfaces[at].second));
    interfaces.Set(at, one);
  }
  value.Set("interfaces", interfaces);
  value.Set("routes", facts.routes);
  value.Set("routes6", facts.routes6);
  return value;
}

Napi::Value readFacts(const Napi::CallbackInfo& info) {
  return Task<NamespaceFacts>::start(
      info.Env(), [netns = text(info[0]), withRoutes = info[1].ToBoolean().Value()] { return namespaceFacts(netns, withRoutes); }, factsValue);
}

}  // namespace

void addNetwork(Napi::Env, Napi::Object exports) { add(exports, "namespaceFacts", readFacts); }

}  // namespace aegis::js
