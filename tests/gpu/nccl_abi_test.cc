// Nothing to run: forge's own declarations of NCCL against nccl.h. Built where that is installed.
#include "gpu/nccl_abi.h"

#include <nccl.h>

#include <cstddef>
#include <type_traits>

namespace forge::gpu::nccl {
namespace {

static_assert(sizeof(UniqueId) == sizeof(ncclUniqueId) &&
              alignof(UniqueId) == alignof(ncclUniqueId));

#define SAME_FIELD(ours, theirs)                                            \
  static_assert(offsetof(Config, ours) == offsetof(ncclConfig_t, theirs) && \
                sizeof(Config::ours) == sizeof(ncclConfig_t::theirs))
SAME_FIELD(size, size);
SAME_FIELD(magic, magic);
SAME_FIELD(version, version);
SAME_FIELD(blocking, blocking);
SAME_FIELD(cga_cluster_size, cgaClusterSize);
SAME_FIELD(min_ctas, minCTAs);
SAME_FIELD(max_ctas, maxCTAs);
SAME_FIELD(net_name, netName);
SAME_FIELD(split_share, splitShare);
#if NCCL_VERSION_CODE >= 22800 && NCCL_VERSION_CODE < 22900
static_assert(kDeclaredVersion == NCCL_VERSION_CODE || NCCL_PATCH != 9);
static_assert(sizeof(Config) == sizeof(ncclConfig_t));
SAME_FIELD(traffic_class, trafficClass);
SAME_FIELD(comm_name, commName);
SAME_FIELD(collnet_enable, collnetEnable);
SAME_FIELD(cta_policy, CTAPolicy);
SAME_FIELD(shrink_share, shrinkShare);
SAME_FIELD(nvls_ctas, nvlsCTAs);
SAME_FIELD(n_channels_per_net_peer, nChannelsPerNetPeer);
SAME_FIELD(nvlink_centric_sched, nvlinkCentricSched);
#endif
#undef SAME_FIELD

constexpr ncclConfig_t kTheirs = NCCL_CONFIG_INITIALIZER;
static_assert(Config{}.magic == kTheirs.magic && kUndefined == kTheirs.blocking);
static_assert(version(2, 28, 9) == NCCL_VERSION(2, 28, 9));

template <class Ours, class Theirs>
constexpr bool same(Ours ours, Theirs theirs) {
  return sizeof(Ours) == sizeof(Theirs) && static_cast<int>(ours) == static_cast<int>(theirs);
}
static_assert(same(Code::success, ncclSuccess) && same(Code::in_progress, ncclInProgress));
static_assert(same(Code::unhandled_cuda_error, ncclUnhandledCudaError));
static_assert(same(Code::system_error, ncclSystemError));
static_assert(same(Code::internal_error, ncclInternalError));
static_assert(same(Code::invalid_argument, ncclInvalidArgument));
static_assert(same(Code::invalid_usage, ncclInvalidUsage));
static_assert(same(Code::remote_error, ncclRemoteError));
static_assert(same(Op::sum, ncclSum) && same(Op::product, ncclProd));
static_assert(same(Op::max, ncclMax) && same(Op::min, ncclMin));
static_assert(same(Type::i8, ncclInt8) && same(Type::u8, ncclUint8));
static_assert(same(Type::i32, ncclInt32) && same(Type::u32, ncclUint32));
static_assert(same(Type::i64, ncclInt64) && same(Type::u64, ncclUint64));
static_assert(same(Type::f16, ncclFloat16) && same(Type::bf16, ncclBfloat16));
static_assert(same(Type::f32, ncclFloat32) && same(Type::f64, ncclFloat64));

/// Passed in the same way: both pointers, or both integers or structs of one size.
template <class Ours, class Theirs>
constexpr bool kSameWay =
    sizeof(Ours) == sizeof(Theirs) && std::is_pointer_v<Ours> ==
                                          std::is_pointer_v<Theirs>&& std::is_class_v<Ours> ==
                                          std::is_class_v<Theirs>;
template <class Ours, class Theirs>
struct SameFunction : std::false_type {};
template <class Result, class... Args, class TheirResult, class... TheirArgs>
requires(
    sizeof...(Args) ==
    sizeof...(TheirArgs)) struct SameFunction<Result (*)(Args...), TheirResult (*)(TheirArgs...)>
    : std::bool_constant<kSameWay<Result, TheirResult> && (kSameWay<Args, TheirArgs> && ...)> {
};

#define SAME_FUNCTION(name) \
  static_assert(SameFunction<decltype(Functions::name), decltype(&nccl##name)>::value)
SAME_FUNCTION(GetVersion);
SAME_FUNCTION(GetErrorString);
SAME_FUNCTION(GetLastError);
SAME_FUNCTION(GetUniqueId);
SAME_FUNCTION(CommInitRankConfig);
SAME_FUNCTION(CommGetAsyncError);
SAME_FUNCTION(CommFinalize);
SAME_FUNCTION(CommDestroy);
SAME_FUNCTION(CommAbort);
SAME_FUNCTION(Broadcast);
SAME_FUNCTION(AllReduce);
SAME_FUNCTION(AllGather);
#undef SAME_FUNCTION

}  // namespace
}  // namespace forge::gpu::nccl
