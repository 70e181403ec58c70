// NCCL as tests need it: ranks are threads of this process, "device memory" is host memory, and
// what goes wrong is what the test says. FAKE_NCCL_VERSION and FAKE_NCCL_WITHOUT_ABORT make
// libraries that forge must refuse.
#include "tests/gpu/fake_nccl.h"

#include <chrono>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "gpu/nccl_abi.h"

#ifndef FAKE_NCCL_VERSION
#define FAKE_NCCL_VERSION 22809
#endif

namespace nccl = forge::gpu::nccl;
using nccl::Code;

namespace {

forge::tests::FakeNccl control;
std::mutex mutex;  // guards all below

enum class Kind { broadcast, all_reduce, all_gather };

struct Part {
  const void* from = nullptr;
  void* to = nullptr;
};

struct Round {
  std::map<int, Part> parts;  // by rank
  bool done = false;
};

/// The ranks that were given one id.
struct Meeting {
  int ranks = 0;
  std::set<int> arrived;
  bool broken = false;  // somebody has gone
  std::map<std::uint64_t, Round> rounds;
};

std::map<std::uint64_t, std::shared_ptr<Meeting>>& meetings() {
  static std::map<std::uint64_t, std::shared_ptr<Meeting>> all;
  return all;
}
std::uint64_t last_id = 0;

}  // namespace

namespace forge::gpu::nccl {
struct Communicator {
  std::shared_ptr<Meeting> meeting;
  int rank = 0;
  std::uint64_t round = 0;
  bool finalizing = false;
};
}  // namespace forge::gpu::nccl

namespace {

std::size_t size_of(nccl::Type type) {
  switch (type) {
    case nccl::Type::i8:
    case nccl::Type::u8:
      return 1;
    case nccl::Type::f16:
    case nccl::Type::bf16:
      return 2;
    case nccl::Type::i32:
    case nccl::Type::u32:
    case nccl::Type::f32:
      return 4;
    default:
      return 8;
  }
}

template <class T>
void reduce(nccl::Op op, const Round& round, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    T total{};
    for (const auto& [rank, part] : round.parts) {
      const T value = static_cast<const T*>(part.from)[i];
      if (rank == 0) {
        total = value;
      } else if (op == nccl::Op::sum) {
        total += value;
      } else if (op == nccl::Op::product) {
        total *= value;
      } else if ((op == nccl::Op::max) == (value > total)) {
        total = value;
      }
    }
    for (const auto& [rank, part] : round.parts) static_cast<T*>(part.to)[i] = total;
  }
}

/// All ranks are in it, and wait.
void carry_out(Kind kind, const Round& round, std::size_t count, nccl::Type type, nccl::Op op,
               int root) {
  const std::size_t bytes = count * size_of(type);
  if (kind == Kind::all_reduce) {
    if (type == nccl::Type::f32) reduce<float>(op, round, count);
    if (type == nccl::Type::i64) reduce<std::int64_t>(op, round, count);
    return;
  }
  for (const auto& [rank, part] : round.parts) {
    if (kind == Kind::broadcast) {
      std::memmove(part.to, round.parts.at(root).from, bytes);
      continue;
    }
    for (const auto& [other, theirs] : round.parts) {
      std::memmove(static_cast<char*>(part.to) + static_cast<std::size_t>(other) * bytes,
                   theirs.from, bytes);
    }
  }
}

Code take_part(Kind kind, Part part, std::size_t count, nccl::Type type, nccl::Op op, int root,
               nccl::Communicator* communicator) {
  const std::lock_guard lock(mutex);
  ++control.collectives;
  if (control.collective_fails_at == communicator->rank) return Code::invalid_usage;
  if (control.kernel_hangs) {
    control.running[static_cast<std::size_t>(communicator->rank)] = true;
    return Code::success;
  }
  Meeting& meeting = *communicator->meeting;
  Round& round = meeting.rounds[++communicator->round];
  round.parts[communicator->rank] = part;
  if (static_cast<int>(round.parts.size()) == meeting.ranks && !meeting.broken &&
      !control.collective_hangs && control.remote_error_at < 0) {
    carry_out(kind, round, count, type, op, root);
    round.done = true;
  }
  return Code::in_progress;
}

void leave(nccl::Communicator* communicator) {
  control.running[static_cast<std::size_t>(communicator->rank)] = false;
  communicator->meeting->broken = true;
  --control.living;
  delete communicator;
}

}  // namespace

extern "C" {

forge::tests::FakeNccl* fake_nccl() { return &control; }

Code ncclGetVersion(int* version) {
  *version = FAKE_NCCL_VERSION;
  return Code::success;
}

const char* ncclGetErrorString(Code code) {
  return code == Code::remote_error ? "remote process exited or there was a network error"
                                    : "a made up error";
}

const char* ncclGetLastError(nccl::Communicator*) { return ""; }

Code ncclGetUniqueId(nccl::UniqueId* id) {
  const std::lock_guard lock(mutex);
  ++control.ids;
  if (control.id_fails) return Code::system_error;
  ++last_id;
  std::memcpy(id->internal, &last_id, sizeof(last_id));
  return Code::success;
}

Code ncclCommInitRankConfig(nccl::Communicator** communicator, int ranks, nccl::UniqueId id,
                            int rank, nccl::Config* config) {
  const std::lock_guard lock(mutex);
  ++control.inits;
  if (config->magic != 0xcafebeef || config->size != sizeof(nccl::Config) ||
      config->blocking != 0 || control.init_fails_at == rank) {
    return Code::invalid_argument;
  }
  std::uint64_t number = 0;
  std::memcpy(&number, id.internal, sizeof(number));
  auto& meeting = meetings()[number];
  if (!meeting) meeting = std::make_shared<Meeting>();
  meeting->ranks = ranks;
  meeting->arrived.insert(rank);
  *communicator = new nccl::Communicator{.meeting = meeting, .rank = rank};
  ++control.living;
  return Code::in_progress;
}

Code ncclCommGetAsyncError(nccl::Communicator* communicator, Code* code) {
  const std::lock_guard lock(mutex);
  Meeting& meeting = *communicator->meeting;
  const bool all = static_cast<int>(meeting.arrived.size()) == meeting.ranks;
  *code = all && !control.init_hangs ? Code::success : Code::in_progress;
  if (communicator->finalizing && control.finalize_hangs) *code = Code::in_progress;
  if (communicator->round != 0) {
    if (!meeting.rounds[communicator->round].done) *code = Code::in_progress;
    if (control.remote_error_at == communicator->rank) *code = Code::remote_error;
  }
  return Code::success;
}

Code ncclCommFinalize(nccl::Communicator* communicator) {
  const std::lock_guard lock(mutex);
  communicator->finalizing = true;
  return Code::in_progress;
}

Code ncclCommDestroy(nccl::Communicator* communicator) {
  const std::lock_guard lock(mutex);
  ++control.destroyed;
  leave(communicator);
  return Code::success;
}

#ifndef FAKE_NCCL_WITHOUT_ABORT
Code ncclCommAbort(nccl::Communicator* communicator) {
  ++control.aborts;
  while (control.abort_hangs) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  const std::lock_guard lock(mutex);
  leave(communicator);
  return Code::success;
}
#endif

Code ncclBroadcast(const void* from, void* to, std::size_t count, nccl::Type type, int root,
                   nccl::Communicator* communicator, void*) {
  return take_part(Kind::broadcast, {from, to}, count, type, nccl::Op::sum, root, communicator);
}

Code ncclAllReduce(const void* from, void* to, std::size_t count, nccl::Type type, nccl::Op op,
                   nccl::Communicator* communicator, void*) {
  return take_part(Kind::all_reduce, {from, to}, count, type, op, 0, communicator);
}

Code ncclAllGather(const void* from, void* to, std::size_t count, nccl::Type type,
                   nccl::Communicator* communicator, void*) {
  return take_part(Kind::all_gather, {from, to}, count, type, nccl::Op::sum, 0, communicator);
}

}  // extern "C"
