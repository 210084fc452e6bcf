// Mutates eBPF objects and reads them as the addon does, without the kernel: elf-fuzz [--seed N] [--count N] [--save FILE] OBJECT…
// With --load (as root) each that was read is loaded into the kernel too, and released at once: nothing is attached.
// Built with AddressSanitizer and UBSan (`make asan`). The same seed gives the same mutants; a mutant that takes longer than its
// alarm, or trips a sanitizer, ends the run with its number on stderr. Prints how many were refused and how many were read.
#include <elf.h>
#include <sanitizer/common_interface_defs.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "../inspect.hpp"
#include "../object.hpp"
#include "../print_capture.hpp"

namespace {

using Bytes = std::vector<uint8_t>;
constexpr unsigned int kSecondsEach = 20;

// splitmix64: small, and the same everywhere.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t value = (state_ += 0x9e3779b97f4a7c15);
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
    value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
    return value ^ (value >> 31);
  }
  size_t below(size_t limit) { return limit == 0 ? 0 : static_cast<size_t>(next() % limit); }

 private:
  uint64_t state_;
};

struct Range {
  size_t offset;
  size_t size;
};

// Header, section table and each section of an object that a compiler wrote: mutations go there rather than anywhere.
std::vector<Range> rangesOf(const Bytes& bytes) {
  std::vector<Range> ranges{{0, sizeof(Elf64_Ehdr)}};
  Elf64_Ehdr header;
  std::memcpy(&header, bytes.data(), sizeof header);
  ranges.push_back({header.e_shoff, size_t{header.e_shnum} * sizeof(Elf64_Shdr)});
  for (size_t index = 0; index < header.e_shnum; index++) {
    Elf64_Shdr section;
    std::memcpy(&section, bytes.data() + header.e_shoff + index * sizeof section, sizeof section);
    if (section.sh_type != SHT_NOBITS && section.sh_size > 0 && section.sh_offset + section.sh_size <= bytes.size())
      ranges.push_back({section.sh_offset, section.sh_size});
  }
  return ranges;
}

uint64_t interesting(Random& random) {
  static constexpr uint64_t values[] = {0, 1, 2, 7, 8, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xffffffff, 0x7fffffffffffffff, 0x8000000000000000, ~0ULL};
  switch (random.below(4)) {
    case 0:
      return random.next();
    case 1:  // types of maps, kinds, ids, lengths
      return random.below(64);
    default:
      return values[random.below(std::size(values))];
  }
}

void mutateOnce(Bytes& bytes, const std::vector<Range>& ranges, Random& random) {
  if (bytes.empty()) return;
  const Range range = ranges[random.below(ranges.size())];
  const size_t at = (range.offset + random.below(range.size)) % bytes.size();
  const size_t room = bytes.size() - at;
  switch (random.below(10)) {
    case 0:
      bytes[at] ^= static_cast<uint8_t>(1U << random.below(8));
      break;
    case 1:
      bytes[at] = static_cast<uint8_t>(random.next());
      break;
    case 2:
      bytes.resize(at);
      break;
    case 3: {  // a part moved to elsewhere
      const size_t from = random.below(bytes.size());
      const size_t size = random.below(std::min({room, bytes.size() - from, size_t{64}}) + 1);
      std::memmove(bytes.data() + at, bytes.data() + from, size);
      break;
    }
    case 4:
      bytes.insert(bytes.begin() + static_cast<ptrdiff_t>(at), random.below(32), static_cast<uint8_t>(random.next()));
      break;
    case 5:  // small steps: one beyond, one before
      bytes[at] = static_cast<uint8_t>(bytes[at] + (random.below(2) == 0 ? 1 : -1));
      break;
    default: {  // a whole field, aligned as fields are
      static constexpr size_t widths[] = {1, 2, 4, 8};
      const size_t width = widths[random.below(4)];
      const size_t field = at / width * width;
      const uint64_t value = interesting(random);
      if (field + width <= bytes.size()) std::memcpy(bytes.data() + field, &value, width);
      break;
    }
  }
}

Bytes readFile(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// Resolves relocations as a load does, into a loader program that is thrown away: what libbpf does before it asks the kernel.
bool relocate(const Bytes& bytes) {
  aegis::Result<aegis::Object> object = aegis::Object::open("object", bytes);
  if (!object) return false;
  const aegis::PrintCapture printed;
  bpf_program* program = nullptr;
  while ((program = bpf_object__next_program(object->get(), program)) != nullptr) {
    if (bpf_program__type(program) == BPF_PROG_TYPE_UNSPEC) bpf_program__set_type(program, BPF_PROG_TYPE_XDP);
  }
  LIBBPF_OPTS(gen_loader_opts, options);
  return bpf_object__gen_loader(object->get(), &options) == 0 && bpf_object__load(object->get()) == 0;
}

uint64_t current = 0;

void tell(const char* what) {
  char text[96];
  const int size = std::snprintf(text, sizeof text, "elf-fuzz: mutant %llu %s\n", static_cast<unsigned long long>(current), what);
  if (write(STDERR_FILENO, text, static_cast<size_t>(size)) < 0) _exit(3);
}

void onAlarm(int) {
  tell("takes too long");
  _exit(2);
}

}  // namespace

int main(int count, char** arguments) {
  uint64_t seed = 1;
  uint64_t mutants = 1000;
  const char* save = nullptr;
  bool load = false;
  uint64_t only = 0;
  std::vector<Bytes> objects;
  for (int index = 1; index < count; index++) {
    const std::string argument = arguments[index];
    const char* value = index + 1 < count ? arguments[index + 1] : "";
    if (argument == "--seed")
      seed = std::strtoull(value, nullptr, 10), index++;
    else if (argument == "--count")
      mutants = std::strtoull(value, nullptr, 10), index++;
    else if (argument == "--only")
      only = std::strtoull(value, nullptr, 10), index++;
    else if (argument == "--save")
      save = value, index++;
    else if (argument == "--load")
      load = true;
    else
      objects.push_back(readFile(arguments[index]));
  }
  if (objects.empty()) {
    std::fputs("usage: elf-fuzz [--seed N] [--count N] [--only N] [--save FILE] OBJECT...\n", stderr);
    return 64;
  }
  for (const Bytes& object : objects) {
    if (!aegis::inspectObject(object)) {
      std::fputs("elf-fuzz: an object that was not mutated cannot be read\n", stderr);
      return 1;
    }
  }
  __sanitizer_set_death_callback([] { tell("trips the sanitizer"); });
  signal(SIGALRM, onAlarm);
  uint64_t refused = 0;
  uint64_t unread = 0;
  uint64_t read = 0;
  uint64_t relocated = 0;
  uint64_t loaded = 0;
  for (current = 1; current <= mutants; current++) {
    Random random(seed * 0x100000001b3 + current);
    const Bytes& original = objects[random.below(objects.size())];
    const std::vector<Range> ranges = rangesOf(original);
    Bytes mutant = original;
    for (size_t times = 1 + random.below(4); times > 0; times--) mutateOnce(mutant, ranges, random);
    if (only != 0 && current != only) continue;
    if (save) std::ofstream(save, std::ios::binary).write(reinterpret_cast<const char*>(mutant.data()), static_cast<std::streamsize>(mutant.size()));
    alarm(kSecondsEach);
    aegis::Result<aegis::ObjectReport> report = aegis::inspectObject(mutant);
    if (report && relocate(mutant)) relocated++;
    if (report && load) {
      aegis::LoadRequest request;
      request.name = "fuzz";
      request.bytes = mutant;
      if (aegis::load(std::move(request))) loaded++;
    }
    alarm(0);
    if (report)
      read++;
    else if (report.failure().message.starts_with("libbpf"))
      unread++;
    else
      refused++;
  }
  if (load) std::fprintf(stderr, "elf-fuzz: loaded %llu\n", static_cast<unsigned long long>(loaded));
  std::printf("{\"mutants\":%llu,\"refused\":%llu,\"refusedByLibbpf\":%llu,\"read\":%llu,\"relocated\":%llu}\n", static_cast<unsigned long long>(mutants),
              static_cast<unsigned long long>(refused), static_cast<unsigned long long>(unread), static_cast<unsigned long long>(read), static_cast<unsigned long long>(relocated));
  return 0;
}
