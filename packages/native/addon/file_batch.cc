// Many small files at once, in libuv's thread pool: each is proven by its SHA-256, written under a temporary name, and renamed. For restores:
// making a file takes five system calls, and a thread that does nothing else leaves JavaScript free for the next ones.
#include "arguments.hpp"
#include "../exec/sha256.h"

#include <cstdio>
#include <fcntl.h>
#include <memory>
#include <sys/stat.h>
#include <utility>
#include <vector>

namespace aegis {
namespace {

// Order and count must match BATCH in src/file-batch.ts.
constexpr size_t FIELDS = 13;
// Results beside 0 and errno, as there.
constexpr int32_t WRONG_DIGEST = -1;
constexpr int32_t NAME_TAKEN = -2;
constexpr int32_t NOT_DRESSED = -3;
constexpr size_t DIGEST_CHARS = 64;

struct Job {
  int dir;
  const uint8_t* data;
  size_t length;
  mode_t mode;
  bool owned;
  uid_t uid;
  gid_t gid;
  timespec mtime;
  bool replace;      // what stands under the name goes
  bool mayReplace;   // also what was not expected there
  const char* temporary;
  const char* name;
  const char* digest;
};

int32_t renamed(const Job& job) {
  if (job.replace) return renameat(job.dir, job.temporary, job.dir, job.name) == 0 ? 0 : errno;
  if (renameat2(job.dir, job.temporary, job.dir, job.name, RENAME_NOREPLACE) == 0) return 0;
  if (errno == EINVAL || errno == ENOSYS) {
    // Not every file system knows the other way.
    if (linkat(job.dir, job.temporary, job.dir, job.name, 0) == 0) return unlinkat(job.dir, job.temporary, 0) == 0 ? 0 : errno;
  }
  if (errno != EEXIST) return errno;
  if (!job.mayReplace) return NAME_TAKEN;
  return renameat(job.dir, job.temporary, job.dir, job.name) == 0 ? 0 : errno;
}

int32_t filled(const Job& job, int fd) {
  for (size_t done = 0; done < job.length;) {
    const ssize_t put = uninterrupted([&] { return pwrite(fd, job.data + done, job.length - done, static_cast<off_t>(done)); });
    if (put < 0) return errno;
    if (put == 0) return EIO;
    done += static_cast<size_t>(put);
  }
  const std::array<timespec, 2> times{timespec{0, UTIME_OMIT}, job.mtime};
  if (job.owned && fchown(fd, job.uid, job.gid) != 0) return NOT_DRESSED;
  if (fchmod(fd, job.mode) != 0 || futimens(fd, times.data()) != 0) return NOT_DRESSED;
  return 0;
}

int32_t written(const Job& job) {
  sha256 hash;
  sha256_init(&hash);
  sha256_update(&hash, job.data, job.length);
  std::array<char, DIGEST_CHARS + 1> hex;
  sha256_hex(&hash, hex.data());
  if (std::memcmp(hex.data(), job.digest, DIGEST_CHARS) != 0) return WRONG_DIGEST;
  int32_t result;
  {
    const Descriptor file(uninterrupted([&] { return openat(job.dir, job.temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600); }));
    if (!file.valid()) return errno;
    result = filled(job, file.get());
  }
  if (result == 0) result = renamed(job);
  if (result != 0) unlinkat(job.dir, job.temporary, 0);
  return result;
}

// By Node-API itself, not by Napi::AsyncWorker: when a worker thread is ended while a batch is under way, no JavaScript can be called any more,
// and the wrapper would end the whole process for it. Here a call that fails is one that nobody waits for.
class Batch {
 public:
  explicit Batch(napi_env env) : env_(env) {}
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;
  ~Batch() {
    for (napi_ref reference : held_) napi_delete_reference(env_, reference);
    if (work_ != nullptr) napi_delete_async_work(env_, work_);
  }

  // Keeps memory that jobs point into.
  [[nodiscard]] bool hold(napi_value object) {
    napi_ref reference = nullptr;
    if (napi_create_reference(env_, object, 1, &reference) != napi_ok) return false;
    held_.push_back(reference);
    return true;
  }

  // The promise, or null. From then on the batch owns itself.
  [[nodiscard]] static napi_value queue(std::unique_ptr<Batch> batch) {
    napi_value promise = nullptr;
    napi_value name = nullptr;
    Batch* self = batch.get();
    self->results_.reserve(self->jobs.size());
    if (napi_create_promise(self->env_, &self->deferred_, &promise) != napi_ok) return nullptr;
    if (napi_create_string_utf8(self->env_, "aegis.writeFiles", NAPI_AUTO_LENGTH, &name) != napi_ok) return nullptr;
    if (napi_create_async_work(self->env_, nullptr, name, execute, complete, self, &self->work_) != napi_ok) return nullptr;
    if (napi_queue_async_work(self->env_, self->work_) != napi_ok) return nullptr;
    batch.release();
    return promise;
  }

  std::vector<Job> jobs;

 private:
  static void execute(napi_env, void* data) {
    auto* self = static_cast<Batch*>(data);
    for (const Job& job : self->jobs) self->results_.push_back(written(job));
  }
  static void complete(napi_env env, napi_status, void* data) {
    const std::unique_ptr<Batch> self(static_cast<Batch*>(data));
    const size_t bytes = self->results_.size() * sizeof(int32_t);
    void* memory = nullptr;
    napi_value buffer = nullptr;
    napi_value results = nullptr;
    if (napi_create_arraybuffer(env, bytes, &memory, &buffer) != napi_ok) return;
    if (bytes > 0) std::memcpy(memory, self->results_.data(), bytes);
    if (napi_create_typedarray(env, napi_int32_array, self->results_.size(), buffer, 0, &results) != napi_ok) return;
    (void)napi_resolve_deferred(env, self->deferred_, results);
  }

  napi_env env_;
  napi_async_work work_ = nullptr;
  napi_deferred deferred_ = nullptr;
  std::vector<napi_ref> held_;
  std::vector<int32_t> results_;
};

// Where the text ends that begins at `at`; nothing beyond the buffer.
bool isText(std::span<uint8_t> all, int64_t at) {
  return at >= 0 && static_cast<uint64_t>(at) < all.size() && std::memchr(all.data() + at, 0, all.size() - static_cast<size_t>(at)) != nullptr;
}

// writeFiles(buffers, numbers, texts, digests) → Promise of an Int32Array; see src/file-batch.ts.
Napi::Value writeFiles(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Arguments given(info);
  const std::span<double> numbers = given.doubles(1);
  const std::span<uint8_t> texts = given.bytes(2);
  const std::span<uint8_t> digests = given.bytes(3);
  if (!given.wrong() && !info[0].IsArray()) given.refuse("an array of Buffers was expected");
  const size_t count = numbers.size() / FIELDS;
  if (!given.wrong() && (numbers.size() % FIELDS != 0 || digests.size() < count * DIGEST_CHARS)) given.refuse("numbers and digests do not belong together");
  if (given.wrong()) return env.Undefined();
  const Napi::Array buffers = info[0].As<Napi::Array>();
  std::vector<std::span<uint8_t>> memory;
  auto batch = std::make_unique<Batch>(env);
  for (uint32_t index = 0; index < buffers.Length() && !given.wrong(); index++) {
    const Napi::Value value = buffers.Get(index);
    void* data = nullptr;
    size_t length = 0;
    napi_typedarray_type type{};
    if (napi_get_typedarray_info(env, value, &type, &length, &data, nullptr, nullptr) != napi_ok || type != napi_uint8_array) {
      given.refuse("a Buffer was expected");
      break;
    }
    memory.emplace_back(static_cast<uint8_t*>(data), length);
    if (!batch->hold(value)) given.refuse("the batch could not be kept");
  }
  if (!given.wrong() && (!batch->hold(info[2]) || !batch->hold(info[3]))) given.refuse("the batch could not be kept");
  for (size_t index = 0; index < count && !given.wrong(); index++) {
    const double* field = numbers.data() + index * FIELDS;
    const auto at = [&](size_t which) { return static_cast<int64_t>(field[which]); };
    const auto buffer = at(1);
    const bool inside = buffer >= 0 && static_cast<uint64_t>(buffer) < memory.size() && at(2) >= 0 && at(3) >= 0 &&
                        static_cast<uint64_t>(at(2)) <= memory[buffer].size() && static_cast<uint64_t>(at(3)) <= memory[buffer].size() - static_cast<uint64_t>(at(2));
    if (!inside || !isText(texts, at(11)) || !isText(texts, at(12))) {
      given.refuse("a file of the batch lies outside of its buffers");
      break;
    }
    const auto* text = reinterpret_cast<const char*>(texts.data());
    batch->jobs.push_back({static_cast<int>(at(0)), memory[buffer].data() + at(2), static_cast<size_t>(at(3)), static_cast<mode_t>(at(4)), at(5) >= 0,
                           static_cast<uid_t>(at(5)), static_cast<gid_t>(at(6)), timespec{at(7), static_cast<long>(at(8))}, at(9) != 0, at(10) != 0, text + at(11),
                           text + at(12), reinterpret_cast<const char*>(digests.data()) + index * DIGEST_CHARS});
  }
  if (given.wrong()) return env.Undefined();
  napi_value promise = Batch::queue(std::move(batch));
  if (promise == nullptr) {
    given.refuse("the batch could not be queued");
    return env.Undefined();
  }
  return Napi::Value(env, promise);
}

}  // namespace

void exportFileBatch(Napi::Env env, Napi::Object exports) { exports.Set("writeFiles", Napi::Function::New(env, writeFiles, "writeFiles")); }

}  // namespace aegis
