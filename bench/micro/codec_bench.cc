// What encoding and decoding cost: arguments in, block filled, values out. No process is involved.
#include <benchmark/benchmark.h>
#include <forge/payload.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

namespace {

using forge::Bytes;
using forge::DType;
using forge::Tensor;
using forge::detail::Codec;
using forge::detail::Reader;
using forge::detail::Writer;

struct Point {
  std::int32_t x = 0;
  double y = 0;
  std::string name;
  FORGE_FIELDS(x, y, name);
};

/// Tensors are read as views of one buffer.
struct Views final : forge::detail::TensorSource {
  explicit Views(std::size_t bytes) : memory(DType::u8, {static_cast<std::int64_t>(bytes)}) {}
  Tensor in_block(std::uint64_t offset, std::uint64_t, DType dtype,
                  std::span<const std::int64_t> shape) override {
    return Tensor::adopt(memory.storage(), dtype, shape, offset);
  }
  Tensor in_home(std::uint64_t offset, std::uint64_t size, DType dtype,
                 std::span<const std::int64_t> shape) override {
    return in_block(offset, size, dtype, shape);
  }
  Tensor memory;
};

template <class T>
void round_trip(benchmark::State& state, const T& value, const void* home = nullptr) {
  Writer writer;
  writer.reset(home);
  Codec<T>::encode(writer, value);
  const std::size_t size = writer.block_size();
  const std::size_t head = writer.head().size();
  Views views(std::size_t{1} << 21);
  const std::span<std::byte> block = views.memory.span<std::byte>();
  for (auto _ : state) {
    writer.reset(home);
    Codec<T>::encode(writer, value);
    writer.write_to(block.data());
    benchmark::ClobberMemory();
    Reader reader(block.first(head), forge::detail::blobs_of(block.first(size), head), &views);
    T back = Codec<T>::decode(reader);
    benchmark::DoNotOptimize(back);
  }
  state.counters["bytes"] = static_cast<double>(size);
}

void BM_Int64(benchmark::State& state) { round_trip(state, std::int64_t{1} << 40); }
BENCHMARK(BM_Int64);

void BM_TwoInt64(benchmark::State& state) {
  round_trip(state, std::tuple<std::int64_t, std::int64_t>(5, 2));
}
BENCHMARK(BM_TwoInt64);

void BM_Bytes(benchmark::State& state) {
  round_trip(state, Bytes(static_cast<std::size_t>(state.range(0)), std::byte{1}));
}
BENCHMARK(BM_Bytes)->Arg(64)->Arg(4096)->Arg(1 << 20);

void BM_Floats(benchmark::State& state) {
  round_trip(state, std::vector<float>(static_cast<std::size_t>(state.range(0)), 1.5f));
}
BENCHMARK(BM_Floats)->Arg(16)->Arg(1024);

void BM_Struct(benchmark::State& state) { round_trip(state, Point{1, 2.5, "point"}); }
BENCHMARK(BM_Struct);

void BM_Strings(benchmark::State& state) {
  round_trip(state, std::vector<std::string>(100, "ten chars."));
}
BENCHMARK(BM_Strings);

/// 1 MiB, copied into the block.
void BM_TensorFromOutside(benchmark::State& state) {
  round_trip(state, Tensor(DType::f32, {1 << 18}));
}
BENCHMARK(BM_TensorFromOutside);

/// 1 MiB, already where both sides see it.
void BM_TensorAtHome(benchmark::State& state) {
  const Tensor tensor(DType::f32, {1 << 18});
  tensor.storage()->home = &state;
  round_trip(state, tensor, &state);
}
BENCHMARK(BM_TensorAtHome);

/// What a raw copy of 64 bytes into a fresh vector costs: the floor of BM_Bytes/64.
void BM_FloorBytes64(benchmark::State& state) {
  const Bytes value(64, std::byte{1});
  Bytes block(256);
  for (auto _ : state) {
    std::copy(value.begin(), value.end(), block.begin());
    benchmark::ClobberMemory();
    Bytes back(block.data(), block.data() + 64);
    benchmark::DoNotOptimize(back);
  }
}
BENCHMARK(BM_FloorBytes64);

}  // namespace
