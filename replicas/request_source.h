// Tensors of a request: views of the arena, which are ours to read until we answer.
#pragma once

#include <forge/tensor.h>
#include <forge/wire.h>

#include <memory>
#include <span>
#include <vector>

#include "shm/control_file.h"
#include "shm/segment.h"

namespace forge::replicas {

class RequestSource final : public detail::TensorSource {
 public:
  explicit RequestSource(const shm::Segment& arena) : arena_(arena) {}

  /// The bytes a request names lie in the arena.
  bool holds(const shm::RequestSlot& request) const;
  /// A reader of the request's head. Precondition: holds().
  detail::Reader begin(const shm::RequestSlot& request);
  /// Before we answer: tensors the actor has kept get bytes of their own.
  void end();

  Tensor in_block(std::uint64_t offset, std::uint64_t size, DType dtype,
                  std::span<const std::int64_t> shape) override;
  Tensor in_home(std::uint64_t offset, std::uint64_t size, DType dtype,
                 std::span<const std::int64_t> shape) override;

 private:
  struct Storage;
  std::shared_ptr<detail::TensorStorage> keep(std::span<const std::byte> bytes);
  Tensor view(std::span<const std::byte> memory, std::uint64_t offset, std::uint64_t size,
              DType dtype, std::span<const std::int64_t> shape);

  const shm::Segment& arena_;
  std::span<const std::byte> blobs_;
  std::vector<std::shared_ptr<Storage>> given_;
};

}  // namespace forge::replicas
