#include "gpu/nccl_group.h"

#include <algorithm>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "shm/wait_strategy.h"

namespace forge::gpu {
namespace {

constexpr std::uint32_t kLooksPerCheck = 64;
/// Between looks, once spinning has lasted too long.
constexpr std::chrono::microseconds kNap{100};

std::string milliseconds(std::chrono::nanoseconds time) {
  return std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(time).count()) +
         " ms";
}

template <class T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

}  // namespace

NcclGroup::~NcclGroup() {
  if (!communicator_ || generation_ == 0) return;
  const auto until = detail::from_now(spec_.closing_time);
  communicator_->close(
      [&] { return spec_.group.trouble().ok() && std::chrono::steady_clock::now() < until; });
}

// ---- waiting

void NcclGroup::drop() noexcept {
  generation_ = 0;
  if (communicator_ && !communicator_->abort()) {
    spec_.stuck(
        {ErrorCode::unavailable, "group: rank " + std::to_string(spec_.group.rank()) +
                                     " has aborted NCCL's communicator, which has not ended in " +
                                     milliseconds(spec_.abort_time) +
                                     "; nothing in this process can use the device any more"});
  }
  communicator_.reset();
}

void NcclGroup::fail(Status why) {
  spec_.failed(why);
  // First we: our work on the device may be what keeps the others.
  drop();
  spec_.group.fail(std::move(why));
}

/// Until finished(), a Result<bool>, is true and NCCL has nothing in progress.
template <class Finished>
void NcclGroup::await(const std::string& what, Finished finished) {
  const auto until = detail::from_now(spec_.timeout);
  shm::Spinner spinner(spec_.wait);
  for (std::uint32_t looks = 0;; ++looks) {
    NcclSight sight{.state = communicator_->state()};
    if (sight.state == nccl::Code::success) {
      const Result<bool> asked = finished();
      if (!asked) fail(to_status(*asked.error_ptr()));
      sight.finished = *asked;
    }
    Status trouble;
    const bool spun = spinner.keep_spinning();
    if (!sight.finished && (!spun || looks % kLooksPerCheck == 0)) {
      trouble = spec_.group.trouble();
      sight.peers_ok = trouble.ok();
      sight.late = shm::SteadyTime::clock::now() >= until;
    }
    switch (judge(sight)) {
      case NcclVerdict::done:
        return;
      case NcclVerdict::wait:
        break;
      case NcclVerdict::lost:
        spec_.group.blame_others();
        fail(std::move(trouble));
      case NcclVerdict::broken:
        fail(
            {ErrorCode::unavailable, "group: rank " + std::to_string(spec_.group.rank()) + " in " +
                                         what + ": " + communicator_->explain(sight.state) +
                                         "; NCCL_DEBUG=WARN in the environment makes it say more"});
      case NcclVerdict::late:
        fail({ErrorCode::deadline_exceeded,
              "group: rank " + std::to_string(spec_.group.rank()) + " waited " +
                  milliseconds(spec_.timeout) + " in " + what +
                  " for NCCL or the device; a rank may hang, or its device is that far behind"});
    }
    if (!spun) std::this_thread::sleep_for(kNap);
  }
}

// ---- the communicator

Status NcclGroup::load() {
  if (library_) return {};
  Result<NcclLibrary> loaded = spec_.load();
  if (!loaded) return to_status(*loaded.error_ptr());
  library_ = std::move(*loaded);
  return {};
}

Invitation NcclGroup::invite() {
  Invitation invitation{.incarnation = spec_.incarnation, .generation = ++last_generation_};
  const nccl::Code code = library_->call.GetUniqueId(&invitation.id);
  // The word for all ranks; why, only this one knows.
  if (code != nccl::Code::success) {
    invitation.failed = static_cast<std::uint32_t>(ErrorCode::unavailable);
  }
  return invitation;
}

/// All ranks are here, because all have seen that they do not hold the same communicator. None has
/// work in its own any more: collectives end before they return.
void NcclGroup::meet() {
  drop();
  Group& group = spec_.group;
  const Status loaded = load();
  const RankCard card = make_card(loaded, library_ ? library_->version : 0, spec_.uuid);
  std::vector<RankCard> cards(static_cast<std::size_t>(group.procs()));
  group.all_gather(bytes_of(card), std::as_writable_bytes(std::span(cards)));
  if (const Status status = judge(cards, loaded); !status.ok()) throw_status(status);

  Invitation invitation = group.rank() == 0 ? invite() : Invitation{};
  group.broadcast(std::as_writable_bytes(std::span(&invitation, 1)), 0);
  Status status = judge(invitation, spec_.incarnation);
  communicator_ = std::make_unique<NcclCommunicator>(*library_, spec_.abort_time);
  if (invitation.failed != 0 && group.rank() == 0) {
    status.message = "group: " + communicator_->explain(nccl::Code::system_error) +
                     " when rank 0 made an id; is the interface in NCCL_SOCKET_IFNAME up?";
  }
  // All ranks find a failed invitation, so all go on from here. Of another incarnation is but ours.
  if (invitation.failed != 0) throw_status(status);
  if (!status.ok()) fail(std::move(status));

  const nccl::Code begun = communicator_->begin(group.procs(), invitation.id, group.rank());
  if (begun != nccl::Code::success && begun != nccl::Code::in_progress) {
    fail({ErrorCode::unavailable, "group: " + communicator_->explain(begun) + " when rank " +
                                      std::to_string(group.rank()) +
                                      " began to make a communicator; NCCL_DEBUG=WARN in the "
                                      "environment makes it say more"});
  }
  await("making a communicator of " + std::to_string(group.procs()) + " ranks",
        [] { return Result<bool>(true); });
  generation_ = invitation.generation;
}

// ---- the collectives

template <class Enqueue>
void NcclGroup::run(const GroupCall& call, Enqueue enqueue) {
  Group& group = spec_.group;
  if (spec_.stream.capturing()) {
    group.refuse({ErrorCode::not_supported,
                  "group: a collective on device tensors cannot be part of a graph, because ranks "
                  "talk to each other on the host first; call it outside of GraphCache::run()"});
  }
  std::vector<std::uint64_t> generations(static_cast<std::size_t>(group.procs()));
  group.agree(call, bytes_of(generation_), std::as_writable_bytes(std::span(generations)));
  if (!hold_the_same(generations)) meet();
  if (call.bytes == 0) return;

  const std::string what = describe(call);
  const nccl::Code code = enqueue(communicator_->handle(), spec_.stream.native());
  if (code != nccl::Code::success && code != nccl::Code::in_progress) {
    fail({ErrorCode::unavailable, "group: " + what + ": " + communicator_->explain(code) +
                                      "; NCCL_DEBUG=WARN in the environment makes it say more"});
  }
  // Only when it is all in the stream is there something to record.
  await(what, [] { return Result<bool>(true); });
  if (Status status = spec_.stream.record(*spec_.event); !status.ok()) fail(std::move(status));
  await(what, [this] { return spec_.event->done(); });
}

void NcclGroup::broadcast(DType dtype, std::span<std::byte> bytes, int root) {
  if (root < 0 || root >= spec_.group.procs()) {
    spec_.group.refuse({ErrorCode::invalid_argument, "group: broadcast from rank " +
                                                         std::to_string(root) + " of " +
                                                         std::to_string(spec_.group.procs())});
  }
  run({.operation = Operation::broadcast,
       .dtype = dtype,
       .place = Place::device,
       .root = root,
       .bytes = bytes.size()},
      [&](nccl::Communicator* communicator, void* stream) {
        return library_->call.Broadcast(bytes.data(), bytes.data(), bytes.size(), nccl::Type::u8,
                                        root, communicator, stream);
      });
}

void NcclGroup::all_reduce(DType dtype, std::span<std::byte> elements, Reduction reduction) {
  const auto type = nccl_type(dtype);
  const auto op = nccl_op(reduction);
  if (!type || !op) {
    spec_.group.refuse({ErrorCode::not_supported,
                        "group: NCCL has no " + std::string(name_of(reduction)) + " of " +
                            std::string(to_string(dtype)) + "; convert to i32 or f32"});
  }
  run({.operation = Operation::all_reduce,
       .reduction = reduction,
       .dtype = dtype,
       .place = Place::device,
       .bytes = elements.size()},
      [&](nccl::Communicator* communicator, void* stream) {
        return library_->call.AllReduce(elements.data(), elements.data(),
                                        elements.size() / size_of(dtype), *type, *op, communicator,
                                        stream);
      });
}

void NcclGroup::all_gather(DType dtype, std::span<const std::byte> mine, std::span<std::byte> all) {
  run({.operation = Operation::all_gather,
       .dtype = dtype,
       .place = Place::device,
       .bytes = mine.size()},
      [&](nccl::Communicator* communicator, void* stream) {
        return library_->call.AllGather(mine.data(), all.data(), mine.size(), nccl::Type::u8,
                                        communicator, stream);
      });
}

}  // namespace forge::gpu
