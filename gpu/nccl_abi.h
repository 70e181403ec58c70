// The part of NCCL's interface that forge uses, declared anew, identical in ABI to nccl.h 2.28, so
// that forge builds without NCCL and finds it at run time. tests/gpu/nccl_abi_test.cc compares it
// with nccl.h where that is installed.
#pragma once

#include <climits>
#include <cstddef>

namespace forge::gpu::nccl {

/// As ncclGetVersion counts from 2.9 on.
constexpr int version(int major, int minor, int patch) {
  return major * 10000 + minor * 100 + patch;
}

inline constexpr int kDeclaredVersion = version(2, 28, 9);
/// Whose communicators can be made without blocking, and aborted in every state.
inline constexpr int kOldestVersion = version(2, 18, 1);

struct Communicator;  // ncclComm

struct UniqueId {
  char internal[128];
};

enum class Code : int {
  success = 0,
  unhandled_cuda_error = 1,
  system_error = 2,
  internal_error = 3,
  invalid_argument = 4,
  invalid_usage = 5,
  remote_error = 6,
  in_progress = 7,
};

enum class Op : int { sum = 0, product = 1, max = 2, min = 3 };

enum class Type : int {
  i8 = 0,
  u8 = 1,
  i32 = 2,
  u32 = 3,
  i64 = 4,
  u64 = 5,
  f16 = 6,
  f32 = 7,
  f64 = 8,
  bf16 = 9,
};

inline constexpr int kUndefined = INT_MIN;

/// ncclConfig_t with what its initializer sets. A library that is older reads the beginning it
/// knows; a newer one sees by `size` where we end.
struct Config {
  std::size_t size = sizeof(Config);
  unsigned int magic = 0xcafebeef;
  unsigned int version = kDeclaredVersion;
  int blocking = kUndefined;
  int cga_cluster_size = kUndefined;
  int min_ctas = kUndefined;
  int max_ctas = kUndefined;
  const char* net_name = nullptr;
  int split_share = kUndefined;
  int traffic_class = kUndefined;
  const char* comm_name = nullptr;
  int collnet_enable = kUndefined;
  int cta_policy = kUndefined;
  int shrink_share = kUndefined;
  int nvls_ctas = kUndefined;
  int n_channels_per_net_peer = kUndefined;
  int nvlink_centric_sched = kUndefined;
};

/// The functions, as pointers under the names they are exported by without "nccl". A stream is a
/// cudaStream_t.
struct Functions {
  Code (*GetVersion)(int* version);
  const char* (*GetErrorString)(Code code);
  const char* (*GetLastError)(Communicator* comm);
  Code (*GetUniqueId)(UniqueId* id);
  Code (*CommInitRankConfig)(Communicator** comm, int ranks, UniqueId id, int rank, Config* config);
  Code (*CommGetAsyncError)(Communicator* comm, Code* code);
  Code (*CommFinalize)(Communicator* comm);
  Code (*CommDestroy)(Communicator* comm);
  Code (*CommAbort)(Communicator* comm);
  Code (*Broadcast)(const void* from, void* to, std::size_t count, Type type, int root,
                    Communicator* comm, void* stream);
  Code (*AllReduce)(const void* from, void* to, std::size_t count, Type type, Op op,
                    Communicator* comm, void* stream);
  Code (*AllGather)(const void* from, void* to, std::size_t count_of_one, Type type,
                    Communicator* comm, void* stream);
};

}  // namespace forge::gpu::nccl
