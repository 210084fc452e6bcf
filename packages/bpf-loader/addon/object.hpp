// One object from bytes in memory: opened, set up (types, globals, maps, log) and loaded. What comes out are descriptors; libbpf's
// own structure lives only as long as an Object does.
#pragma once

#include <bpf/libbpf.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "descriptor.hpp"
#include "result.hpp"

namespace aegis {

struct ProgramRequest {
  std::string name;
  std::optional<uint32_t> type;
  std::optional<uint32_t> expectedAttachType;
  std::string attachTo;
  // Of an offloaded program: the device that runs it.
  std::string offloadInterface;
};

struct MapRequest {
  std::string name;
  std::string pinPath;
  std::optional<uint32_t> maxEntries;
};

struct GlobalRequest {
  std::string name;
  std::vector<uint8_t> bytes;
};

struct LoadRequest {
  std::string name;
  std::vector<uint8_t> bytes;
  bool allPrograms = true;
  std::vector<ProgramRequest> programs;
  std::vector<MapRequest> maps;
  std::vector<GlobalRequest> globals;
  std::vector<uint8_t> kernelBtf;
  // Where the interfaces of offloaded programs are; empty: the process's own.
  std::string netns;
  size_t logLimitBytes = 16U * 1024 * 1024;
};

struct LoadedProgram {
  std::string name;
  std::string section;
  uint32_t type;
  uint32_t expectedAttachType;
  ProgramFd fd;
};

struct LoadedMap {
  std::string name;
  bool internal;
  bool reused;
  bool pinned;
  MapFd fd;
};

struct Loaded {
  std::vector<LoadedProgram> programs;
  std::vector<LoadedMap> maps;
};

class Object {
 public:
  // Vets the bytes (elf_check) and opens them; loads nothing.
  static Result<Object> open(const std::string& name, const std::vector<uint8_t>& bytes, const char* kernelBtfPath = nullptr);
  [[nodiscard]] bpf_object* get() const { return object_.get(); }

 private:
  struct Close {
    void operator()(bpf_object* object) const { bpf_object__close(object); }
  };
  explicit Object(bpf_object* object) : object_(object) {}
  std::unique_ptr<bpf_object, Close> object_;
};

// Blocks for as long as the verifier takes: call it off the main thread.
Result<Loaded> load(LoadRequest request);

// The C name of a map: of an internal one its section (".rodata"), without libbpf's prefix.
std::string mapName(const bpf_map* map);

// Sets initial values of globals; object opened, not loaded.
Status setGlobals(bpf_object* object, const std::vector<GlobalRequest>& globals);

// Pins: finds those there are, compares, reuses; after the load `pinMaps` makes the missing ones.
Status reusePinnedMaps(bpf_object* object, const std::vector<MapRequest>& maps, std::vector<std::string>& reused);

}  // namespace aegis
