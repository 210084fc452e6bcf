// Work inside a network namespace: on a thread of its own that enters it and ends there, so that no thread of the process ever stays
// in, or has to find its way back from, a foreign namespace.
#pragma once

#include <pthread.h>

#include <optional>
#include <string>

#include "result.hpp"

namespace aegis {

Result<int> enterNetns(const std::string& path);

// Runs `work` here when `path` is empty. Call it off the main thread: it waits.
template <class Work>
auto inNetns(const std::string& path, Work&& work) -> decltype(work()) {
  using Given = decltype(work());
  if (path.empty()) return work();
  struct Errand {
    const std::string& path;
    Work& work;
    std::optional<Given> given;
  } errand{path, work, std::nullopt};
  pthread_t thread{};
  const int error = pthread_create(
      &thread, nullptr,
      [](void* argument) -> void* {
        auto* mine = static_cast<Errand*>(argument);
        Result<int> entered = enterNetns(mine->path);
        if (entered)
          mine->given.emplace(mine->work());
        else
          mine->given.emplace(entered.failure());
        return nullptr;
      },
      &errand);
  if (error != 0) return failureOf(error, "Cannot start a thread for network namespace " + path);
  pthread_join(thread, nullptr);
  return std::move(*errand.given);
}

// The interface's index in the namespace of this thread; bpf.no_such_target without it.
Result<unsigned int> interfaceIndex(const std::string& name);

}  // namespace aegis
