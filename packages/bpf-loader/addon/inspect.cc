#include "inspect.hpp"

#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <elf.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string_view>

#include "globals.hpp"
#include "load_failure.hpp"
#include "object.hpp"
#include "print_capture.hpp"

namespace aegis {

namespace {

struct Section {
  size_t offset;
  size_t size;
};

// Of bytes that elf_check let through.
std::optional<Section> findSection(const std::vector<uint8_t>& bytes, std::string_view wanted) {
  Elf64_Ehdr header;
  std::memcpy(&header, bytes.data(), sizeof header);
  const auto section = [&](size_t index) {
    Elf64_Shdr one;
    std::memcpy(&one, bytes.data() + header.e_shoff + index * sizeof one, sizeof one);
    return one;
  };
  const Elf64_Shdr names = section(header.e_shstrndx);
  for (size_t index = 1; index < header.e_shnum; index++) {
    const Elf64_Shdr one = section(index);
    const std::string_view name(reinterpret_cast<const char*>(bytes.data() + names.sh_offset + one.sh_name));
    if (name == wanted && one.sh_type != SHT_NOBITS) return Section{one.sh_offset, one.sh_size};
  }
  return std::nullopt;
}

uint32_t word(const std::vector<uint8_t>& bytes, size_t offset) {
  uint32_t value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

// Bounds of .BTF.ext were checked.
uint32_t countCoreRelocations(const std::vector<uint8_t>& bytes, const Section& section) {
  const uint32_t header = word(bytes, section.offset + 4);
  if (header < 32) return 0;
  const size_t start = section.offset + header + word(bytes, section.offset + 24);
  const uint32_t length = word(bytes, section.offset + 28);
  uint32_t all = 0;
  if (length < 4) return 0;
  const uint32_t width = word(bytes, start);
  for (size_t at = 4; at + 8 <= length;) {
    const uint32_t count = word(bytes, start + at + 4);
    all += count;
    at += 8 + size_t{count} * width;
  }
  return all;
}

std::string typeName(const btf* types, uint32_t id, int depth = 0) {
  const btf_type* type = id == 0 ? nullptr : btf__type_by_id(types, id);
  if (!type) return "void";
  if (depth > 16) return "…";
  const char* given = btf__name_by_offset(types, type->name_off);
  const std::string name = given ? given : "";
  const auto below = [&](uint32_t other) { return typeName(types, other, depth + 1); };
  switch (btf_kind(type)) {
    case BTF_KIND_PTR:
      return below(type->type) + " *";
    case BTF_KIND_CONST:
    case BTF_KIND_VOLATILE:
    case BTF_KIND_RESTRICT:
    case BTF_KIND_TYPE_TAG:
      return below(type->type);
    case BTF_KIND_ARRAY:
      return below(btf_array(type)->type) + "[" + std::to_string(btf_array(type)->nelems) + "]";
    case BTF_KIND_STRUCT:
      return "struct " + (name.empty() ? "(anonymous)" : name);
    case BTF_KIND_UNION:
      return "union " + (name.empty() ? "(anonymous)" : name);
    case BTF_KIND_ENUM:
    case BTF_KIND_ENUM64:
      return "enum " + (name.empty() ? "(anonymous)" : name);
    default:
      return name.empty() ? "(anonymous)" : name;
  }
}

void addExterns(const btf* types, std::vector<ExternReport>& externs) {
  if (!types) return;
  for (uint32_t id = 1; id < btf__type_cnt(types); id++) {
    const btf_type* section = btf__type_by_id(types, id);
    if (!section || btf_kind(section) != BTF_KIND_DATASEC) continue;
    const char* name = btf__name_by_offset(types, section->name_off);
    const std::string sectionName = name ? name : "";
    if (sectionName != ".ksyms" && sectionName != ".kconfig") continue;
    for (uint16_t at = 0; at < btf_vlen(section); at++) {
      const btf_type* one = btf__type_by_id(types, btf_var_secinfos(section)[at].type);
      const char* text = one ? btf__name_by_offset(types, one->name_off) : nullptr;
      // libbpf puts stand-ins of its own into .ksyms while it reads.
      if (text && *text && std::string_view(text) != "dummy_ksym") externs.push_back({text, btf_kind(one) == BTF_KIND_FUNC, sectionName});
    }
  }
}

}  // namespace

Result<ObjectReport> inspectObject(const std::vector<uint8_t>& bytes) {
  Result<Object> object = Object::open("object", bytes);
  if (!object) return object.failure();
  const PrintCapture printed;
  ObjectReport report;
  bpf_program* program = nullptr;
  while ((program = bpf_object__next_program(object->get(), program)) != nullptr) {
    report.programs.push_back({bpf_program__name(program), bpf_program__section_name(program), static_cast<uint32_t>(bpf_program__type(program)),
                               static_cast<uint32_t>(bpf_program__expected_attach_type(program)), static_cast<uint32_t>(bpf_program__insn_cnt(program))});
  }
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, object->get()) {
    report.maps.push_back({mapName(map), static_cast<uint32_t>(bpf_map__type(map)), bpf_map__key_size(map), bpf_map__value_size(map), bpf_map__max_entries(map),
                           bpf_map__map_flags(map), bpf_map__is_internal(map), bpf_map__pin_path(map) != nullptr});
  }
  const btf* types = bpf_object__btf(object->get());
  for (const Global& global : globalsOf(object->get())) {
    GlobalReport one{global.name, global.section, global.offset, global.size, global.typeId, typeName(types, global.typeId), {}};
    bpf_map* home = findMap(object->get(), global.section);
    size_t room = 0;
    const auto* start = home ? static_cast<const uint8_t*>(bpf_map__initial_value(home, &room)) : nullptr;
    if (start && global.offset <= room && global.size <= room - global.offset) one.initial.assign(start + global.offset, start + global.offset + global.size);
    report.globals.push_back(std::move(one));
  }
  addExterns(types, report.externs);
  if (const auto section = findSection(bytes, "license")) {
    const auto* text = reinterpret_cast<const char*>(bytes.data() + section->offset);
    report.license.assign(text, strnlen(text, std::min<size_t>(section->size, 64)));
  }
  if (const auto section = findSection(bytes, ".BTF")) {
    report.hasBtf = true;
    report.btf.assign(bytes.begin() + static_cast<ptrdiff_t>(section->offset), bytes.begin() + static_cast<ptrdiff_t>(section->offset + section->size));
  }
  if (const auto section = findSection(bytes, ".BTF.ext")) {
    report.hasBtfExt = true;
    report.coreRelocations = countCoreRelocations(bytes, *section);
  }
  return report;
}

}  // namespace aegis
