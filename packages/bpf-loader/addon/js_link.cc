// Links, programs and pins, for JavaScript. All but test runs are short system calls and are made at once.
#include <bpf/bpf.h>
#include <unistd.h>

#include <cerrno>

#include "js.hpp"
#include "link.hpp"
#include "program.hpp"

namespace aegis::js {

namespace {

Napi::Value linkInfoValue(const Napi::CallbackInfo& call) {
  const auto fd = held(call[0], Kind::link);
  if (!fd) return call.Env().Undefined();
  Result<LinkInfo> info = linkInfo(fd->get());
  if (!info) {
    raise(call.Env(), info.failure());
    return call.Env().Undefined();
  }
  Napi::Object value = Napi::Object::New(call.Env());
  value.Set("id", Napi::Number::New(call.Env(), info->id));
  value.Set("kind", info->kind);
  value.Set("programId", Napi::Number::New(call.Env(), info->programId));
  setIf(value, "ifindex", info->ifindex);
  setIf(value, "attachType", info->attachType);
  setIf(value, "cgroupId", info->cgroupId);
  setIf(value, "netnsInode", info->netnsInode);
  setIf(value, "name", info->name);
  setIf(value, "family", info->family);
  setIf(value, "hook", info->hook);
  setIf(value, "priority", info->priority);
  setIf(value, "offset", info->offset);
  return value;
}

Napi::Value programInfoValue(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  const auto fd = held(call[0], Kind::program);
  if (!fd) return env.Undefined();
  Result<ProgramInfo> info = programInfo(fd->get());
  if (!info) {
    raise(env, info.failure());
    return env.Undefined();
  }
  Napi::Object value = Napi::Object::New(env);
  const auto set = [&](const char* name, double number) { value.Set(name, Napi::Number::New(env, number)); };
  set("id", info->id);
  value.Set("name", info->name);
  set("type", info->type);
  value.Set("tag", info->tag);
  Napi::Array maps = Napi::Array::New(env);
  for (const uint32_t id : info->mapIds) maps.Set(maps.Length(), Napi::Number::New(env, id));
  value.Set("mapIds", maps);
  set("btfId", info->btfId);
  set("loadedAt", info->loadedAt);
  set("runCount", static_cast<double>(info->runCount));
  set("runTimeNs", static_cast<double>(info->runTimeNs));
  set("instructions", info->instructions);
  set("jitedBytes", info->jitedBytes);
  set("verifiedInstructions", info->verifiedInstructions);
  set("memlockBytes", static_cast<double>(info->memlockBytes));
  return value;
}

Napi::Value finish(const Napi::CallbackInfo& call, Status status) {
  if (!status) raise(call.Env(), status.failure());
  return call.Env().Undefined();
}

Napi::Value update(const Napi::CallbackInfo& call) {
  const auto link = held(call[0], Kind::link);
  const auto program = link ? held(call[1], Kind::program) : nullptr;
  if (!program) return call.Env().Undefined();
  std::shared_ptr<Descriptor> expected;
  if (!call[2].IsUndefined()) {
    expected = held(call[2], Kind::program);
    if (!expected) return call.Env().Undefined();
  }
  return finish(call, updateLink(link->get(), program->get(), expected ? expected->get() : -1));
}

Napi::Value detach(const Napi::CallbackInfo& call) {
  const auto link = held(call[0], Kind::link);
  return link ? finish(call, detachLink(link->get())) : call.Env().Undefined();
}

Napi::Value pin(const Napi::CallbackInfo& call) {
  const auto fd = anyHeld(call[0]);
  return fd ? finish(call, pinObject(fd->get(), text(call[1]))) : call.Env().Undefined();
}

Napi::Value close(const Napi::CallbackInfo& call) {
  closeHandle(call[0]);
  return call.Env().Undefined();
}

Kind kindOf(const Napi::Value& value) {
  const std::string name = text(value);
  return name == "program" ? Kind::program : name == "map" ? Kind::map : Kind::link;
}

// Which kind an object of the kernel is, by its descriptor's name in /proc; the kernel has no other word for it.
std::optional<Kind> kindOfFd(int fd) {
  char name[64];
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t size = readlink(path.c_str(), name, sizeof name - 1);
  const std::string found(name, size < 0 ? 0 : static_cast<size_t>(size));
  if (found.find("bpf-prog") != std::string::npos) return Kind::program;
  if (found.find("bpf-map") != std::string::npos) return Kind::map;
  if (found.find("bpf_link") != std::string::npos || found.find("bpf-link") != std::string::npos) return Kind::link;
  return std::nullopt;
}

// openPin(kind, path)
Napi::Value openPin(const Napi::CallbackInfo& call) {
  const std::string path = text(call[1]);
  Descriptor fd(bpf_obj_get(path.c_str()));
  if (!fd.valid()) {
    const int error = errno;
    if (error == ENOENT)
      raise(call.Env(), {.code = "bpf.not_found", .message = "Nothing is pinned at " + path + ".", .error = error});
    else
      raise(call.Env(), failureOf(error, "Cannot open what is pinned at " + path, "bpf.not_found"));
    return call.Env().Undefined();
  }
  const Kind kind = kindOf(call[0]);
  if (kindOfFd(fd.get()) != kind) {
    raise(call.Env(), {.code = "bpf.invalid", .message = "What is pinned at " + path + " is not a " + text(call[0]) + ".", .error = EINVAL});
    return call.Env().Undefined();
  }
  return handle(call.Env(), kind, std::move(fd));
}

// openId(kind, id)
Napi::Value openId(const Napi::CallbackInfo& call) {
  const Kind kind = kindOf(call[0]);
  const uint32_t id = call[1].IsNumber() ? call[1].As<Napi::Number>().Uint32Value() : 0;
  Descriptor fd(kind == Kind::program ? bpf_prog_get_fd_by_id(id) : kind == Kind::map ? bpf_map_get_fd_by_id(id) : bpf_link_get_fd_by_id(id));
  if (fd.valid()) return handle(call.Env(), kind, std::move(fd));
  const int error = errno;
  const std::string what = text(call[0]) + " " + std::to_string(id);
  if (error == ENOENT)
    raise(call.Env(), {.code = "bpf.not_found", .message = "The kernel has no " + what + ".", .error = error});
  else
    raise(call.Env(), failureOf(error, "Cannot open " + what));
  return call.Env().Undefined();
}

Napi::Value runTest(const Napi::CallbackInfo& call) {
  const auto fd = held(call[0], Kind::program);
  if (!fd) return call.Env().Undefined();
  TestRun run{bytesOf(call[1]), bytesOf(call[2]), call[3].IsNumber() ? call[3].As<Napi::Number>().Uint32Value() : 1};
  return Task<TestOutcome>::start(
      call.Env(), [fd, run = std::move(run)] { return testRun(fd->get(), run); },
      [](Napi::Env env, TestOutcome& outcome) -> Napi::Value {
        Napi::Object value = Napi::Object::New(env);
        value.Set("returned", Napi::Number::New(env, outcome.returned));
        value.Set("durationNs", Napi::Number::New(env, outcome.durationNs));
        value.Set("data", Napi::Buffer<uint8_t>::Copy(env, outcome.data.data(), outcome.data.size()));
        value.Set("context", Napi::Buffer<uint8_t>::Copy(env, outcome.context.data(), outcome.context.size()));
        return value;
      });
}

}  // namespace

void addLink(Napi::Env, Napi::Object exports) {
  add(exports, "linkInfo", linkInfoValue);
  add(exports, "programInfo", programInfoValue);
  add(exports, "updateLink", update);
  add(exports, "detachLink", detach);
  add(exports, "pin", pin);
  add(exports, "close", close);
  add(exports, "openPin", openPin);
  add(exports, "openId", openId);
  add(exports, "testRun", runTest);
}

}  // namespace aegis::js
