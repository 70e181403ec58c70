#include "gpu/gather_measure.h"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <memory>
#include <span>
#include <utility>

namespace forge::gpu {
namespace {

/// The first run of a shape warms up. The shortest of the others is what the path can do.
constexpr int kRuns = 5;
/// Between pieces, so that they are not one; a line or two of the device.
constexpr std::size_t kGap = 256;
constexpr std::size_t kMostPieces = GatherPlan::kPieces.back();
constexpr std::size_t kMostBytes = GatherPlan::kPieceBytes.back();

/// Pages of our own, unmapped at the end.
class Pages {
 public:
  explicit Pages(std::size_t size) : size_(size) {
    void* const data =
        ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data != MAP_FAILED) data_ = static_cast<std::byte*>(data);
  }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  ~Pages() {
    if (data_ != nullptr) ::munmap(data_, size_);
  }
  /// Empty if there is no memory.
  HostPiece memory() const { return {data_, data_ == nullptr ? 0 : size_}; }

 private:
  std::size_t size_;
  std::byte* data_ = nullptr;
};

struct Shape {
  GatherPath path;
  std::vector<HostPiece> pieces;
};

Result<double> measure(Stream& stream, Buffer& to, const Shape& shape) {
  using Clock = std::chrono::steady_clock;
  auto least = Clock::duration::max();
  for (int run = 0; run <= kRuns; ++run) {
    const auto begin = Clock::now();
    Status status = stream.gather(to, 0, shape.pieces, shape.path);
    if (status.ok()) status = stream.synchronize();
    if (!status.ok()) return make_error(status);
    if (run > 0) least = std::min(least, Clock::now() - begin);
  }
  return std::chrono::duration<double, std::nano>(least).count();
}

/// All shapes on one path; empty if the device refuses one.
std::vector<GatherTime> measure_path(Stream& stream, Buffer& to, HostPiece memory,
                                     GatherPath path) {
  std::vector<GatherTime> times;
  for (const std::size_t count : GatherPlan::kPieces) {
    for (const std::size_t size : GatherPlan::kPieceBytes) {
      Shape shape{path, {}};
      for (std::size_t i = 0; i < count; ++i) {
        shape.pieces.push_back(memory.subspan(i * (size + kGap), size));
      }
      const auto ns = measure(stream, to, shape);
      if (!ns) return {};
      times.push_back({path, count, size, *ns});
    }
  }
  return times;
}

}  // namespace

Result<std::vector<GatherTime>> measure_gather(Backend& backend) {
  std::vector<GatherTime> all;
  const Pages pages(kMostPieces * (kMostBytes + kGap));
  const auto stream = backend.make_stream();
  if (!stream) return stream.error_ptr();
  const auto pinned = backend.pin(pages.memory());
  const auto buffer = (*stream)->allocate(kMostPieces * kMostBytes);
  if (pinned && buffer) {
    for (const GatherPath path : {GatherPath::copies, GatherPath::batched, GatherPath::kernel}) {
      const auto times = measure_path(**stream, **buffer, pages.memory(), path);
      all.insert(all.end(), times.begin(), times.end());
    }
  }
  // Whatever is still under way must not read the pages any more.
  if (Status status = (*stream)->synchronize(); !status.ok()) return make_error(status);
  return all;
}

}  // namespace forge::gpu
