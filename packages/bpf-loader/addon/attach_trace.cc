// Tracing: raw tracepoints and trampolines by their own links; tracepoints, probes and perf events by a link on a perf event.
#include <elf.h>
#include <fcntl.h>
#include <gelf.h>
#include <libelf.h>
#include <linux/perf_event.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "attach.hpp"

namespace aegis {

namespace {

Result<LinkFd> openRawTracepoint(int program, const std::string& name) {
  sys::RawTracepointOpen attribute{};
  attribute.programFd = static_cast<uint32_t>(program);
  attribute.name = name.empty() ? 0 : sys::pointer(name.c_str());
  LinkFd fd(sys::bpf(sys::kRawTracepointOpen, attribute));
  if (fd.valid()) return fd;
  const int error = errno;
  if (error == ENOENT)
    return Failure{.code = "bpf.no_such_target", .message = "The kernel has no raw tracepoint " + name + ".", .error = error}.with("tracepoint", name);
  return failureOf(error, "The kernel did not attach the program to raw tracepoint " + name, "bpf.attach_refused");
}

Result<PerfFd> openPerf(const PerfTarget& target) {
  perf_event_attr attribute{};
  attribute.size = sizeof attribute;
  attribute.type = target.type;
  attribute.config = target.config;
  if (!target.text.empty()) attribute.config1 = sys::pointer(target.text.c_str());
  attribute.config2 = target.offset;
  if (target.frequency != 0) {
    attribute.freq = 1;
    attribute.sample_freq = target.frequency;
  } else if (target.period != 0) {
    attribute.sample_period = target.period;
  }
  PerfFd fd(static_cast<int>(syscall(SYS_perf_event_open, &attribute, target.pid, target.cpu, -1, PERF_FLAG_FD_CLOEXEC)));
  if (fd.valid()) return fd;
  const int error = errno;
  const std::string what = target.text.empty() ? std::string("this event") : target.text;
  switch (error) {
    case ENOENT:
    case ENODEV:
    case EOPNOTSUPP:
      // Of probes ENOENT is the symbol or file; of hardware events the counter that this machine lacks.
      if (error == ENOENT && !target.text.empty())
        return Failure{.code = "bpf.no_such_target", .message = "There is no " + what + " to probe.", .error = error};
      return Failure{.code = "bpf.unsupported", .message = "This machine does not count " + what + ": take a software event such as cpu_clock.", .error = error};
    case ESRCH:
      return Failure{.code = "bpf.no_such_target", .message = "There is no process " + std::to_string(target.pid) + ".", .error = error};
    case EINVAL:
    case EILSEQ:
    case EADDRNOTAVAIL:
      if (!target.text.empty())
        return Failure{.code = "bpf.attach_refused", .message = "The kernel does not probe " + what + " at this offset.", .error = error};
      break;
    default:
      break;
  }
  return failureOf(error, "The kernel did not open a perf event for " + what, "bpf.attach_refused");
}

}  // namespace

Result<LinkFd> attachRawTracepoint(int program, const std::string& name, const std::string& pinPath) {
  return pinnedLink(pinPath, [&] { return openRawTracepoint(program, name); });
}

Result<LinkFd> attachTracing(int program, uint32_t attachType, const std::string& pinPath) {
  return pinnedLink(pinPath, [&]() -> Result<LinkFd> {
    sys::LinkCreate attribute{};
    attribute.programFd = static_cast<uint32_t>(program);
    attribute.attachType = attachType;
    Result<LinkFd> link = createLink(attribute, "The kernel did not attach the program to its function");
    // Kernels before 5.17 make this link by another command.
    if (!link && link.failure().error == EINVAL) link = openRawTracepoint(program, "");
    if (!link && link.failure().error == EBUSY)
      return Failure{.code = "bpf.hook_busy", .message = "This function holds as many programs as it can: detach one first.", .error = EBUSY};
    return link;
  });
}

Result<LinkFd> attachPerf(int program, const PerfTarget& target, const std::string& pinPath) {
  return pinnedLink(pinPath, [&]() -> Result<LinkFd> {
    Result<PerfFd> event = openPerf(target);
    if (!event) return event.failure();
    sys::LinkCreate attribute{};
    attribute.programFd = static_cast<uint32_t>(program);
    attribute.target = static_cast<uint32_t>(event->get());
    attribute.attachType = sys::kPerfEvent;
    Result<LinkFd> link = createLink(attribute, "The kernel did not attach the program to its event");
    if (!link) return link;
    // The link keeps the event alive; enabling is the last step, as with perf itself.
    if (ioctl(event->get(), PERF_EVENT_IOC_ENABLE, 0) != 0) return failureOf(errno, "Cannot enable the event", "bpf.attach_refused");
    return link;
  });
}

namespace {

struct EndElf {
  void operator()(Elf* elf) const { elf_end(elf); }
};

// A function's offset in the file, of one symbol table.
bool findIn(Elf* elf, Elf_Scn* section, const GElf_Shdr& header, const std::string& symbol, uint64_t& offset) {
  Elf_Data* data = elf_getdata(section, nullptr);
  if (!data || header.sh_entsize == 0) return false;
  for (size_t index = 0; index < header.sh_size / header.sh_entsize; index++) {
    GElf_Sym one;
    if (!gelf_getsym(data, static_cast<int>(index), &one)) return false;
    if (GELF_ST_TYPE(one.st_info) != STT_FUNC || one.st_shndx == SHN_UNDEF || one.st_shndx >= SHN_LORESERVE) continue;
    const char* name = elf_strptr(elf, header.sh_link, one.st_name);
    if (!name || symbol != name) continue;
    GElf_Shdr home;
    Elf_Scn* where = elf_getscn(elf, one.st_shndx);
    if (!where || !gelf_getshdr(where, &home)) return false;
    offset = one.st_value - home.sh_addr + home.sh_offset;
    return true;
  }
  return false;
}

}  // namespace

Result<uint64_t> symbolOffset(const std::string& binary, const std::string& symbol) {
  const Descriptor fd(open(binary.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) {
    const int error = errno;
    if (error == ENOENT) return Failure{.code = "bpf.no_such_target", .message = "There is no file " + binary + ".", .error = error}.with("binary", binary);
    return failureOf(error, "Cannot open " + binary, "bpf.no_such_target");
  }
  elf_version(EV_CURRENT);
  const std::unique_ptr<Elf, EndElf> elf(elf_begin(fd.get(), ELF_C_READ, nullptr));
  if (!elf || elf_kind(elf.get()) != ELF_K_ELF)
    return Failure{.code = "bpf.no_such_target", .message = binary + " is not a program or library (ELF).", .error = ENOEXEC}.with("binary", binary);
  for (const uint32_t wanted : {SHT_SYMTAB, SHT_DYNSYM}) {
    Elf_Scn* section = nullptr;
    while ((section = elf_nextscn(elf.get(), section)) != nullptr) {
      GElf_Shdr header;
      uint64_t offset = 0;
      if (gelf_getshdr(section, &header) && header.sh_type == wanted && findIn(elf.get(), section, header, symbol, offset)) return offset;
    }
  }
  return Failure{.code = "bpf.no_such_target", .message = binary + " has no function " + symbol + " in its symbol tables: give an offset.", .error = ENOENT}
      .with("binary", binary)
      .with("symbol", symbol);
}

}  // namespace aegis
