// Ring readers, for JavaScript: openRing, takeRing, awaitRing (one call back when there is something), closeRing. JavaScript asks for
// each batch, so a slow reader holds nothing back but its own ring.
#include <uv.h>

#include <cerrno>

#include "js.hpp"
#include "ring.hpp"

namespace aegis::js {

namespace {

constexpr napi_type_tag kTag{0x6165676973627066, 0x72696e6772656164};

// Owned by libuv from start to the close callback: it must outlive the JavaScript handle, and be gone before the environment is.
struct Poll {
  uv_poll_t handle{};
  napi_async_cleanup_hook_handle cleanup = nullptr;
  Napi::FunctionReference callback;
  std::shared_ptr<Napi::AsyncContext> context;
  std::unique_ptr<RingReader> reader;
  Poll** owner = nullptr;
  bool closing = false;

  static Poll* of(uv_poll_t* handle) { return static_cast<Poll*>(handle->data); }

  void close() {
    if (closing) return;
    closing = true;
    if (owner) *owner = nullptr;
    callback.Reset();
    context.reset();
    uv_poll_stop(&handle);
    uv_close(reinterpret_cast<uv_handle_t*>(&handle), [](uv_handle_t* closed) {
      auto* poll = static_cast<Poll*>(closed->data);
      napi_remove_async_cleanup_hook(poll->cleanup);
      delete poll;
    });
  }
};

struct Ring {
  Poll* poll = nullptr;
  Ring() = default;
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  ~Ring() {
    if (!poll) return;
    poll->owner = nullptr;
    poll->close();
  }
};

Ring* ringOf(const Napi::Value& value) {
  if (!value.IsExternal()) return nullptr;
  auto external = value.As<Napi::External<Ring>>();
  return external.CheckTypeTag(&kTag) ? external.Data() : nullptr;
}

Poll* openPoll(const Napi::Value& value) {
  const Ring* ring = ringOf(value);
  if (ring && ring->poll) return ring->poll;
  raise(value.Env(), {.code = "bpf.invalid", .message = "This reader is closed.", .error = EBADF});
  return nullptr;
}

// openRing(map, perfPages)
Napi::Value openRing(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  const auto map = held(call[0], Kind::map);
  if (!map) return env.Undefined();
  Result<std::unique_ptr<RingReader>> reader = RingReader::open(map->get(), call[1].IsNumber() ? call[1].As<Napi::Number>().Uint32Value() : 0);
  uv_loop_t* loop = nullptr;
  if (!reader) {
    raise(env, reader.failure());
    return env.Undefined();
  }
  auto* poll = new Poll();
  poll->reader = std::move(*reader);
  const bool started = napi_get_uv_event_loop(env, &loop) == napi_ok && uv_poll_init(loop, &poll->handle, poll->reader->pollFd()) == 0;
  if (!started) {
    delete poll;
    raise(env, {.code = "bpf.failed", .message = "Cannot watch the stream.", .error = EIO});
    return env.Undefined();
  }
  poll->handle.data = poll;
  napi_add_async_cleanup_hook(
      env, [](napi_async_cleanup_hook_handle, void* data) { static_cast<Poll*>(data)->close(); }, poll, &poll->cleanup);
  auto ring = std::make_unique<Ring>();
  ring->poll = poll;
  poll->owner = &ring->poll;
  auto external = Napi::External<Ring>::New(env, ring.get(), [](Napi::Env, Ring* mine) { delete mine; });
  static_cast<void>(ring.release());  // JavaScript's from here on
  external.TypeTag(&kTag);
  return external;
}

// takeRing(ring, maxRecords, maxBytes)
Napi::Value takeRing(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  Poll* poll = openPoll(call[0]);
  if (!poll) return env.Undefined();
  Result<RecordBatch> batch = poll->reader->take(call[1].As<Napi::Number>().Uint32Value(), call[2].As<Napi::Number>().Uint32Value());
  if (!batch) {
    raise(env, batch.failure());
    return env.Undefined();
  }
  Napi::Object value = Napi::Object::New(env);
  value.Set("bytes", Napi::Buffer<uint8_t>::Copy(env, batch->bytes.data(), batch->bytes.size()));
  Napi::Uint32Array lengths = Napi::Uint32Array::New(env, batch->lengths.size());
  for (size_t at = 0; at < batch->lengths.size(); at++) lengths[at] = batch->lengths[at];
  value.Set("lengths", lengths);
  value.Set("lost", Napi::Number::New(env, static_cast<double>(batch->lost)));
  return value;
}

void onReadable(uv_poll_t* handle, int, int) {
  Poll* poll = Poll::of(handle);
  uv_poll_stop(handle);
  if (poll->callback.IsEmpty()) return;
  const Napi::Env env = poll->callback.Env();
  const Napi::HandleScope scope(env);
  try {
    // Taken out first: the callback may wait again, or close.
    const Napi::Function callback = poll->callback.Value();
    const std::shared_ptr<Napi::AsyncContext> context = poll->context;
    poll->callback.Reset();
    callback.MakeCallback(env.Global(), {}, *context);
  } catch (const Napi::Error& error) {
    // As from any callback of libuv's: an uncaught exception of JavaScript's. Says nothing when the environment is ending.
    napi_fatal_exception(env, error.Value());
  }
}

// awaitRing(ring, callback)
Napi::Value awaitRing(const Napi::CallbackInfo& call) {
  Poll* poll = openPoll(call[0]);
  if (!poll) return call.Env().Undefined();
  if (!call[1].IsFunction() || !poll->callback.IsEmpty()) {
    raise(call.Env(), {.code = "bpf.invalid", .message = "A stream has one reader that waits.", .error = EBUSY});
    return call.Env().Undefined();
  }
  poll->callback = Napi::Persistent(call[1].As<Napi::Function>());
  if (!poll->context) poll->context = std::make_shared<Napi::AsyncContext>(call.Env(), "aegis:bpf-ring");
  uv_poll_start(&poll->handle, UV_READABLE, onReadable);
  return call.Env().Undefined();
}

Napi::Value closeRing(const Napi::CallbackInfo& call) {
  Ring* ring = ringOf(call[0]);
  if (ring && ring->poll) ring->poll->close();
  return call.Env().Undefined();
}

}  // namespace

void addRings(Napi::Env, Napi::Object exports) {
  add(exports, "openRing", openRing);
  add(exports, "takeRing", takeRing);
  add(exports, "awaitRing", awaitRing);
  add(exports, "closeRing", closeRing);
}

}  // namespace aegis::js
