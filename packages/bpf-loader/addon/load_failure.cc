#include "load_failure.hpp"

#include <cerrno>
#include <cstring>
#include <vector>

#include "object.hpp"

namespace aegis {

namespace {

bool says(const std::string& printed, const char* words) { return printed.find(words) != std::string::npos; }

// The name between the quotes that follow `before`, of the last such line.
std::string quotedAfter(const std::string& printed, const std::string& before) {
  const size_t at = printed.rfind(before + "'");
  if (at == std::string::npos) return {};
  const size_t from = at + before.size() + 1;
  const size_t to = printed.find('\'', from);
  return to == std::string::npos ? std::string() : printed.substr(from, to - from);
}

// The line that holds `words`, without libbpf's prefix.
std::string lineWith(const std::string& printed, const char* words) {
  const size_t at = printed.find(words);
  if (at == std::string::npos) return {};
  const size_t newline = printed.rfind('\n', at);
  const size_t from = newline == std::string::npos ? 0 : newline + 1;
  std::string line = printed.substr(from, printed.find('\n', at) - from);
  if (line.starts_with("libbpf: ")) line.erase(0, 8);
  return line;
}

Failure ofProgram(int error, const std::string& name, uint32_t type, const LogBuffer& log, const std::string& printed) {
  const std::string text = log.text();
  const auto number = static_cast<double>(type);
  if (error == EPERM && text.empty()) {
    Failure failure = failureOf(error, "The kernel does not let this process load program " + name);
    failure.program = name;
    return failure.with("type", number);
  }
  if (text.empty() && (error == EINVAL || error == EOPNOTSUPP || error == 524))
    return Failure{.code = "bpf.unsupported",
                   .message = "This kernel does not take program " + name + ": it does not know its type or attach type.",
                   .error = error,
                   .program = name}
        .with("type", number)
        .with("libbpf", printed);
  if (text.empty()) {
    Failure failure = failureOf(error, "The kernel did not load program " + name);
    failure.program = name;
    return failure;
  }
  const std::string reason = reasonLine(text);
  Failure failure{.code = "bpf.verifier_rejected",
                  .message = "The verifier rejected program " + name + ": " + reason,
                  .error = error,
                  .program = name,
                  .reason = reason,
                  .log = text};
  // The kernel keeps the end of a log that does not fit (before 6.4 its beginning).
  if (text.size() + 1 >= log.size()) failure.with("logTruncated", true);
  return failure;
}

Failure ofMap(int error, const std::string& name) {
  const std::string what = "The kernel did not make map " + name;
  if (error == EPERM)
    return failureOf(error, what + " (the memory of maps counts against RLIMIT_MEMLOCK before kernel 5.11)").with("map", name);
  if (error == ENOMEM)
    return Failure{.code = "bpf.map_failed",
                   .message = what + ": there is not enough memory for it; lower its max_entries or raise the limit of this cgroup.",
                   .error = error}
        .with("map", name);
  if (error == E2BIG)
    return Failure{.code = "bpf.map_failed", .message = what + ": it is larger than the kernel allows; lower its max_entries.", .error = error}
        .with("map", name);
  return Failure{.code = "bpf.map_failed",
                 .message = what + ": " + errnoText(error) + ". Check its type, sizes and flags against what this kernel has.",
                 .error = error}
      .with("map", name);
}

}  // namespace

Failure loadFailure(int error, const std::string& printed, const LogBuffer& log, const bpf_object* object) {
  if (says(printed, "failed to create: ")) return ofMap(error, quotedAfter(printed, "map "));
  if (says(printed, "BPF program load failed")) {
    const size_t at = printed.find("': BPF program load failed");
    const std::string name = quotedAfter(printed.substr(0, at + 1), "prog ");
    const bpf_program* program = bpf_object__find_program_by_name(object, name.c_str());
    return ofProgram(error, name, program ? static_cast<uint32_t>(bpf_program__type(program)) : 0, log, printed);
  }
  if (says(printed, "failed to find kernel BTF type ID of"))
    return attachTargetFailure(error, quotedAfter(printed, "failed to find kernel BTF type ID of "));
  if (says(printed, "vmlinux BTF") || says(printed, "kernel BTF is missing"))
    return Failure{.code = "bpf.missing_btf",
                   .message = "The object needs the kernel's BTF and this kernel brings none (CONFIG_DEBUG_INFO_BTF): give kernelBtf.",
                   .error = error}
        .with("libbpf", printed);
  if (says(printed, "Couldn't load trivial BPF program"))
    return failureOf(error == EPERM ? EPERM : error, "The kernel does not let this process load eBPF programs").with("libbpf", printed);
  if (says(printed, "extern ")) {
    const std::string line = lineWith(printed, "extern ");
    return Failure{.code = "bpf.unsupported", .message = "The object needs what this kernel does not have: " + line + ".", .error = error}
        .with("libbpf", printed);
  }
  const size_t newline = printed.find('\n');
  std::string first = printed.substr(0, newline);
  if (first.starts_with("libbpf: ")) first.erase(0, 8);
  return failureOf(error, "The object did not load" + (first.empty() ? std::string() : " (" + first + ")")).with("libbpf", printed);
}

Failure attachTargetFailure(int error, const std::string& target) {
  if (error == ESRCH || error == ENOENT)
    return Failure{.code = "bpf.no_such_target",
                   .message = "The kernel has no function or hook " + target + " in its BTF: check the name against bpftool btf dump.",
                   .error = error}
        .with("target", target);
  return Failure{.code = "bpf.missing_btf",
                 .message = "Cannot look up " + target + " in the kernel's BTF: " + errnoText(error) + ".",
                 .error = error}
      .with("target", target);
}

bpf_map* findMap(const bpf_object* object, const std::string& name) {
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, object) {
    if (mapName(map) == name) return map;
  }
  return nullptr;
}

Failure unknownMap(const bpf_object* object, const std::string& name) {
  std::vector<std::string> known;
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, object) known.push_back(mapName(map));
  return Failure{.code = "bpf.unknown_map", .message = "The object has no map " + name + ".", .error = ENOENT}.with("known", known);
}

}  // namespace aegis
