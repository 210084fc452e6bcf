// Reading what programs stream: BPF ring buffers and perf event arrays. A reader takes what is there when it is asked; its
// descriptor says when there is something.
#pragma once

#include <bpf/libbpf.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "result.hpp"

namespace aegis {

struct RecordBatch {
  std::vector<uint8_t> bytes;     // all records, one after the other
  std::vector<uint32_t> lengths;  // of each
  uint64_t lost = 0;              // of a perf event array, as the kernel counts them; a ring buffer's program counts its own
};

class RingReader {
 public:
  // `perfPages`: pages for each CPU of a perf event array, a power of two; 0 for a ring buffer.
  static Result<std::unique_ptr<RingReader>> open(int mapFd, size_t perfPages);
  [[nodiscard]] int pollFd() const;
  // At most about `maxRecords` and `maxBytes`: never less than one record when there is one.
  Result<RecordBatch> take(size_t maxRecords, size_t maxBytes);

 private:
  struct FreeRing {
    void operator()(ring_buffer* ring) const { ring_buffer__free(ring); }
  };
  struct FreePerf {
    void operator()(perf_buffer* perf) const { perf_buffer__free(perf); }
  };
  RingReader() = default;
  static int onRecord(void* context, void* data, size_t size);
  static void onSample(void* context, int cpu, void* data, uint32_t size);
  static void onLost(void* context, int cpu, unsigned long long count);
  void keep(const void* data, size_t size);

  std::unique_ptr<ring_buffer, FreeRing> ring_;
  std::unique_ptr<perf_buffer, FreePerf> perf_;
  RecordBatch batch_;
  size_t maxRecords_ = 0;
  size_t maxBytes_ = 0;
};

}  // namespace aegis
