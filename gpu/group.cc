#include "gpu/group.h"

#include <algorithm>
#include <climits>
#include <cstring>
#include <string>
#include <utility>

#include "gpu/reduce.h"
#include "shm/failpoint.h"
#include "shm/wait_strategy.h"

namespace forge {

Group::~Group() = default;

}  // namespace forge

namespace forge::gpu {
namespace {

/// The longest sleep without a look at what no bell announces: a death, an abort or the end of a rank
/// other than the one that is waited for.
constexpr std::chrono::milliseconds kLongestSleep{4};
constexpr std::uint32_t kLooksPerCheck = 64;

Status invalid(std::string message) { return {ErrorCode::invalid_argument, std::move(message)}; }

std::string number(std::uint64_t value) { return std::to_string(value); }

void copy(std::span<std::byte> to, std::span<const std::byte> from) {
  // An empty span may be null, which memmove forbids; `mine` of all_gather may be where it goes.
  if (!from.empty()) std::memmove(to.data(), from.data(), from.size());
}

/// Of a rank that failed with that code, which is input.
Status given_up(std::uint32_t failed, const std::string& who) {
  switch (static_cast<ErrorCode>(failed)) {
    case ErrorCode::deadline_exceeded:
      return {ErrorCode::deadline_exceeded, who + ", because other ranks did not come in time"};
    case ErrorCode::unavailable:
      return {ErrorCode::unavailable,
              who + ", because its part of it failed; its own answer says why"};
    default:
      return invalid(who + ", because the ranks' calls differ");
  }
}

bool is_known(Reduction reduction) {
  return Reduction::sum <= reduction && reduction <= Reduction::max;
}

}  // namespace

// ---- making one

Result<std::unique_ptr<Group>> Group::create(GroupSpec spec) {
  const auto refused = [](const std::string& why) { return make_error(invalid("group: " + why)); };
  if (spec.rank < 0 || static_cast<std::size_t>(spec.rank) >= spec.files.size()) {
    return refused("rank " + std::to_string(spec.rank) + " of " + number(spec.files.size()));
  }
  for (const shm::Segment& file : spec.files) {
    if (file.size() != spec.files[0].size()) return refused("files differ in size");
    if (file.size() < file_size(1)) return refused("files are too small; see Group::file_size");
    if (reinterpret_cast<std::uintptr_t>(file.data()) % alignof(GroupFile) != 0) {
      return refused("a file is not aligned");
    }
  }
  std::unique_ptr<Group> group(new Group(std::move(spec)));
  GroupFile& mine = group->mine();
  if (mine.header.magic != 0) return refused("the file of this rank has been used before");
  mine.header = {.magic = kGroupMagic,
                 .version = kGroupVersion,
                 .rank = static_cast<std::uint32_t>(group->rank()),
                 .procs = static_cast<std::uint32_t>(group->procs()),
                 .reserved = 0,
                 .file_size = group->files_[0].size(),
                 .incarnation = group->incarnation_};
  // Release: who sees us in a call sees our header.
  mine.call.store(group->call_, std::memory_order_release);
  group->wake();
  return group;
}

void Group::decline(shm::Segment& file, std::uint64_t call) {
  // In the call, with no header (check_headers). Nobody sleeps for long without a look. Relaxed: it
  // is all that is ever written there.
  reinterpret_cast<GroupFile*>(file.data())->call.store(call + 1, std::memory_order_relaxed);
}

void Group::end(std::span<shm::Segment> files, int rank, std::uint64_t call, ErrorCode outcome,
                bool let_down) {
  const auto file = [&](std::size_t of) -> GroupFile& {
    return *reinterpret_cast<GroupFile*>(files[of].data());
  };
  GroupFile& mine = file(static_cast<std::size_t>(rank));
  mine.ended.store(static_cast<std::uint32_t>(outcome) | (let_down ? kEndedLetDown : 0),
                   std::memory_order_relaxed);
  // Release: who sees it sees all steps that the rank has taken.
  mine.ended_call.store(call + 1, std::memory_order_release);
  shm::handshake_fence();
  // Whoever sleeps may wait for another rank first, which may never come. That bell is not ours to
  // change: who is about to sleep on it looks again after kLongestSleep.
  for (std::size_t other = 0; other < files.size(); ++other) {
    const std::uint32_t on = file(other).sleeps_on.load(std::memory_order_relaxed);
    if (other == static_cast<std::size_t>(rank) || on == 0 || on > files.size()) continue;
    if (on == static_cast<std::uint32_t>(rank) + 1)
      mine.bell.word.fetch_add(1, std::memory_order_relaxed);
    shm::futex_wake(file(on - 1).bell.word, INT_MAX, shm::Scope::shared);
  }
}

Group::Group(GroupSpec spec)
    : rank_(spec.rank),
      files_(std::move(spec.files)),
      incarnation_(spec.incarnation),
      timeout_(spec.timeout),
      wait_(spec.wait),
      lost_(std::move(spec.lost)),
      chunk_size_((files_[0].size() - kGroupDataOffset) / kGroupSlots / shm::kPage * shm::kPage) {}

const GroupFile& Group::file(int rank) const {
  return *reinterpret_cast<const GroupFile*>(files_[static_cast<std::size_t>(rank)].data());
}

GroupFile& Group::mine() {
  return *reinterpret_cast<GroupFile*>(files_[static_cast<std::size_t>(rank_)].data());
}

/// A rank's place for its chunk of a step. Only our own may be written.
std::span<std::byte> Group::chunk_of(int rank, std::uint64_t step) const {
  const std::size_t slot = step % kGroupSlots;
  return {files_[static_cast<std::size_t>(rank)].data() + kGroupDataOffset + slot * chunk_size_,
          chunk_size_};
}

// ---- calls of the actor

void Group::begin(std::uint64_t call) {
  if (call + 1 <= call_) {
    throw InvalidArgument("group: call " + number(call) + " begins after call " +
                          number(call_ - 1) + "; numbers of calls only grow");
  }
  call_ = call + 1;
  step_ = 0;
  entered_ = false;
  let_down_ = false;
  if (broken_.code != ErrorCode::worker_lost) broken_ = {};
  // Release: who sees us in the new call sees all steps we took in the one before; a slower rank
  // may still be looking for the last of them.
  mine().call.store(call_, std::memory_order_release);
  wake();
}

void Group::leave(Status why) {
  if (broken_.code != ErrorCode::worker_lost) broken_ = std::move(why);
}

void Group::abort() noexcept {
  mine().aborted.store(1, std::memory_order_release);  // pairs with trouble()
  // Rung whoever sleeps: this may be another thread than the one that makes wake() right.
  mine().bell.word.fetch_add(1, std::memory_order_relaxed);
  shm::futex_wake(mine().bell.word, INT_MAX, shm::Scope::shared);
}

// ---- one step

void Group::publish() {
  ++step_;
  // Release: who sees the step sees our call and chunk, and (G1) knows that we have read all of the
  // step before.
  mine().step.store(step_, std::memory_order_release);
  wake();
}

/// The publisher's half of the handshake in doorbell.h; the word of a sleeper says on whose bell.
void Group::wake() {
  shm::handshake_fence();
  const std::uint32_t me = static_cast<std::uint32_t>(rank_) + 1;
  for (int other = 0; other < procs(); ++other) {
    if (file(other).sleeps_on.load(std::memory_order_relaxed) != me) continue;
    mine().bell.word.fetch_add(1, std::memory_order_relaxed);
    shm::futex_wake(mine().bell.word, INT_MAX, shm::Scope::shared);  // all who sleep there
    return;
  }
}

/// Has the rank published that step of our call? Step 0: has it entered the call?
Group::Progress Group::look(int rank, std::uint64_t step) const {
  const GroupFile& theirs = file(rank);
  // Ends and calls before the steps. Acquire pairs with end() and begin(): if the rank has left the
  // call, we see all the steps it took before.
  const bool ended = theirs.ended_call.load(std::memory_order_acquire) >= call_;
  const std::uint64_t call = theirs.call.load(std::memory_order_acquire);
  const Progress otherwise = ended || call > call_ ? Progress::left : Progress::waiting;
  if (call < call_) return otherwise;
  if (step == 0) return call == call_ ? Progress::arrived : otherwise;
  // Acquire pairs with run(): we see no step of an earlier call. Nor of a later one, in which the
  // rank cannot take a step without us (G3).
  if (theirs.step_call.load(std::memory_order_acquire) != call_) return otherwise;
  // Acquire pairs with publish().
  const std::uint64_t published = theirs.step.load(std::memory_order_acquire);
  if (published < step) return otherwise;
  return published <= step + 1 ? Progress::arrived : Progress::corrupt;
}

/// The sleeper's half of the handshake in doorbell.h.
void Group::sleep(int rank, std::uint64_t step, shm::SteadyTime until) {
  const shm::Word& bell = file(rank).bell.word;
  const std::uint32_t seen = bell.load(std::memory_order_relaxed);
  mine().sleeps_on.store(static_cast<std::uint32_t>(rank) + 1, std::memory_order_relaxed);
  shm::handshake_fence();
  if (look(rank, step) == Progress::waiting) {
    shm::futex_wait(bell, seen, std::min(until, detail::from_now(kLongestSleep)),
                    shm::Scope::shared);
  }
  mine().sleeps_on.store(0, std::memory_order_relaxed);
}

void Group::await(const GroupCall& call, std::uint64_t step) {
  const shm::SteadyTime until = detail::from_now(timeout_);
  for (int rank = 0; rank < procs(); ++rank) {
    if (rank == rank_) continue;
    shm::Spinner spinner(wait_);
    std::uint32_t looks = 0;
    for (Progress progress; (progress = look(rank, step)) != Progress::arrived;) {
      if (progress == Progress::left) fail_by_others(who_left(call, step));
      if (progress == Progress::corrupt) {
        fail(invalid("group: rank " + std::to_string(rank) +
                     " has written an impossible step into its file"));
      }
      const bool spun = spinner.keep_spinning();
      if (!spun) sleep(rank, step, until);
      if (spun && ++looks % kLooksPerCheck != 0) continue;
      Status status = who_left(call, step);
      if (status.ok()) status = trouble();
      const bool by_others = !status.ok();
      if (status.ok() && shm::SteadyTime::clock::now() >= until) status = missing(call, step);
      // Looked at last: a rank that has trouble in a later step has seen all of us in this one.
      if (status.ok() || all_arrived(step)) continue;
      by_others ? fail_by_others(std::move(status)) : fail(std::move(status));
    }
  }
}

/// Says how a rank has left our call before that step; ok if all are there or may come. One that has
/// left of its own accord comes before those that it let down.
Status Group::who_left(const GroupCall& call, std::uint64_t step) const {
  int found = -1;
  for (int rank = 0; rank < procs(); ++rank) {
    if (rank == rank_ || look(rank, step) != Progress::left) continue;
    const bool let_down = (file(rank).ended.load(std::memory_order_relaxed) & kEndedLetDown) != 0;
    if (found < 0 || !let_down) found = rank;
    if (!let_down) break;
  }
  return found < 0 ? Status() : how_left(found, call);
}

Status Group::how_left(int rank, const GroupCall& call) const {
  const std::string who = "group: rank " + std::to_string(rank);
  const std::string where =
      " while rank " + std::to_string(rank_) + " waits for it in " + describe(call);
  const std::string remedy = "; all ranks must call the same collectives";
  // Acquire pairs with end(). The rank may be in a later call by now.
  if (file(rank).ended_call.load(std::memory_order_acquire) != call_)
    return invalid(who + " has gone on to another call" + where + remedy);
  const std::uint32_t code = file(rank).ended.load(std::memory_order_relaxed) & ~kEndedLetDown;
  if (code == static_cast<std::uint32_t>(ErrorCode::ok))
    return invalid(who + " has returned from the call" + where + remedy);
  return {ErrorCode::unavailable, who + " has failed in this call (" +
                                      std::string(to_string(static_cast<ErrorCode>(code))) + ")" +
                                      where + "; its own error says why"};
}

void Group::fail_by_others(Status why) {
  let_down_ = true;
  fail(std::move(why));
}

bool Group::all_arrived(std::uint64_t step) const {
  for (int rank = 0; rank < procs(); ++rank) {
    if (rank != rank_ && look(rank, step) != Progress::arrived) return false;
  }
  return true;
}

/// Why no step can succeed any more, as far as other ranks and the owner of the group say.
Status Group::trouble() const {
  for (int rank = 0; rank < procs(); ++rank) {
    const GroupFile& theirs = file(rank);
    // Acquire: await() looks at the steps again, and must see what the rank in trouble had seen.
    if (theirs.aborted.load(std::memory_order_acquire) != 0) {
      return {ErrorCode::worker_lost,
              "group: aborted by rank " + std::to_string(rank) + "; the replica is restarted"};
    }
    // Acquire pairs with fail(). The rank may be in a later call by now; who waits for what it left
    // behind elsewhere hears of it all the same.
    if (rank == rank_ || theirs.failed_call.load(std::memory_order_acquire) != call_) continue;
    const std::uint32_t failed = theirs.failed.load(std::memory_order_relaxed);
    return given_up(failed, "group: rank " + std::to_string(rank) + " has given up in call " +
                                number(call_ - 1));
  }
  if (lost_ && lost_()) {
    return {ErrorCode::worker_lost, "group: a rank of this replica is dead; it is restarted"};
  }
  return {};
}

Status Group::missing(const GroupCall& call, std::uint64_t step) const {
  std::string ranks;
  for (int rank = 0; rank < procs(); ++rank) {
    if (rank == rank_ || look(rank, step) == Progress::arrived) continue;
    ranks += (ranks.empty() ? "" : ", ") + std::to_string(rank);
  }
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(timeout_).count();
  return {ErrorCode::deadline_exceeded,
          "group: rank " + std::to_string(rank_) + " waited " + std::to_string(ms) + " ms in " +
              describe(call) + ", step " + number(step) + " of call " + number(call_ - 1) +
              ", for rank " + ranks + "; all ranks must call the same collectives"};
}

/// Leaves this call: the others must not wait for us, and what we might still publish in it would
/// not be what they take it for.
void Group::fail(Status why) {
  broken_ = std::move(why);
  if (broken_.code == ErrorCode::worker_lost) {
    abort();
  } else {
    mine().failed.store(static_cast<std::uint32_t>(broken_.code), std::memory_order_relaxed);
    mine().failed_call.store(call_, std::memory_order_release);
    wake();
  }
  throw_status(broken_);
}

/// The others learn of it in their step, and all go on from there.
void Group::refuse(const Status& why) {
  try {
    run(
        {.operation = Operation::refused}, [](auto...) {}, [](auto...) {});
  } catch (const Error&) {
    // Whatever became of the others, what is wrong here comes first.
  }
  throw_status(why);
}

void Group::check_headers() {
  for (int rank = 0; rank < procs(); ++rank) {
    const GroupHeader header = file(rank).header;
    if (header.magic == 0) {
      fail({ErrorCode::unavailable, "group: rank " + std::to_string(rank) +
                                        " has found no shared memory for its part of the group; "
                                        "free some or raise the limit"});
    }
    if (header.magic != kGroupMagic || header.version != kGroupVersion ||
        header.rank != static_cast<std::uint32_t>(rank) ||
        header.procs != static_cast<std::uint32_t>(procs()) ||
        header.file_size != files_[0].size() || header.incarnation != incarnation_) {
      fail(invalid("group: the file of rank " + std::to_string(rank) +
                   " is not that rank's, or of another incarnation or build"));
    }
  }
}

/// Some rank's arguments were wrong, and ours were not.
bool Group::refused_elsewhere(std::size_t slot) const {
  const auto refused = [&](int rank) {
    return file(rank).calls[slot].operation == Operation::refused;
  };
  for (int rank = 0; !refused(rank_) && rank < procs(); ++rank) {
    if (refused(rank)) return true;
  }
  return false;
}

void Group::check_calls() {
  const std::size_t slot = step_ % kGroupSlots;
  const GroupCall first = file(0).calls[slot];
  for (int rank = 1; rank < procs(); ++rank) {
    const GroupCall call = file(rank).calls[slot];
    if (call == first) continue;
    let_down_ = refused_elsewhere(slot);
    throw InvalidArgument("group: ranks disagree in step " + number(step_) + " of call " +
                          number(call_ - 1) + ": rank 0 is in " + describe(first) + ", rank " +
                          std::to_string(rank) + " in " + describe(call));
  }
}

/// Before the first step of a collective.
void Group::enter(const GroupCall& call) {
  if (!broken_.ok()) throw_status(broken_);
  Status status = who_left(call, step_ + 1);
  if (status.ok()) status = trouble();
  if (!status.ok()) fail_by_others(std::move(status));
  if (entered_) return;
  await(call, 0);
  if (!acquainted_) check_headers();
  acquainted_ = true;
  entered_ = true;
  // Release: who sees this call sees no step of an earlier one.
  mine().step.store(0, std::memory_order_relaxed);
  mine().step_call.store(call_, std::memory_order_release);
  FORGE_FAILPOINT(group_entered);
}

template <class Put, class Take>
void Group::step(const GroupCall& call, const Chunk& chunk, Put put, Take take) {
  mine().calls[(step_ + 1) % kGroupSlots] = call;
  put(chunk, chunk_of(rank_, step_ + 1).first(chunk.size));
  publish();
  FORGE_FAILPOINT(group_published);
  await(call, step_);
  FORGE_FAILPOINT(group_arrived);
  check_calls();
  take(chunk, [&](int rank) { return chunk_of(rank, step_).first(chunk.size); });
}

template <class Put, class Take>
void Group::run(GroupCall call, Put put, Take take) {
  enter(call);
  // Empty payloads take a step too, so that mismatches are found.
  do {
    const Chunk chunk{call.offset, std::min<std::size_t>(call.bytes - call.offset, chunk_size_)};
    step(call, chunk, put, take);
    call.offset += chunk.size;
  } while (call.offset < call.bytes);
}

// ---- the collectives

void Group::agree(const GroupCall& call, std::span<const std::byte> mine,
                  std::span<std::byte> all) {
  enter(call);
  step(
      call, {0, mine.size()}, [&](const Chunk&, std::span<std::byte> place) { copy(place, mine); },
      [&](const Chunk&, auto chunk_of_rank) {
        for (int rank = 0; rank < procs(); ++rank) {
          copy(all.subspan(static_cast<std::size_t>(rank) * mine.size(), mine.size()),
               chunk_of_rank(rank));
        }
      });
}

void Group::barrier() {
  run(
      {.operation = Operation::barrier}, [](auto...) {}, [](auto...) {});
}

void Group::broadcast(std::span<std::byte> bytes, int root) { broadcast(DType::u8, bytes, root); }

void Group::broadcast(Tensor& tensor, int root) {
  if (rank_ != root && tensor.frozen()) refuse(invalid("group: broadcast into a frozen tensor"));
  // The root's bytes are only read, so they may be frozen.
  const std::span<const std::byte> bytes = std::as_const(tensor).bytes();
  broadcast(tensor.dtype(), {const_cast<std::byte*>(bytes.data()), bytes.size()}, root);
}

void Group::broadcast(DType dtype, std::span<std::byte> bytes, int root) {
  if (root < 0 || root >= procs()) {
    refuse(invalid("group: broadcast from rank " + std::to_string(root) + " of " +
                   std::to_string(procs())));
  }
  run(
      {.operation = Operation::broadcast, .dtype = dtype, .root = root, .bytes = bytes.size()},
      [&](const Chunk& chunk, std::span<std::byte> place) {
        if (rank_ == root) copy(place, bytes.subspan(chunk.offset, chunk.size));
      },
      [&](const Chunk& chunk, auto chunk_of_rank) {
        if (rank_ != root) copy(bytes.subspan(chunk.offset, chunk.size), chunk_of_rank(root));
      });
}

void Group::all_reduce(DType dtype, std::span<std::byte> elements, Reduction reduction) {
  if (!can_reduce(dtype) || !is_known(reduction)) {
    refuse({ErrorCode::not_supported, "group: all_reduce has no " +
                                          std::string(name_of(reduction)) + " of " +
                                          std::string(to_string(dtype)) + "; convert to f32"});
  }
  const std::size_t size = size_of(dtype);
  if (elements.size() % size != 0 ||
      reinterpret_cast<std::uintptr_t>(elements.data()) % size != 0) {
    refuse(invalid("group: all_reduce of " + number(elements.size()) + " bytes, which are not " +
                   "whole and aligned elements of " + std::string(to_string(dtype))));
  }
  run(
      {.operation = Operation::all_reduce,
       .reduction = reduction,
       .dtype = dtype,
       .bytes = elements.size()},
      [&](const Chunk& chunk, std::span<std::byte> place) {
        copy(place, elements.subspan(chunk.offset, chunk.size));
      },
      [&](const Chunk& chunk, auto chunk_of_rank) {
        const auto into = elements.subspan(chunk.offset, chunk.size);
        copy(into, chunk_of_rank(0));
        for (int rank = 1; rank < procs(); ++rank) {
          reduce(dtype, reduction, into, chunk_of_rank(rank));
        }
      });
}

void Group::all_reduce(Tensor& tensor, Reduction reduction) {
  if (tensor.frozen()) refuse(invalid("group: all_reduce into a frozen tensor"));
  all_reduce(tensor.dtype(), tensor.span<std::byte>(), reduction);
}

void Group::all_gather(std::span<const std::byte> mine, std::span<std::byte> all) {
  all_gather(DType::u8, mine, all);
}

Tensor Group::all_gather(const Tensor& tensor) {
  if (tensor.shape().size() == Tensor::kMaxDims) {
    refuse(invalid("group: all_gather adds a dimension to a tensor that has the most it can have"));
  }
  std::vector<std::int64_t> shape = {procs()};
  shape.insert(shape.end(), tensor.shape().begin(), tensor.shape().end());
  Tensor all(tensor.dtype(), shape);
  all_gather(tensor.dtype(), tensor.bytes(), all.span<std::byte>());
  return all;
}

void Group::all_gather(DType dtype, std::span<const std::byte> mine, std::span<std::byte> all) {
  if (all.size() / files_.size() != mine.size() || all.size() % files_.size() != 0) {
    refuse(invalid("group: all_gather of " + number(mine.size()) + " bytes from each of " +
                   std::to_string(procs()) + " ranks into " + number(all.size())));
  }
  run(
      {.operation = Operation::all_gather, .dtype = dtype, .bytes = mine.size()},
      [&](const Chunk& chunk, std::span<std::byte> place) {
        copy(place, mine.subspan(chunk.offset, chunk.size));
      },
      [&](const Chunk& chunk, auto chunk_of_rank) {
        for (int rank = 0; rank < procs(); ++rank) {
          const std::size_t place = static_cast<std::size_t>(rank) * mine.size() + chunk.offset;
          copy(all.subspan(place, chunk.size), chunk_of_rank(rank));
        }
      });
}

}  // namespace forge::gpu
