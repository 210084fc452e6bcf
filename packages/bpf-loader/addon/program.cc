#include "program.hpp"

#include <bpf/bpf.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <unistd.h>

namespace aegis {

namespace {

double milliseconds(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
}

}  // namespace

uint64_t descriptorField(int fd, const char* name) {
  const std::string path = "/proc/self/fdinfo/" + std::to_string(fd);
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  char text[4096];
  const ssize_t size = file.valid() ? read(file.get(), text, sizeof text - 1) : -1;
  if (size <= 0) return 0;
  text[size] = '\0';
  const std::string key = std::string(name) + ":";
  for (const char* line = text; line && *line; line = std::strchr(line, '\n'), line = line ? line + 1 : nullptr) {
    if (std::strncmp(line, key.c_str(), key.size()) == 0) return std::strtoull(line + key.size(), nullptr, 10);
  }
  return 0;
}

Result<ProgramInfo> programInfo(int fd) {
  bpf_prog_info raw{};
  uint32_t size = sizeof raw;
  if (bpf_obj_get_info_by_fd(fd, &raw, &size) != 0) return failureOf(errno, "Cannot read the program");
  std::vector<uint32_t> maps(raw.nr_map_ids);
  if (!maps.empty()) {
    raw = {};
    raw.nr_map_ids = static_cast<uint32_t>(maps.size());
    raw.map_ids = reinterpret_cast<uintptr_t>(maps.data());
    size = sizeof raw;
    if (bpf_obj_get_info_by_fd(fd, &raw, &size) != 0) return failureOf(errno, "Cannot read the program");
    maps.resize(std::min<size_t>(maps.size(), raw.nr_map_ids));
  }
  char tag[17];
  for (size_t at = 0; at < 8; at++) std::snprintf(tag + at * 2, 3, "%02x", raw.tag[at]);
  const double age = milliseconds(CLOCK_BOOTTIME) - static_cast<double>(raw.load_time) / 1e6;
  return ProgramInfo{.id = raw.id,
                     .name = std::string(raw.name, strnlen(raw.name, sizeof raw.name)),
                     .type = raw.type,
                     .tag = tag,
                     .mapIds = std::move(maps),
                     .btfId = raw.btf_id,
                     .loadedAt = std::round(milliseconds(CLOCK_REALTIME) - age),
                     .runCount = raw.run_cnt,
                     .runTimeNs = raw.run_time_ns,
                     .instructions = raw.xlated_prog_len / 8,
                     .jitedBytes = raw.jited_prog_len,
                     .verifiedInstructions = raw.verified_insns,
                     .memlockBytes = descriptorField(fd, "memlock")};
}

Result<TestOutcome> testRun(int fd, const TestRun& run) {
  TestOutcome outcome{};
  // Programs may grow a packet by what the kernel leaves as headroom.
  if (!run.data.empty()) outcome.data.resize(run.data.size() + 1024);
  outcome.context.resize(run.context.size());
  LIBBPF_OPTS(bpf_test_run_opts, options);
  if (!run.data.empty()) {
    options.data_in = run.data.data();
    options.data_size_in = static_cast<uint32_t>(run.data.size());
    options.data_out = outcome.data.data();
    options.data_size_out = static_cast<uint32_t>(outcome.data.size());
  }
  if (!run.context.empty()) {
    options.ctx_in = run.context.data();
    options.ctx_size_in = static_cast<uint32_t>(run.context.size());
    options.ctx_out = outcome.context.data();
    options.ctx_size_out = static_cast<uint32_t>(outcome.context.size());
  }
  options.repeat = static_cast<int>(run.repeat);
  int error = bpf_prog_test_run_opts(fd, &options);
  if (error == -EINVAL && !run.context.empty()) {
    // Tracing and raw tracepoint programs take a context and give none back.
    options.ctx_out = nullptr;
    options.ctx_size_out = 0;
    error = bpf_prog_test_run_opts(fd, &options);
  }
  if (error == -EINVAL && run.repeat != 0) {
    options.repeat = 0;
    error = bpf_prog_test_run_opts(fd, &options);
  }
  if (error != 0) return failureOf(-error, "The kernel did not run the program on test data");
  outcome.returned = options.retval;
  outcome.durationNs = options.duration;
  outcome.data.resize(std::min<size_t>(outcome.data.size(), options.data_size_out));
  outcome.context.resize(std::min<size_t>(outcome.context.size(), options.ctx_size_out));
  return outcome;
}

}  // namespace aegis
