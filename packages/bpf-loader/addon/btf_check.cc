#include "btf_check.hpp"

#include <linux/btf.h>

#include <cerrno>
#include <cstring>
#include <vector>

namespace aegis {

namespace {

constexpr uint32_t kMaxTypes = 262144;
constexpr uint32_t kMaxKind = 19;  // ENUM64, the last that libbpf 1.1 knows
constexpr size_t kMaxDepth = 128;
constexpr size_t kHeaderBytes = 24;

enum Kind : uint32_t { kInt = 1, kPtr, kArray, kStruct, kUnion, kEnum, kForward, kTypedef, kVolatile, kConst, kRestrict, kFunc, kFuncProto, kVar, kDatasec, kFloat, kDeclTag, kTypeTag, kEnum64 };

Failure bad(const std::string& what) {
  return Failure{.code = "bpf.bad_object", .message = "The type information (.BTF) of this object is broken: " + what + ".", .error = EINVAL};
}

bool inside(uint64_t offset, uint64_t size, uint64_t whole) { return offset <= whole && size <= whole - offset; }

template <class T>
T read(const uint8_t* bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes + offset, sizeof value);
  return value;
}

size_t extraBytes(uint32_t kind, uint32_t vlen) {
  switch (kind) {
    case kInt:
    case kVar:
    case kDeclTag:
      return 4;
    case kArray:
    case kStruct:
    case kUnion:
    case kDatasec:
    case kEnum64:
      return kind == kArray ? 12 : size_t{vlen} * 12;
    case kEnum:
    case kFuncProto:
      return size_t{vlen} * 8;
    default:
      return 0;
  }
}

struct Header {
  uint32_t length, typeOffset, typeLength, textOffset, textLength;
};

class Types {
 public:
  Types(const uint8_t* types, uint32_t size, const uint8_t* text, uint32_t textSize)
      : types_(types), size_(size), text_(text), textSize_(textSize) {}

  Status run(BtfBounds& bounds) {
    starts_.push_back(0);
    size_t offset = 0;
    while (offset < size_) {
      if (starts_.size() >= kMaxTypes) return bad("it has too many types");
      if (!inside(offset, sizeof(btf_type), size_)) return bad("its last type is cut off");
      const auto type = read<btf_type>(types_, offset);
      const size_t extra = extraBytes(BTF_INFO_KIND(type.info), BTF_INFO_VLEN(type.info));
      if (BTF_INFO_KIND(type.info) == 0 || BTF_INFO_KIND(type.info) > kMaxKind) return bad("it has a type of an unknown kind");
      if (!inside(offset + sizeof(btf_type), extra, size_)) return bad("its last type is cut off");
      starts_.push_back(static_cast<uint32_t>(offset));
      offset += sizeof(btf_type) + extra;
    }
    for (uint32_t id = 1; id < starts_.size(); id++) {
      if (Status status = checkType(id); !status) return status;
    }
    if (Status status = checkCycles(); !status) return status;
    bounds.typeCount = static_cast<uint32_t>(starts_.size());
    bounds.textSize = textSize_;
    return Nothing{};
  }

 private:
  [[nodiscard]] btf_type type(uint32_t id) const { return read<btf_type>(types_, starts_[id]); }
  [[nodiscard]] uint32_t kind(uint32_t id) const { return id == 0 ? 0 : BTF_INFO_KIND(type(id).info); }
  [[nodiscard]] bool isType(uint32_t id) const { return id < starts_.size(); }
  [[nodiscard]] bool isText(uint32_t offset) const { return offset < textSize_; }
  [[nodiscard]] size_t member(uint32_t id, uint32_t index, size_t width) const { return starts_[id] + sizeof(btf_type) + index * width; }

  // Messages of libbpf bear these names: printable only, bounded.
  [[nodiscard]] bool isName(uint32_t offset) const {
    if (!isText(offset)) return false;
    for (size_t length = 0; text_[offset + length] != 0; length++) {
      const uint8_t c = text_[offset + length];
      if (length >= 512 || c < 0x20 || c > 0x7e || c == '\'') return false;
    }
    return true;
  }

  Status checkType(uint32_t id) {
    const btf_type one = type(id);
    const uint32_t vlen = BTF_INFO_VLEN(one.info);
    const std::string what = "type " + std::to_string(id);
    if (!isName(one.name_off)) return bad("the name of " + what + " is out of bounds or not printable");
    switch (BTF_INFO_KIND(one.info)) {
      case kPtr:
      case kTypedef:
      case kVolatile:
      case kConst:
      case kRestrict:
      case kVar:
      case kDeclTag:
      case kTypeTag:
        if (!isType(one.type)) return bad(what + " refers to a type that is not there");
        if (BTF_INFO_KIND(one.info) == kVar && (kind(one.type) == kDatasec || kind(one.type) == kVar || kind(one.type) == kFunc))
          return bad(what + " is a variable of no type");
        return Nothing{};
      case kFunc:
        if (!isType(one.type) || kind(one.type) != kFuncProto) return bad(what + " is a function without a prototype");
        return Nothing{};
      case kArray: {
        const auto array = read<btf_array>(types_, member(id, 0, 0));
        if (!isType(array.type) || !isType(array.index_type)) return bad(what + " refers to a type that is not there");
        return Nothing{};
      }
      case kStruct:
      case kUnion:
        for (uint32_t at = 0; at < vlen; at++) {
          const auto part = read<btf_member>(types_, member(id, at, 12));
          if (!isName(part.name_off) || !isType(part.type)) return bad("a member of " + what + " is out of bounds");
        }
        return Nothing{};
      case kEnum:
      case kEnum64:
        for (uint32_t at = 0; at < vlen; at++) {
          if (!isName(read<uint32_t>(types_, member(id, at, BTF_INFO_KIND(one.info) == kEnum ? 8 : 12)))) return bad("a value of " + what + " is out of bounds");
        }
        return Nothing{};
      case kFuncProto:
        if (!isType(one.type)) return bad(what + " refers to a type that is not there");
        for (uint32_t at = 0; at < vlen; at++) {
          const auto part = read<btf_param>(types_, member(id, at, 8));
          if (!isName(part.name_off) || !isType(part.type)) return bad("a parameter of " + what + " is out of bounds");
        }
        return Nothing{};
      case kDatasec:
        for (uint32_t at = 0; at < vlen; at++) {
          const auto part = read<btf_var_secinfo>(types_, member(id, at, 12));
          if (!isType(part.type) || (kind(part.type) != kVar && kind(part.type) != kFunc)) return bad("a variable of " + what + " is none");
        }
        return Nothing{};
      default:
        return Nothing{};
    }
  }

  // Types held by value, one level down.
  [[nodiscard]] std::vector<uint32_t> held(uint32_t id) const {
    const btf_type one = type(id);
    std::vector<uint32_t> found;
    switch (BTF_INFO_KIND(one.info)) {
      case kTypedef:
      case kVolatile:
      case kConst:
      case kRestrict:
      case kTypeTag:
      case kVar:
      case kDeclTag:
        found.push_back(one.type);
        break;
      case kArray:
        found.push_back(read<btf_array>(types_, member(id, 0, 0)).type);
        break;
      case kStruct:
      case kUnion:
        for (uint32_t at = 0; at < BTF_INFO_VLEN(one.info); at++) found.push_back(read<btf_member>(types_, member(id, at, 12)).type);
        break;
      default:
        break;
    }
    return found;
  }

  // Depth first, with a stack of its own and each type done once.
  Status checkCycles() {
    enum : uint8_t { kNew, kOpen, kDone };
    std::vector<uint8_t> state(starts_.size(), kNew);
    struct Step {
      uint32_t id;
      std::vector<uint32_t> below;
      size_t next;
    };
    state[0] = kDone;
    std::vector<Step> path;
    for (uint32_t root = 1; root < starts_.size(); root++) {
      if (state[root] != kNew) continue;
      state[root] = kOpen;
      path.push_back({root, held(root), 0});
      while (!path.empty()) {
        Step& top = path.back();
        if (top.next == top.below.size()) {
          state[top.id] = kDone;
          path.pop_back();
          continue;
        }
        const uint32_t next = top.below[top.next++];
        if (state[next] == kOpen) return bad("type " + std::to_string(next) + " holds itself");
        if (state[next] == kDone) continue;
        if (path.size() >= kMaxDepth) return bad("its types are nested too deeply");
        state[next] = kOpen;
        path.push_back({next, held(next), 0});
      }
    }
    return Nothing{};
  }

  const uint8_t* types_;
  uint32_t size_;
  const uint8_t* text_;
  uint32_t textSize_;
  std::vector<uint32_t> starts_;
};

struct Records {
  const char* name;
  uint32_t offset, length, least;
};

Status checkRecords(const uint8_t* bytes, size_t size, const Records& records, const BtfBounds& bounds) {
  const std::string what = std::string(records.name) + " of .BTF.ext";
  if (records.length == 0) return Nothing{};
  if (records.offset % 4 != 0 || !inside(records.offset, records.length, size) || records.length < 4) return bad(what + " is out of bounds");
  const uint8_t* start = bytes + records.offset;
  const auto width = read<uint32_t>(start, 0);
  if (width < records.least || width % 4 != 0 || width > 1024) return bad(what + " has an odd record size");
  size_t offset = 4;
  while (offset < records.length) {
    if (!inside(offset, 8, records.length)) return bad(what + " is cut off");
    const auto section = read<uint32_t>(start, offset);
    const auto count = read<uint32_t>(start, offset + 4);
    offset += 8;
    if (section >= bounds.textSize || count == 0 || !inside(offset, uint64_t{count} * width, records.length)) return bad(what + " is out of bounds");
    for (uint32_t index = 0; index < count; index++, offset += width) {
      if (read<uint32_t>(start, offset) % 8 != 0) return bad(what + " points into an instruction");
      const auto second = read<uint32_t>(start, offset + 4);
      if (records.least == 16) {
        const auto third = read<uint32_t>(start, offset + 8);
        const bool core = records.name[0] == 'C';
        if (core && (second >= bounds.typeCount || third >= bounds.textSize || read<uint32_t>(start, offset + 12) > 64)) return bad(what + " refers to what is not there");
        if (!core && (second >= bounds.textSize || third >= bounds.textSize)) return bad(what + " refers to what is not there");
      } else if (second >= bounds.typeCount) {
        return bad(what + " refers to a type that is not there");
      }
    }
  }
  return Nothing{};
}

}  // namespace

Status checkBtf(const uint8_t* bytes, size_t size, BtfBounds& bounds) {
  if (size < kHeaderBytes) return bad("it is too short");
  if (read<uint16_t>(bytes, 0) != BTF_MAGIC || bytes[2] != BTF_VERSION) return bad("its header is not BTF's");
  const Header header{read<uint32_t>(bytes, 4), read<uint32_t>(bytes, 8), read<uint32_t>(bytes, 12), read<uint32_t>(bytes, 16), read<uint32_t>(bytes, 20)};
  if (header.length < kHeaderBytes || header.length > size) return bad("its header is out of bounds");
  const size_t rest = size - header.length;
  if (header.typeOffset % 4 != 0 || !inside(header.typeOffset, header.typeLength, rest) || !inside(header.textOffset, header.textLength, rest) ||
      header.typeOffset + uint64_t{header.typeLength} > header.textOffset)
    return bad("its parts are out of bounds");
  const uint8_t* text = bytes + header.length + header.textOffset;
  if (header.textLength == 0 || text[0] != 0 || text[header.textLength - 1] != 0) return bad("its names are cut off");
  return Types(bytes + header.length + header.typeOffset, header.typeLength, text, header.textLength).run(bounds);
}

Status checkBtfExt(const uint8_t* bytes, size_t size, const BtfBounds& bounds) {
  if (size < kHeaderBytes) return bad(".BTF.ext is too short");
  const auto length = read<uint32_t>(bytes, 4);
  if (read<uint16_t>(bytes, 0) != BTF_MAGIC || bytes[2] != BTF_VERSION || length < kHeaderBytes || length > size || length % 4 != 0)
    return bad("the header of .BTF.ext is broken");
  const uint8_t* rest = bytes + length;
  if (Status status = checkRecords(rest, size - length, {"Functions", read<uint32_t>(bytes, 8), read<uint32_t>(bytes, 12), 8}, bounds); !status) return status;
  if (Status status = checkRecords(rest, size - length, {"Lines", read<uint32_t>(bytes, 16), read<uint32_t>(bytes, 20), 16}, bounds); !status) return status;
  if (length < 32) return Nothing{};
  return checkRecords(rest, size - length, {"CO-RE", read<uint32_t>(bytes, 24), read<uint32_t>(bytes, 28), 16}, bounds);
}

}  // namespace aegis
