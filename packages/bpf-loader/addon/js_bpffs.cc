// The bpf file system, for JavaScript: (root, names) → folders and pins. Short calls on a file system in memory, made at once.
#include "bpffs.hpp"
#include "js.hpp"

namespace aegis::js {

namespace {

Names namesOf(const Napi::Value& value) {
  Names names;
  if (!value.IsArray()) return names;
  const auto array = value.As<Napi::Array>();
  for (uint32_t at = 0; at < array.Length(); at++) names.push_back(text(array.Get(at)));
  return names;
}

Napi::Value mount(const Napi::CallbackInfo& call) {
  if (Status status = mountBpffs(text(call[0])); !status) raise(call.Env(), status.failure());
  return call.Env().Undefined();
}

Napi::Value make(const Napi::CallbackInfo& call) {
  if (Status status = makeFolders(text(call[0]), namesOf(call[1])); !status) raise(call.Env(), status.failure());
  return call.Env().Undefined();
}

Napi::Value list(const Napi::CallbackInfo& call) {
  Result<std::vector<Entry>> entries = listFolder(text(call[0]), namesOf(call[1]));
  if (!entries) {
    raise(call.Env(), entries.failure());
    return call.Env().Undefined();
  }
  Napi::Array array = Napi::Array::New(call.Env(), entries->size());
  for (size_t at = 0; at < entries->size(); at++) {
    const Entry& entry = (*entries)[at];
    Napi::Object one = Napi::Object::New(call.Env());
    one.Set("name", entry.name);
    one.Set("kind", entry.kind == Entry::folder ? "folder" : entry.kind == Entry::pin ? "pin" : "other");
    array.Set(static_cast<uint32_t>(at), one);
  }
  return array;
}

Napi::Value unpin(const Napi::CallbackInfo& call) {
  Result<bool> gone = removePin(text(call[0]), namesOf(call[1]));
  if (gone) return Napi::Boolean::New(call.Env(), *gone);
  raise(call.Env(), gone.failure());
  return call.Env().Undefined();
}

Napi::Value tree(const Napi::CallbackInfo& call) {
  Result<uint32_t> removed = removeTree(text(call[0]), namesOf(call[1]));
  if (removed) return Napi::Number::New(call.Env(), *removed);
  raise(call.Env(), removed.failure());
  return call.Env().Undefined();
}

}  // namespace

void addBpffs(Napi::Env, Napi::Object exports) {
  add(exports, "mountBpffs", mount);
  add(exports, "makeFolders", make);
  add(exports, "listFolder", list);
  add(exports, "removePin", unpin);
  add(exports, "removeTree", tree);
}

}  // namespace aegis::js
