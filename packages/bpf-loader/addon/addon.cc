// The addon's table of functions. Layers: js*.cc speak N-API; everything else is plain C++ over libbpf and system calls, without
// JavaScript, and serves the fuzz harness too.
#include "js.hpp"

namespace {

Napi::Object init(Napi::Env env, Napi::Object exports) {
  aegis::js::addObject(env, exports);
  aegis::js::addAttach(env, exports);
  aegis::js::addLink(env, exports);
  aegis::js::addMap(env, exports);
  aegis::js::addKernel(env, exports);
  aegis::js::addRings(env, exports);
  aegis::js::addBpffs(env, exports);
  aegis::js::addNetwork(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(aegis_bpf, init)
