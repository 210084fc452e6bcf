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

TcTarget tcTargetOf(const Napi::Value& value) {
  if (!value.IsObject()) return {};
  const auto target = value.As<Napi::Object>();
  return {textOf(target, "interface"), flagOf(target, "egress"), numberOf(target, "priority").value_or(0), numberOf(target, "handle").value_or(0),
          textOf(target, "netns")};
}

// tcAttach(program, target, replace)
Napi::Value tcAttach(const Napi::CallbackInfo& info) {
  const Call call = callOf(info);
  if (!call.program) return info.Env().Undefined();
  const uint32_t replace = info[2].IsNumber() ? info[2].As<Napi::Number>().Uint32Value() : 0;
  return Task<TcFilter>::start(
      info.Env(), [program = call.program, target = tcTargetOf(*call.target), replace] { return attachTc(program->get(), target, replace); },
      [](Napi::Env env, TcFilter& filter) -> Napi::Value {
        Napi::Object value = Napi::Object::New(env);
        value.Set("programId", Napi::Number::New(env, filter.programId));
        value.Set("madeQdisc", Napi::Boolean::New(env, filter.madeQdisc));
        return value;
      });
}

// tcQuery(target), tcDetach(target, programId, removeQdisc)
Napi::Value tcQuery(const Napi::CallbackInfo& info) {
  return Task<uint32_t>::start(
      info.Env(), [target = tcTargetOf(info[0])] { return queryTc(target); },
      [](Napi::Env env, uint32_t& id) -> Napi::Value { return Napi::Number::New(env, id); });
}

Napi::Value tcDetach(const Napi::CallbackInfo& info) {
  const uint32_t expected = info[1].IsNumber() ? info[1].As<Napi::Number>().Uint32Value() : 0;
  const bool qdisc = info[2].IsBoolean() && info[2].As<Napi::Boolean>().Value();
  return Task<bool>::start(
      info.Env(), [target = tcTargetOf(info[0]), expected, qdisc] { return detachTc(target, expected, qdisc); },
      [](Napi::Env env, bool& removed) -> Napi::Value { return Napi::Boolean::New(env, removed); });
}

// socketAttach(program, target): a handle that holds the socket.
Napi::Value socketAttach(const Napi::CallbackInfo& info) {
  const Call call = callOf(info);
  if (!call.program) return info.Env().Undefined();
  return Task<Descriptor>::start(
      info.Env(), [program = call.program, target = SocketTarget{textOf(*call.target, "interface"), textOf(*call.target, "netns")}] { return attachSocket(program->get(), target); },
      [](Napi::Env env, Descriptor& socket) { return handle(env, Kind::hold, std::move(socket)); });
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
  add(exports, "tcAttach", tcAttach);
  add(exports, "tcQuery", tcQuery);
  add(exports, "tcDetach", tcDetach);
  add(exports, "socketAttach", socketAttach);
}

}  // namespace aegis::js
