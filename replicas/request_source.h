// Tensors of a request: views of the arena, which are ours to read until we answer. In a worker with
// a device they are that until the arguments are complete; then they are brought there.
#pragma once

#include <forge/tensor.h>
#include <forge/wire.h>

#include <memory>
#include <span>
#include <vector>

#include "replicas/device_lane.h"
#include "shm/control_file.h"
#include "shm/segment.h"

namespace forge::replicas {

class RequestSource final : public detail::TensorSource {
 public:
  /// `to_device`: its tensors are to be brought to a device, see arrivals().
  explicit RequestSource(const shm::Segment& arena, bool to_device = false)
      : arena_(arena), to_device_(to_device) {}

  /// The bytes a request names lie in the arena.
  bool holds(const shm::RequestSlot& request) const;
  /// A reader of the request's head. Precondition: holds().
  detail::Reader begin(const shm::RequestSlot& request);
  /// Those of its tensors that somebody has, if they are to go to a device.
  void arrivals(std::vector<Arrival*>& list) const;
  /// The method is over: on the device only what the actor has kept stays.
  void let_go();
  /// Before we answer: tensors the actor has kept get bytes of their own.
  void end();

  Tensor in_block(std::uint64_t offset, std::uint64_t size, DType dtype,
                  std::span<const std::int64_t> shape) override;
  Tensor in_home(std::uint64_t offset, std::uint64_t size, DType dtype,
                 std::span<const std::int64_t> shape) override;

 private:
  struct Storage;
  std::shared_ptr<detail::TensorStorage> keep(std::span<const std::byte> bytes);
  std::shared_ptr<detail::TensorStorage> keep_joined(std::span<const gpu::HostPiece> pieces);
  Tensor view(std::span<const std::byte> memory, std::uint64_t offset, std::uint64_t size,
              DType dtype, std::span<const std::int64_t> shape);

  const shm::Segment& arena_;
  const bool to_device_;
  std::span<const std::byte> blobs_;
  std::vector<std::shared_ptr<Storage>> given_;
};

}  // namespace forge::replicas
