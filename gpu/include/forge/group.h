// Group: the ranks of one replica talking to each other, as forge::context().group().
#pragma once

#include <forge/tensor.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

namespace forge {

/// What all_reduce makes of the elements of all ranks. The numbers go between processes.
enum class Reduction : std::uint8_t { sum = 1, product = 2, min = 3, max = 4 };

/// Collectives between the ranks of a replica: through shared memory, but by NCCL for tensors that
/// lie on a device, where work that is in context().stream() comes first. All ranks must call the
/// same ones with the same sizes in the same order, within the same call of the actor; each returns
/// when the rank has what it needs of the others. Works in endpoints, setup() and constructors, on
/// the thread that runs the actor; the reference is good as long as the actor. A group of one rank
/// has nobody to wait for.
///
/// Collectives throw:
///   InvalidArgument   the ranks' calls differ (all of them get it), an argument is wrong, or a
///                     rank has returned from the call or gone on to another; also in a call that was
///                     sent to one rank alone (choose())
///   NotSupported      all_reduce of a dtype that has no such reduction: on the host bool, f16 and
///                     bf16, on a device bool, i16 and u16; on a device also in a graph, or if NCCL
///                     is too old
///   Unavailable       another rank has failed in this call: whoever made it gets that rank's error,
///                     not this one; on a device: NCCL is missing, or failed in some rank
///   DeadlineExceeded  other ranks did not come within a minute, or within as many seconds as
///                     FORGE_GROUP_TIMEOUT says in the worker's environment; it says which
///   WorkerLost        a rank is dead; the replica is about to be restarted
/// After DeadlineExceeded, when NCCL failed, and when a rank has left the call, all collectives fail until
/// the next call. What a collective that threw was to write to holds anything.
class Group {
 public:
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  virtual int rank() const = 0;
  virtual int procs() const = 0;

  /// Returns when all ranks have called it.
  virtual void barrier() = 0;

  /// Copies the bytes of rank `root` to all ranks.
  virtual void broadcast(std::span<std::byte> bytes, int root) = 0;
  /// Tensors must be of equal dtype and size in all ranks; only the root's may be frozen.
  virtual void broadcast(Tensor& tensor, int root) = 0;

  /// Reduces element by element over all ranks, in place, on the host in the order of ranks: all
  /// ranks get the same bits, every time. On a device the order is NCCL's.
  virtual void all_reduce(DType dtype, std::span<std::byte> elements, Reduction reduction) = 0;
  virtual void all_reduce(Tensor& tensor, Reduction reduction) = 0;
  template <class T>
  requires(!std::is_same_v<T, std::byte>) void all_reduce(std::span<T> elements,
                                                          Reduction reduction) {
    static_assert(detail::DTypeOf<T>::kKnown, "no DType has elements of this type");
    all_reduce(detail::DTypeOf<T>::value(), std::as_writable_bytes(elements), reduction);
  }

  /// Puts the bytes of rank r at all[r * mine.size()]. `mine` may be our own place in `all`.
  virtual void all_gather(std::span<const std::byte> mine, std::span<std::byte> all) = 0;
  /// The ranks' tensors, stacked: [procs, …], where theirs lie.
  virtual Tensor all_gather(const Tensor& tensor) = 0;

 protected:
  Group() = default;
  virtual ~Group();
};

}  // namespace forge
