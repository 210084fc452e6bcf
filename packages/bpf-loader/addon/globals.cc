// Initial values of global variables, found by C name in the object's BTF (one DATASEC for each data section).
#include <bpf/btf.h>
#include <bpf/libbpf.h>

#include <cerrno>
#include <cstring>
#include <map>

#include "globals.hpp"
#include "load_failure.hpp"
#include "object.hpp"

namespace aegis {

std::vector<Global> globalsOf(const bpf_object* object) {
  std::vector<Global> found;
  const btf* types = bpf_object__btf(object);
  if (!types) return found;
  const uint32_t count = btf__type_cnt(types);
  for (uint32_t id = 1; id < count; id++) {
    const btf_type* section = btf__type_by_id(types, id);
    if (!section || btf_kind(section) != BTF_KIND_DATASEC) continue;
    const char* name = btf__name_by_offset(types, section->name_off);
    const std::string sectionName = name ? name : "";
    if (!sectionName.starts_with(".rodata") && !sectionName.starts_with(".data") && !sectionName.starts_with(".bss")) continue;
    const btf_var_secinfo* variables = btf_var_secinfos(section);
    for (uint16_t at = 0; at < btf_vlen(section); at++) {
      const btf_type* variable = btf__type_by_id(types, variables[at].type);
      if (!variable || btf_kind(variable) != BTF_KIND_VAR) continue;
      const char* variableName = btf__name_by_offset(types, variable->name_off);
      if (!variableName || !*variableName) continue;
      found.push_back({variableName, sectionName, variables[at].offset, variables[at].size, variable->type});
    }
  }
  return found;
}

Status setGlobals(bpf_object* object, const std::vector<GlobalRequest>& globals) {
  if (globals.empty()) return Nothing{};
  const std::vector<Global> known = globalsOf(object);
  for (const GlobalRequest& wanted : globals) {
    const Global* variable = nullptr;
    for (const Global& one : known) {
      if (one.name == wanted.name) variable = &one;
    }
    if (!variable) {
      std::vector<std::string> names;
      for (const Global& one : known) names.push_back(one.name);
      return Failure{.code = "bpf.unknown_global",
                     .message = known.empty() ? "The object has no global variables with BTF (build it with clang -g), so none named " + wanted.name + "."
                                              : "The object has no global variable " + wanted.name + ".",
                     .error = ENOENT}
          .with("global", wanted.name)
          .with("known", names);
    }
    if (variable->size != wanted.bytes.size())
      return Failure{.code = "bpf.bad_global",
                     .message = "The global variable " + wanted.name + " takes " + std::to_string(variable->size) + " bytes and was given " +
                                std::to_string(wanted.bytes.size()) + ".",
                     .error = EINVAL}
          .with("global", wanted.name)
          .with("size", static_cast<double>(variable->size));
    const bpf_map* map = findMap(object, variable->section);
    size_t room = 0;
    auto* start = map ? static_cast<uint8_t*>(const_cast<void*>(bpf_map__initial_value(const_cast<bpf_map*>(map), &room))) : nullptr;
    if (!start || variable->offset > room || variable->size > room - variable->offset)
      return Failure{.code = "bpf.bad_object", .message = "The object's BTF and its section " + variable->section + " are at odds.", .error = EINVAL}
          .with("global", wanted.name);
    std::memcpy(start + variable->offset, wanted.bytes.data(), wanted.bytes.size());
  }
  return Nothing{};
}

}  // namespace aegis
