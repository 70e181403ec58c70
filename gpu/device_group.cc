#include "gpu/device_group.h"

#include <forge/error.h>

namespace forge::gpu {
namespace {

std::span<const std::byte> device_bytes(const Tensor& tensor) {
  return {tensor.device_data<std::byte>(), tensor.byte_count()};
}

/// For collectives that write, and for a root, whose bytes are only read and may be frozen.
std::span<std::byte> writable_bytes(const Tensor& tensor) {
  const std::span<const std::byte> bytes = device_bytes(tensor);
  return {const_cast<std::byte*>(bytes.data()), bytes.size()};
}

Status invalid(std::string message) { return {ErrorCode::invalid_argument, std::move(message)}; }

}  // namespace

// ---- StagedTransport

/// That all ranks are in the same collective on device tensors, as other transports find out too.
void StagedTransport::agree(const GroupCall& call) { group_.agree(call, {}, {}); }

/// The others wait in this collective for what we bring.
void StagedTransport::require(Status status) {
  if (!status.ok()) group_.fail(std::move(status));
}

std::vector<std::byte> StagedTransport::fetch(std::span<const std::byte> device) {
  std::vector<std::byte> host(device.size());
  // Only read from, as a buffer to copy out of is.
  const BorrowedBuffer buffer(const_cast<std::byte*>(device.data()), device.size());
  require(stream_.copy_out(host, buffer, 0));
  require(stream_.synchronize());
  return host;
}

void StagedTransport::store(std::span<std::byte> device, std::span<const std::byte> host) {
  BorrowedBuffer buffer(device.data(), device.size());
  require(stream_.copy_in(buffer, 0, host));
  require(stream_.synchronize());
}

void StagedTransport::broadcast(DType dtype, std::span<std::byte> bytes, int root) {
  agree({.operation = Operation::broadcast,
         .dtype = dtype,
         .place = Place::device,
         .root = root,
         .bytes = bytes.size()});
  std::vector<std::byte> host = fetch(bytes);
  group_.broadcast(dtype, host, root);
  store(bytes, host);
}

void StagedTransport::all_reduce(DType dtype, std::span<std::byte> elements, Reduction reduction) {
  agree({.operation = Operation::all_reduce,
         .reduction = reduction,
         .dtype = dtype,
         .place = Place::device,
         .bytes = elements.size()});
  std::vector<std::byte> host = fetch(elements);
  group_.all_reduce(dtype, host, reduction);
  store(elements, host);
}

void StagedTransport::all_gather(DType dtype, std::span<const std::byte> mine,
                                 std::span<std::byte> all) {
  agree({.operation = Operation::all_gather,
         .dtype = dtype,
         .place = Place::device,
         .bytes = mine.size()});
  std::vector<std::byte> host(all.size());
  group_.all_gather(dtype, fetch(mine), host);
  store(all, host);
}

// ---- DeviceGroup

void DeviceGroup::broadcast(Tensor& tensor, int root) {
  if (tensor.device() < 0) return host_.broadcast(tensor, root);
  if (rank() != root && tensor.frozen()) {
    host_.refuse(invalid("group: broadcast into a frozen tensor"));
  }
  transport_->broadcast(tensor.dtype(), writable_bytes(tensor), root);
}

void DeviceGroup::all_reduce(Tensor& tensor, Reduction reduction) {
  if (tensor.device() < 0) return host_.all_reduce(tensor, reduction);
  if (tensor.frozen()) {
    host_.refuse(
        invalid("group: all_reduce into a frozen tensor; arguments are, so reduce a copy"));
  }
  transport_->all_reduce(tensor.dtype(), writable_bytes(tensor), reduction);
}

Tensor DeviceGroup::all_gather(const Tensor& tensor) {
  if (tensor.device() < 0) return host_.all_gather(tensor);
  if (tensor.shape().size() == Tensor::kMaxDims) {
    host_.refuse(
        invalid("group: all_gather adds a dimension to a tensor that has the most it can have"));
  }
  std::vector<std::int64_t> shape = {procs()};
  shape.insert(shape.end(), tensor.shape().begin(), tensor.shape().end());
  Tensor all;
  try {
    all = allocate_(tensor.dtype(), shape);
  } catch (const Error& error) {
    host_.refuse(to_status(error));  // the others must not wait
  }
  transport_->all_gather(tensor.dtype(), device_bytes(tensor), writable_bytes(all));
  return all;
}

}  // namespace forge::gpu
