#include "elf_check.hpp"

#include <elf.h>

#include <cerrno>
#include <cstring>
#include <string_view>
#include <vector>

#include "btf_check.hpp"

namespace aegis {

namespace {

constexpr uint16_t kMachineBpf = 247;
constexpr size_t kMaxSections = 2048;
constexpr size_t kMaxSymbols = 65536;
constexpr size_t kMaxFunctions = 1024;
constexpr size_t kMaxRelocations = 131072;
constexpr size_t kMaxName = 256;
constexpr uint64_t kMaxZeroBytes = 64U * 1024 * 1024;
constexpr size_t kInstructionBytes = 8;

Failure bad(const std::string& what) {
  return Failure{.code = "bpf.bad_object", .message = "This is not an eBPF object that can be loaded: " + what + ".", .error = EINVAL};
}

bool inside(uint64_t offset, uint64_t size, uint64_t whole) { return offset <= whole && size <= whole - offset; }

// Names reach libbpf's messages, from which failures are told: printable, without quotes, bounded.
bool goodName(std::string_view name) {
  if (name.size() > kMaxName) return false;
  for (const char c : name) {
    if (c < 0x21 || c > 0x7e || c == '\'' || c == '"') return false;
  }
  return true;
}

// Section names may hold spaces (".rodata.str1.1" does not, but C code writes what it likes).
bool goodSectionName(std::string_view name) {
  if (name.size() > kMaxName) return false;
  for (const char c : name) {
    if (c < 0x20 || c > 0x7e || c == '\'') return false;
  }
  return true;
}

class Check {
 public:
  Check(const uint8_t* bytes, size_t size) : bytes_(bytes), size_(size) {}

  Status run() {
    for (const auto step : {&Check::header, &Check::sections, &Check::names, &Check::symbols, &Check::relocations, &Check::types}) {
      if (Status status = (this->*step)(); !status) return status;
    }
    return Nothing{};
  }

 private:
  template <class T>
  T at(uint64_t offset) const {
    T value;
    std::memcpy(&value, bytes_ + offset, sizeof value);
    return value;
  }

  // Bounds of the table were checked; its last byte is zero.
  [[nodiscard]] std::string_view text(const Elf64_Shdr& table, uint64_t offset) const {
    return std::string_view(reinterpret_cast<const char*>(bytes_ + table.sh_offset + offset));
  }

  Status header() {
    if (size_ > kMaxObjectBytes) return bad("it is larger than " + std::to_string(kMaxObjectBytes >> 20) + " MiB");
    if (size_ < sizeof(Elf64_Ehdr)) return bad("it is too short for an ELF header");
    header_ = at<Elf64_Ehdr>(0);
    if (std::memcmp(header_.e_ident, ELFMAG, SELFMAG) != 0) return bad("it is not ELF");
    if (header_.e_ident[EI_CLASS] != ELFCLASS64 || header_.e_ident[EI_VERSION] != EV_CURRENT || header_.e_version != EV_CURRENT)
      return bad("it is not 64 bit ELF of version 1");
    constexpr uint16_t one = 1;
    const bool little = reinterpret_cast<const uint8_t*>(&one)[0] == 1;
    if (header_.e_ident[EI_DATA] != (little ? ELFDATA2LSB : ELFDATA2MSB))
      return bad("its byte order is not this machine's (build it with clang -target bpf)");
    if (header_.e_machine != kMachineBpf) return bad("it was not compiled for BPF (build it with clang -target bpf)");
    if (header_.e_type != ET_REL) return bad("it is not relocatable");
    if (header_.e_ehsize != sizeof(Elf64_Ehdr) || header_.e_phnum != 0) return bad("its ELF header is odd");
    if (header_.e_shentsize != sizeof(Elf64_Shdr) || header_.e_shnum < 2 || header_.e_shnum > kMaxSections || header_.e_shoff % 8 != 0 ||
        !inside(header_.e_shoff, uint64_t{header_.e_shnum} * sizeof(Elf64_Shdr), size_))
      return bad("its section table is out of bounds");
    if (header_.e_shstrndx == 0 || header_.e_shstrndx >= header_.e_shnum) return bad("its table of section names is missing");
    return Nothing{};
  }

  Status sections() {
    for (size_t index = 0; index < header_.e_shnum; index++) {
      const auto section = at<Elf64_Shdr>(header_.e_shoff + index * sizeof(Elf64_Shdr));
      const std::string what = "section " + std::to_string(index);
      if (index == 0 && (section.sh_type != SHT_NULL || section.sh_size != 0 || section.sh_link != 0)) return bad("its first section is not empty");
      if ((section.sh_flags & SHF_COMPRESSED) != 0) return bad(what + " is compressed");
      if (section.sh_addr != 0) return bad(what + " has an address");
      if (section.sh_addralign > 4096 || (section.sh_addralign & (section.sh_addralign - 1)) != 0) return bad(what + " is oddly aligned");
      if (section.sh_type == SHT_NOBITS) {
        zeroes_ += section.sh_size > kMaxZeroBytes ? kMaxZeroBytes + 1 : section.sh_size;
        if (zeroes_ > kMaxZeroBytes) return bad("its .bss sections are too large");
      } else if (section.sh_type != SHT_NULL && !inside(section.sh_offset, section.sh_size, size_)) {
        return bad(what + " is out of bounds");
      }
      if (section.sh_link >= header_.e_shnum) return bad(what + " links to a section that is not there");
      sections_.push_back(section);
    }
    return Nothing{};
  }

  [[nodiscard]] bool isTextTable(size_t index) const {
    const Elf64_Shdr& table = sections_[index];
    return table.sh_type == SHT_STRTAB && table.sh_size > 0 && bytes_[table.sh_offset] == 0 &&
           bytes_[table.sh_offset + table.sh_size - 1] == 0;
  }

  Status names() {
    const Elf64_Shdr& table = sections_[header_.e_shstrndx];
    if (!isTextTable(header_.e_shstrndx)) return bad("its table of section names is broken");
    for (size_t index = 0; index < sections_.size(); index++) {
      const Elf64_Shdr& section = sections_[index];
      const std::string what = "section " + std::to_string(index);
      if (section.sh_name >= table.sh_size) return bad("the name of " + what + " is out of bounds");
      const std::string_view name = text(table, section.sh_name);
      if (!goodSectionName(name)) return bad("the name of " + what + " is not printable");
      if (name.starts_with(".struct_ops") || name.starts_with("struct_ops")) return bad("struct_ops are not loaded");
      if (name == ".BTF" || name == ".BTF.ext") {
        size_t& place = name == ".BTF" ? btf_ : btfExt_;
        if (place != 0) return bad(std::string(name) + " is there twice");
        if (section.sh_type == SHT_NOBITS) return bad(std::string(name) + " is empty");
        place = index;
      }
      if (isCode(section) && section.sh_size % kInstructionBytes != 0) return bad(what + " holds part of an instruction");
      if (isCode(section) && section.sh_offset % kInstructionBytes != 0) return bad(what + " is not aligned");
    }
    return Nothing{};
  }

  static bool isCode(const Elf64_Shdr& section) { return section.sh_type == SHT_PROGBITS && (section.sh_flags & SHF_EXECINSTR) != 0; }

  Status symbols() {
    for (size_t index = 0; index < sections_.size(); index++) {
      if (sections_[index].sh_type == SHT_DYNSYM || sections_[index].sh_type == SHT_SYMTAB_SHNDX) return bad("it has a table that objects do not have");
      if (sections_[index].sh_type != SHT_SYMTAB) continue;
      if (symbolTable_ != 0) return bad("it has two symbol tables");
      symbolTable_ = index;
    }
    if (symbolTable_ == 0) return bad("it has no symbols");
    const Elf64_Shdr& table = sections_[symbolTable_];
    if (table.sh_entsize != sizeof(Elf64_Sym) || table.sh_size % sizeof(Elf64_Sym) != 0 || table.sh_offset % 8 != 0 || !isTextTable(table.sh_link))
      return bad("its symbol table is broken");
    symbolCount_ = table.sh_size / sizeof(Elf64_Sym);
    if (symbolCount_ > kMaxSymbols) return bad("it has too many symbols");
    size_t functions = 0;
    for (size_t index = 0; index < symbolCount_; index++) {
      const auto symbol = at<Elf64_Sym>(table.sh_offset + index * sizeof(Elf64_Sym));
      if (Status status = checkSymbol(index, symbol, functions); !status) return status;
    }
    if (functions == 0) return bad("it has no program");
    if (functions > kMaxFunctions) return bad("it has too many functions");
    return Nothing{};
  }

  Status checkSymbol(size_t index, const Elf64_Sym& symbol, size_t& functions) {
    const Elf64_Shdr& texts = sections_[sections_[symbolTable_].sh_link];
    const std::string what = "symbol " + std::to_string(index);
    if (symbol.st_name >= texts.sh_size) return bad("the name of " + what + " is out of bounds");
    const std::string_view name = text(texts, symbol.st_name);
    const unsigned char type = ELF64_ST_TYPE(symbol.st_info);
    if (!goodName(name) && type != STT_FILE) return bad("the name of " + what + " is not printable or too long");
    if (symbol.st_shndx >= SHN_LORESERVE) {
      if (symbol.st_shndx != SHN_ABS) return bad(what + " is in no section");
      return Nothing{};
    }
    if (symbol.st_shndx == SHN_UNDEF) return Nothing{};
    if (symbol.st_shndx >= sections_.size()) return bad(what + " is in a section that is not there");
    const Elf64_Shdr& section = sections_[symbol.st_shndx];
    if (!inside(symbol.st_value, symbol.st_size, section.sh_size)) return bad(what + " is out of bounds");
    if (type == STT_FUNC) {
      if (!isCode(section)) return bad("function " + std::string(name) + " is not in a code section");
      if (name.empty() || symbol.st_size == 0 || symbol.st_size % kInstructionBytes != 0 || symbol.st_value % kInstructionBytes != 0)
        return bad("function " + std::string(name) + " is not a run of instructions");
      functions++;
    }
    return Nothing{};
  }

  Status relocations() {
    size_t all = 0;
    for (size_t index = 0; index < sections_.size(); index++) {
      const Elf64_Shdr& section = sections_[index];
      if (section.sh_type == SHT_RELA) return bad("it has relocations with addends");
      if (section.sh_type != SHT_REL) continue;
      const std::string what = "relocation section " + std::to_string(index);
      if (section.sh_entsize != sizeof(Elf64_Rel) || section.sh_size % sizeof(Elf64_Rel) != 0 || section.sh_offset % 8 != 0 ||
          section.sh_link != symbolTable_ || section.sh_info == 0 || section.sh_info >= sections_.size())
        return bad(what + " is broken");
      const Elf64_Shdr& target = sections_[section.sh_info];
      all += section.sh_size / sizeof(Elf64_Rel);
      if (all > kMaxRelocations) return bad("it has too many relocations");
      for (size_t at_ = 0; at_ < section.sh_size / sizeof(Elf64_Rel); at_++) {
        const auto one = at<Elf64_Rel>(section.sh_offset + at_ * sizeof(Elf64_Rel));
        const uint64_t width = isCode(target) ? kInstructionBytes : 4;
        if (ELF64_R_SYM(one.r_info) >= symbolCount_) return bad(what + " names a symbol that is not there");
        if (!inside(one.r_offset, width, target.sh_size)) return bad(what + " points out of its section");
        if (isCode(target) && one.r_offset % kInstructionBytes != 0) return bad(what + " points into an instruction");
      }
    }
    return Nothing{};
  }

  Status types() {
    if (btf_ == 0) return btfExt_ == 0 ? Status(Nothing{}) : Status(bad("it has .BTF.ext without .BTF"));
    const Elf64_Shdr& section = sections_[btf_];
    BtfBounds bounds;
    if (Status status = checkBtf(bytes_ + section.sh_offset, section.sh_size, bounds); !status) return status;
    if (btfExt_ == 0) return Nothing{};
    const Elf64_Shdr& extension = sections_[btfExt_];
    return checkBtfExt(bytes_ + extension.sh_offset, extension.sh_size, bounds);
  }

  const uint8_t* bytes_;
  size_t size_;
  Elf64_Ehdr header_{};
  std::vector<Elf64_Shdr> sections_;
  uint64_t zeroes_ = 0;
  size_t symbolTable_ = 0;
  size_t symbolCount_ = 0;
  size_t btf_ = 0;
  size_t btfExt_ = 0;
};

}  // namespace

Status checkElf(const uint8_t* bytes, size_t size) { return Check(bytes, size).run(); }

}  // namespace aegis
