#include "gpu/backend.h"

#include <chrono>
#include <string>
#include <utility>

#include "gpu/pin_lock.h"

namespace forge::gpu {
namespace {

/// ok if bytes [offset, offset + size) lie in the buffer.
Status check_range(const Buffer& buffer, std::size_t offset, std::size_t size) {
  if (offset <= buffer.size() && size <= buffer.size() - offset) return {};
  return {ErrorCode::invalid_argument,
          "device copy of " + std::to_string(size) + " bytes at " + std::to_string(offset) +
              " does not lie in a buffer of " + std::to_string(buffer.size()) + " bytes"};
}

/// Pinning takes about a second for 10 GiB, and all ranks of a machine may come at once.
constexpr std::chrono::seconds kPinTimeout{120};

}  // namespace

Buffer::~Buffer() = default;
Event::~Event() = default;
PinnedRegion::~PinnedRegion() = default;
Graph::~Graph() = default;
Stream::~Stream() = default;
Backend::~Backend() = default;

Status Stream::copy_in(Buffer& to, std::size_t offset, HostPiece from) {
  if (Status status = check_range(to, offset, from.size()); !status.ok()) return status;
  return from.empty() ? Status() : do_copy_in(to.device_data() + offset, from);
}

Status Stream::copy_out(std::span<std::byte> to, const Buffer& from, std::size_t offset) {
  if (Status status = check_range(from, offset, to.size()); !status.ok()) return status;
  return to.empty() ? Status() : do_copy_out(to, from.device_data() + offset);
}

Status Stream::copy_between(Buffer& to, std::size_t to_offset, const Buffer& from,
                            std::size_t from_offset, std::size_t bytes) {
  if (Status status = check_range(to, to_offset, bytes); !status.ok()) return status;
  if (Status status = check_range(from, from_offset, bytes); !status.ok()) return status;
  if (bytes == 0) return {};
  return do_copy_between(to.device_data() + to_offset, from.device_data() + from_offset, bytes);
}

Status Stream::gather(Buffer& to, std::size_t offset, std::span<const HostPiece> pieces,
                      GatherPath path) {
  if (Status status = check_range(to, offset, 0); !status.ok()) return status;
  runs_.clear();
  // Looked at one by one: the sum of sizes could overflow.
  std::size_t end = offset;
  for (const HostPiece piece : pieces) {
    if (Status status = check_range(to, end, piece.size()); !status.ok()) return status;
    end += piece.size();
    if (piece.empty()) continue;
    if (!runs_.empty() && runs_.back().data() + runs_.back().size() == piece.data()) {
      runs_.back() = {runs_.back().data(), runs_.back().size() + piece.size()};
    } else {
      runs_.push_back(piece);
    }
  }
  std::byte* const start = to.device_data() + offset;
  if (runs_.empty()) return {};
  return runs_.size() == 1 ? do_copy_in(start, runs_[0]) : do_gather(start, runs_, path);
}

Status Stream::do_gather(std::byte* to, std::span<const HostPiece> pieces, GatherPath) {
  for (const HostPiece piece : pieces) {
    if (Status status = do_copy_in(to, piece); !status.ok()) return status;
    to += piece.size();
  }
  return {};
}

// ---- captures

Status Stream::refuse_while_capturing(const char* what) const {
  if (!capturing_) return {};
  return {ErrorCode::invalid_argument,
          std::string("graph capture: ") + what +
              " is not possible between begin_capture() and end_capture(); do it before"};
}

Status Stream::begin_capture() {
  if (Status status = refuse_while_capturing("another capture"); !status.ok()) return status;
  Status status = do_begin_capture();
  capturing_ = status.ok();
  return status;
}

Result<std::unique_ptr<Graph>> Stream::end_capture() {
  if (!std::exchange(capturing_, false)) {
    return make_error({ErrorCode::invalid_argument,
                       "graph capture: end_capture() without begin_capture() before it"});
  }
  return do_end_capture();
}

Status Stream::launch(Graph& graph) {
  Status status = refuse_while_capturing("launching a graph");
  return status.ok() ? do_launch(graph) : status;
}

Result<std::unique_ptr<Buffer>> Stream::allocate(std::size_t bytes) {
  Status status = refuse_while_capturing("allocating device memory");
  if (!status.ok()) return make_error(status);
  return do_allocate(bytes);
}

Status Stream::record(Event& event) {
  Status status = refuse_while_capturing("recording an event");
  return status.ok() ? do_record(event) : status;
}

Status Stream::wait(const Event& event) {
  Status status = refuse_while_capturing("waiting for an event");
  return status.ok() ? do_wait(event) : status;
}

Status Stream::synchronize() {
  Status status = refuse_while_capturing("waiting for the stream");
  return status.ok() ? do_synchronize() : status;
}

// ---- pinning

Result<std::unique_ptr<PinnedRegion>> Backend::pin(HostPiece memory, const PinOptions& options) {
  auto claim = PinTable::claim(pins_, memory);
  if (!claim) return claim.error_ptr();
  if (options.file < 0) return do_pin(std::move(*claim), options);
  const auto turn = PinLock::take(options.file, kPinTimeout);
  if (!turn) return turn.error_ptr();
  return do_pin(std::move(*claim), options);
}

}  // namespace forge::gpu
