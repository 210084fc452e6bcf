#include "ring.hpp"

#include <cerrno>

#include "map.hpp"
#include "print_capture.hpp"

namespace aegis {

Result<std::unique_ptr<RingReader>> RingReader::open(int mapFd, size_t perfPages) {
  Result<MapInfo> info = mapInfo(mapFd);
  if (!info) return info.failure();
  const uint32_t wanted = perfPages == 0 ? BPF_MAP_TYPE_RINGBUF : BPF_MAP_TYPE_PERF_EVENT_ARRAY;
  if (info->type != wanted)
    return Failure{.code = "bpf.invalid", .message = "Map " + info->name + " is not a " + (perfPages == 0 ? "ring buffer." : "perf event array."), .error = EINVAL};
  const PrintCapture printed;
  std::unique_ptr<RingReader> reader(new RingReader());
  if (perfPages == 0)
    reader->ring_.reset(ring_buffer__new(mapFd, onRecord, reader.get(), nullptr));
  else
    reader->perf_.reset(perf_buffer__new(mapFd, perfPages, onSample, onLost, reader.get(), nullptr));
  if (reader->ring_ || reader->perf_) return reader;
  return failureOf(errno, "Cannot read map " + info->name).with("libbpf", printed.text());
}

int RingReader::pollFd() const { return ring_ ? ring_buffer__epoll_fd(ring_.get()) : perf_buffer__epoll_fd(perf_.get()); }

void RingReader::keep(const void* data, size_t size) {
  const auto* bytes = static_cast<const uint8_t*>(data);
  batch_.bytes.insert(batch_.bytes.end(), bytes, bytes + size);
  batch_.lengths.push_back(static_cast<uint32_t>(size));
}

// A negative answer ends this round; libbpf has taken the record by then.
int RingReader::onRecord(void* context, void* data, size_t size) {
  auto* reader = static_cast<RingReader*>(context);
  reader->keep(data, size);
  return reader->batch_.lengths.size() >= reader->maxRecords_ || reader->batch_.bytes.size() >= reader->maxBytes_ ? -EAGAIN : 0;
}

void RingReader::onSample(void* context, int, void* data, uint32_t size) { static_cast<RingReader*>(context)->keep(data, size); }

void RingReader::onLost(void* context, int, unsigned long long count) { static_cast<RingReader*>(context)->batch_.lost += count; }

Result<RecordBatch> RingReader::take(size_t maxRecords, size_t maxBytes) {
  batch_ = {};
  maxRecords_ = maxRecords;
  maxBytes_ = maxBytes;
  int error = 0;
  if (ring_) {
    error = ring_buffer__consume(ring_.get());
  } else {
    // CPU by CPU, so that a batch is bounded by one buffer more than asked.
    for (size_t at = 0; at < perf_buffer__buffer_cnt(perf_.get()) && error >= 0; at++) {
      if (batch_.lengths.size() >= maxRecords_ || batch_.bytes.size() >= maxBytes_) break;
      error = perf_buffer__consume_buffer(perf_.get(), at);
    }
  }
  if (error < 0 && error != -EAGAIN) return failureOf(-error, "Cannot read the stream");
  return std::move(batch_);
}

}  // namespace aegis
