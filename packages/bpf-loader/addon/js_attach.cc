// attach…(program, target, pinPath), for JavaScript: one function for each mechanism; which kind is which stands in src/attach.ts.
#include "attach.hpp"
#include "js.hpp"

namespace aegis::js {

namespace {

struct Call {
  std::shared_ptr<Descriptor> program;
  std::optional<Napi::Object> target;
  std::string pinPath;
};

Call callOf(const Napi::CallbackInfo& info) {
  Call call;
  if (!info[1].IsObject()) {
    raise(info.Env(), {.code = "bpf.invalid", .message = "An attachment needs a target."});
    return call;
  }
  call.program = held(info[0], Kind::program);
  call.target = info[1].As<Napi::Object>();
  call.pinPath = text(info[2]);
  return call;
}

Napi::Value linkValue(Napi::Env env, LinkFd& link) { return handle(env, Kind::link, std::move(link)); }

template <class Target>
Napi::Value startLink(const Napi::CallbackInfo& info, const Call& call, Target target, Result<LinkFd> (*attach)(int, const Target&, const std::string&)) {
  return Task<LinkFd>::start(
      info.Env(), [program = call.program, pinPath = call.pinPath, target = std::move(target), attach] { return attach(program->get(), target, pinPath); }, linkValue);
}

Napi::Value xdp(const Napi::CallbackInfo& info) {
  const Call call = callOf(info);
  if (!call.program) return info.Env().Undefined();
  return startLink(info, call, XdpTarget{textOf(*call.target, "interface"), numberOf(*call.target, "flags").value_or(0), textOf(*call.target, "netns")}, attachXdp);
}

Napi::Value tcx(const Napi::CallbackInfo& info) {
  const Call call = callOf(info);
  if (!call.program) return info.Env().Undefined();
  const Napi::Object& target = *call.target;
  return startLink(info, call,
                   TcxTarget{textOf(target, "interface"), numberOf(target, "attachType").value_or(0), numberOf(target, "flags").value_or(0),
                             numberOf(target, "relative").value_or(0), textOf(target, "netns")},
                   attachTcx);
}

Napi::Value netfilter(const Napi::CallbackInfo& info) {
  const Call call = callOf(info);
  if (!call.program) return info.Env().Undefined();
  const Napi::Object& target = *call.target;
  return startLink(info, call,
                   NetfilterTarget{numberOf(target, "family").value_or(0), numberOf(target, "hook").value_or(0),
                                   static_cast<int32_t>(integerOf(target, "priority")), textOf(target, "netns")},
                   attachNetfilter);
}

Napi::Value perf(const Napi::CallbackInfo& info) {
  const Call call = callOf(info);
  if (!call.program) return info.Env().Undefined();
  const Napi::Object& target = *call.target;
  return startLink(info, call,
                   PerfTarget{numberOf(target, "type").value_or(0), static_cast<uint64_t>(integerOf(target, "config")), textOf(target, "text"),
                              static_cast<uint64_t>(integerOf(target, "offset")), static_cast<uint64_t>(integerOf(target, "period")),
                              static_cast<uint64_t>(integerOf(target, "frequency")), static_cast<int>(integerOf(target, "pid")),
                              static_cast<int>(integerOf(target, "cpu"))},
                   attachPerf);
}

struct NamedTarget {
  std::string name;
  uint32_t attachType;
};

NamedTarget namedOf(const Napi::Object& target) { return {textOf(target, "name"), numberOf(target, "attachType").value_or(0)}; }

Napi::Value cgroup(const Napi::CallbackInfo& info) {
  const Call call = callOf(info);
  if (!call.program) return info.Env().Undefined();
  return startLink<NamedTarget>(info, call, namedOf(*call.target), [](int program, const NamedTarget& target, const std::string& pinPath) {
    return attachCgroup(program, target.name, target.attachType, pinPath);
  });
}

Napi::Value netns(const Napi::CallbackInfo& info) {
  const Call call = callOf(info);
  if (!call.program) return info.Env().Undefined();
  return startLink<NamedTarget>(info, call, namedOf(*call.target), [](int program, const NamedTarget& target, const std::string& pinPath) {
    return attachNetns(program, target.name, target.attachType, pinPath);
  });
}

Napi::Value tracing(const Napi::CallbackInfo& info) {
  const Call call = callOf(info);
  if (!call.program) return info.Env().Undefined();
  return startLink<NamedTarget>(info, call, namedOf(*call.target), [](int program, const NamedTarget& target, const std::string& pinPath) {
    return attachTracing(program, target.attachType, pinPath);
  });
}

Napi::Value rawTracepoint(const Napi::CallbackInfo& info) {
  const Call call = callOf(info);
  if (!call.program) return info.Env().Undefined();
  return startLink<NamedTarget>(info, call, namedOf(*call.target), [](int program, const NamedTarget& target, const std::string& pinPath) {
    return attachRawTracepoint(program, target.name, pinPath);
  });
}

Napi::Value findSymbol(const Napi::CallbackInfo& info) {
  return Task<uint64_t>::start(
      info.Env(), [binary = text(info[0]), symbol = text(info[1])] { return symbolOffset(binary, symbol); },
      [](Napi::Env env, uint64_t& offset) -> Napi::Value { return Napi::Number::New(env, static_cast<double>(offset)); });
}

}  // namespace

void addAttach(Napi::Env, Napi::Object exports) {
  add(exports, "attachXdp", xdp);
  add(exports, "attachTcx", tcx);
  add(exports, "attachNetfilter", netfilter);
  add(exports, "attachPerf", perf);
  add(exports, "attachCgroup", cgroup);
  add(exports, "attachNetns", netns);
  add(exports, "attachTracing", tracing);
  add(exports, "attachRawTracepoint", rawTracepoint);
  add(exports, "symbolOffset", findSymbol);
}

}  // namespace aegis::js
