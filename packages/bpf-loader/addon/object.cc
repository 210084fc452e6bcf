#include "object.hpp"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <fcntl.h>
#include <net/if.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "btf_check.hpp"
#include "elf_check.hpp"
#include "load_failure.hpp"
#include "memory_file.hpp"
#include "netns.hpp"
#include "print_capture.hpp"
#include "syscall.hpp"
#include "verifier_log.hpp"

namespace aegis {

namespace {

// Section names that libbpf learnt after 1.1, so that an object means the same whichever libbpf reads it.
struct NewerSection {
  const char* name;
  uint32_t type;
  uint32_t expectedAttachType;
};
constexpr uint32_t kNetfilterType = 32;
constexpr NewerSection kNewerSections[] = {{"netfilter", kNetfilterType, sys::kNetfilter},
                                           {"tcx/ingress", BPF_PROG_TYPE_SCHED_CLS, 0},
                                           {"tcx/egress", BPF_PROG_TYPE_SCHED_CLS, 0},
                                           {"tc/ingress", BPF_PROG_TYPE_SCHED_CLS, 0},
                                           {"tc/egress", BPF_PROG_TYPE_SCHED_CLS, 0}};

void tellNewerSections(bpf_object* object) {
  bpf_program* program = nullptr;
  while ((program = bpf_object__next_program(object, program)) != nullptr) {
    if (bpf_program__type(program) != BPF_PROG_TYPE_UNSPEC) continue;
    for (const NewerSection& section : kNewerSections) {
      if (std::strcmp(section.name, bpf_program__section_name(program)) != 0) continue;
      bpf_program__set_type(program, static_cast<bpf_prog_type>(section.type));
      bpf_program__set_expected_attach_type(program, static_cast<bpf_attach_type>(section.expectedAttachType));
    }
  }
}

}  // namespace

Result<Object> Object::open(const std::string& name, const std::vector<uint8_t>& bytes, const char* kernelBtfPath) {
  if (Status checked = checkElf(bytes.data(), bytes.size()); !checked) return checked.failure();
  const PrintCapture printed;
  LIBBPF_OPTS(bpf_object_open_opts, options, .object_name = name.c_str(), .btf_custom_path = kernelBtfPath);
  bpf_object* object = bpf_object__open_mem(bytes.data(), bytes.size(), &options);
  if (const long error = libbpf_get_error(object); error != 0) {
    const int number = static_cast<int>(-error);
    const std::string said = printed.lastLine();
    return Failure{.code = number == ENOMEM ? "bpf.failed" : "bpf.bad_object",
                   .message = "libbpf cannot read this object: " + (said.empty() ? errnoText(number) : said),
                   .error = number}
        .with("libbpf", printed.text());
  }
  Object opened(object);
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, object) {
    // A map that only says it is one (struct_ops proper has a section of its own) is a null pointer to libbpf's load.
    if (bpf_map__type(map) == BPF_MAP_TYPE_STRUCT_OPS)
      return Failure{.code = "bpf.bad_object", .message = "The object has a struct_ops map: struct_ops are not loaded.", .error = EINVAL};
  }
  tellNewerSections(object);
  return opened;
}

std::string mapName(const bpf_map* map) {
  const std::string name = bpf_map__name(map);
  if (!bpf_map__is_internal(map)) return name;
  const size_t dot = name.find('.');
  return dot == std::string::npos ? name : name.substr(dot);
}

namespace {

std::vector<std::string> programNames(const bpf_object* object) {
  std::vector<std::string> names;
  bpf_program* program = nullptr;
  while ((program = bpf_object__next_program(object, program)) != nullptr) names.emplace_back(bpf_program__name(program));
  return names;
}

Status setUpProgram(bpf_program* program, const ProgramRequest& request) {
  if (request.type) bpf_program__set_type(program, static_cast<bpf_prog_type>(*request.type));
  if (request.expectedAttachType)
    bpf_program__set_expected_attach_type(program, static_cast<bpf_attach_type>(*request.expectedAttachType));
  if (!request.attachTo.empty()) {
    const int error = bpf_program__set_attach_target(program, 0, request.attachTo.c_str());
    if (error != 0) {
      Failure failure = attachTargetFailure(-error, request.attachTo);
      failure.program = request.name;
      return failure;
    }
  }
  if (!request.offloadInterface.empty()) {
    const unsigned int index = if_nametoindex(request.offloadInterface.c_str());
    if (index == 0)
      return Failure{.code = "bpf.no_such_target",
                     .message = "There is no interface " + request.offloadInterface + ".",
                     .error = ENODEV,
                     .program = request.name};
    bpf_program__set_ifindex(program, index);
  }
  return Nothing{};
}

Status setUpPrograms(bpf_object* object, const LoadRequest& request, const LogBuffer& log) {
  for (const ProgramRequest& wanted : request.programs) {
    bpf_program* program = bpf_object__find_program_by_name(object, wanted.name.c_str());
    if (!program)
      return Failure{.code = "bpf.unknown_program",
                     .message = "The object has no program " + wanted.name + ".",
                     .error = ENOENT,
                     .program = wanted.name}
          .with("known", programNames(object));
    if (Status status = setUpProgram(program, wanted); !status) return status;
  }
  bpf_program* program = nullptr;
  while ((program = bpf_object__next_program(object, program)) != nullptr) {
    const std::string name = bpf_program__name(program);
    const bool listed = std::any_of(request.programs.begin(), request.programs.end(),
                                    [&](const ProgramRequest& wanted) { return wanted.name == name; });
    const bool wanted = request.allPrograms || listed;
    bpf_program__set_autoload(program, wanted);
    if (wanted && bpf_program__type(program) == BPF_PROG_TYPE_UNSPEC)
      return Failure{.code = "bpf.unknown_section",
                     .message = std::string("The section ") + bpf_program__section_name(program) + " does not say what program " + name +
                                " is: give its attachment or type.",
                     .error = EINVAL,
                     .program = name}
          .with("section", std::string(bpf_program__section_name(program)));
    if (log.data()) bpf_program__set_log_buf(program, log.data(), log.size());
  }
  return Nothing{};
}

Status setUpMaps(bpf_object* object, const std::vector<MapRequest>& maps) {
  bpf_map* map = nullptr;
  // Pins by the object's own wish (LIBBPF_PIN_BY_NAME) would land in /sys/fs/bpf itself: where a map is pinned is the caller's say.
  bpf_object__for_each_map(map, object) bpf_map__set_pin_path(map, nullptr);
  for (const MapRequest& wanted : maps) {
    map = findMap(object, wanted.name);
    if (!map) return unknownMap(object, wanted.name);
    if (wanted.maxEntries) bpf_map__set_max_entries(map, *wanted.maxEntries);
  }
  return Nothing{};
}

int duplicate(int fd) { return fcntl(fd, F_DUPFD_CLOEXEC, 3); }

Result<Loaded> collect(bpf_object* object, const std::vector<std::string>& reused) {
  Loaded loaded;
  bpf_program* program = nullptr;
  while ((program = bpf_object__next_program(object, program)) != nullptr) {
    if (bpf_program__fd(program) < 0) continue;
    ProgramFd fd(duplicate(bpf_program__fd(program)));
    if (!fd.valid()) return failureOf(errno, "Cannot hold the loaded program");
    loaded.programs.push_back({bpf_program__name(program), bpf_program__section_name(program), static_cast<uint32_t>(bpf_program__type(program)),
                               static_cast<uint32_t>(bpf_program__expected_attach_type(program)), std::move(fd)});
  }
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, object) {
    if (bpf_map__fd(map) < 0) continue;
    MapFd fd(duplicate(bpf_map__fd(map)));
    if (!fd.valid()) return failureOf(errno, "Cannot hold the loaded map");
    const std::string name = mapName(map);
    const bool was = std::find(reused.begin(), reused.end(), name) != reused.end();
    loaded.maps.push_back({name, bpf_map__is_internal(map), was, was, std::move(fd)});
  }
  return loaded;
}

// All or none: a pin that fails takes those made before it away again.
Status pinMaps(const std::vector<MapRequest>& wanted, std::vector<LoadedMap>& maps) {
  std::vector<std::string> made;
  for (const MapRequest& request : wanted) {
    if (request.pinPath.empty()) continue;
    const auto map = std::find_if(maps.begin(), maps.end(), [&](const LoadedMap& one) { return one.name == request.name; });
    if (map == maps.end() || map->reused) continue;
    if (bpf_obj_pin(map->fd.get(), request.pinPath.c_str()) != 0) {
      Failure failure = failureOf(errno, "Cannot pin map " + request.name + " at " + request.pinPath, "bpf.pin_failed");
      for (const std::string& path : made) unlink(path.c_str());
      return failure;
    }
    made.push_back(request.pinPath);
    map->pinned = true;
  }
  return Nothing{};
}

Result<Loaded> loadHere(const LoadRequest& request) {
  const LogBuffer log(request.logLimitBytes);
  MemoryFile kernelBtf;
  if (!request.kernelBtf.empty()) {
    BtfBounds bounds;
    if (Status checked = checkBtf(request.kernelBtf.data(), request.kernelBtf.size(), bounds); !checked)
      return Failure{.code = "bpf.missing_btf", .message = "The BTF given for this kernel cannot be read.", .error = EINVAL}.with("why", checked.failure().message);
    Result<MemoryFile> file = MemoryFile::holding("kernel-btf", request.kernelBtf);
    if (!file) return file.failure();
    kernelBtf = std::move(*file);
  }
  const std::string btfPath = kernelBtf.path();
  Result<Object> object = Object::open(request.name, request.bytes, btfPath.empty() ? nullptr : btfPath.c_str());
  if (!object) return object.failure();

  const PrintCapture printed(request.logLimitBytes);
  std::vector<std::string> reused;
  if (Status status = setUpPrograms(object->get(), request, log); !status) return status.failure();
  if (Status status = setUpMaps(object->get(), request.maps); !status) return status.failure();
  if (Status status = setGlobals(object->get(), request.globals); !status) return status.failure();
  if (Status status = reusePinnedMaps(object->get(), request.maps, reused); !status) return status.failure();
  if (const int error = bpf_object__load(object->get()); error != 0)
    return loadFailure(-error, printed.text(), log, object->get());
  Result<Loaded> loaded = collect(object->get(), reused);
  if (!loaded) return loaded;
  if (Status status = pinMaps(request.maps, loaded->maps); !status) return status.failure();
  return loaded;
}

}  // namespace

Result<Loaded> load(LoadRequest request) {
  return inNetns(request.netns, [&] { return loadHere(request); });
}

}  // namespace aegis
