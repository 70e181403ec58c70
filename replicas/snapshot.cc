#include <forge/actor.h>
#include <forge/snapshot.h>

#include <cstring>
#include <vector>

namespace forge::detail {

void answer_snapshot(const Writer& state, Invocation& call) {
  std::vector<std::byte> bytes(state.block_size());
  state.write_to(bytes.data());
  call.out.restart();
  call.out.array(2);
  call.out.unsigned_integer(state.head().size());
  call.out.bytes(bytes);
  call.sink.value(call.out);
}

/// The argument is an array with one snapshot per rank.
SnapshotReader::SnapshotReader(Invocation& call) : reader_({}) {
  Reader& in = call.args.front();
  const auto rank = static_cast<std::size_t>(context().rank());
  if (in.array() <= rank) throw InvalidArgument("there is no snapshot for this rank");
  for (std::size_t other = 0; other < rank; ++other) in.skip();
  if (in.array() != 2) throw InvalidArgument("a snapshot has a size and bytes");
  const std::uint64_t head = in.unsigned_integer();
  const std::span<const std::byte> bytes = in.bytes();
  if (head > bytes.size()) throw InvalidArgument("a snapshot is larger than its bytes");
  blobs_ = blobs_of(bytes, head);
  reader_ = Reader(bytes.first(head), blobs_, this);
}

Tensor SnapshotReader::in_block(std::uint64_t offset, std::uint64_t size, DType dtype,
                                std::span<const std::int64_t> shape) {
  Tensor tensor(dtype, {shape.begin(), shape.end()});
  if (offset > blobs_.size() || size > blobs_.size() - offset || size != tensor.byte_count())
    throw InvalidArgument("a snapshot refers to bytes outside of itself");
  if (size != 0) std::memcpy(tensor.span<std::byte>().data(), blobs_.data() + offset, size);
  return tensor;
}

Tensor SnapshotReader::in_home(std::uint64_t, std::uint64_t, DType, std::span<const std::int64_t>) {
  throw InvalidArgument("a snapshot refers to memory of the worker that made it");
}

}  // namespace forge::detail
