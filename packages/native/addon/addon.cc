// The calls that Node.js lacks. TypeScript checks arguments and owns policy; here are only descriptors and system calls.
#include "arguments.hpp"

#include <cstddef>
#include <fcntl.h>
#include <string>
#include <sys/socket.h>
#include <sys/un.h>

using aegis::Descriptor;

namespace {

void throwErrno(Napi::Env env, const std::string& what) {
  const int number = errno;
  Napi::Error error = Napi::Error::New(env, what + ": " + std::strerror(number));
  error.Set("errno", Napi::Number::New(env, number));
  error.ThrowAsJavaScriptException();
}

// sdNotify(socket, state): one datagram, never blocking. False when it could not be sent.
Napi::Value sdNotify(const Napi::CallbackInfo& info) {
  const std::string path = info[0].ToString();
  const std::string state = info[1].ToString();
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() < 2 || path.size() >= sizeof address.sun_path || (path[0] != '/' && path[0] != '@')) return Napi::Boolean::New(info.Env(), false);
  std::memcpy(address.sun_path, path.data(), path.size());
  if (path[0] == '@') address.sun_path[0] = '\0';
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
  const Descriptor socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const bool sent = socket.valid() && sendto(socket.get(), state.data(), state.size(), MSG_NOSIGNAL | MSG_DONTWAIT,
                                             reinterpret_cast<const sockaddr*>(&address), size) == static_cast<ssize_t>(state.size());
  return Napi::Boolean::New(info.Env(), sent);
}

// lockHeld(path): whether another open file description holds a lock on it. False when there is no such file.
Napi::Value lockHeld(const Napi::CallbackInfo& info) {
  const std::string path = info[0].ToString();
  const Descriptor file(open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
  if (!file.valid()) {
    if (errno == ENOENT) return Napi::Boolean::New(info.Env(), false);
    throwErrno(info.Env(), "cannot open " + path);
    return info.Env().Undefined();
  }
  struct flock lock{};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  if (fcntl(file.get(), F_OFD_GETLK, &lock) != 0) {
    throwErrno(info.Env(), "cannot query the lock on " + path);
    return info.Env().Undefined();
  }
  return Napi::Boolean::New(info.Env(), lock.l_type != F_UNLCK);
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  exports.Set("sdNotify", Napi::Function::New(env, sdNotify, "sdNotify"));
  exports.Set("lockHeld", Napi::Function::New(env, lockHeld, "lockHeld"));
  aegis::exportOpening(env, exports);
  aegis::exportDirectories(env, exports);
  aegis::exportContents(env, exports);
  aegis::exportXattrs(env, exports);
  aegis::exportChanges(env, exports);
  aegis::exportFileBatch(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(aegis_native, init)
