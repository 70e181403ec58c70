#include "gpu/reduce.h"

#include <cstdint>
#include <type_traits>

namespace forge::gpu {
namespace {

/// The type to add and multiply in: signed overflow is undefined and narrow types are promoted to
/// int, so integers are computed as unsigned ones of at least 32 bits.
template <class T>
struct Wrapping {
  using type = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;
};
template <>
struct Wrapping<float> {
  using type = float;
};
template <>
struct Wrapping<double> {
  using type = double;
};

template <class T, class Combine>
void each(std::span<std::byte> into, std::span<const std::byte> from, Combine combine) {
  T* a = reinterpret_cast<T*>(into.data());
  const T* b = reinterpret_cast<const T*>(from.data());
  const std::size_t count = into.size() / sizeof(T);
  for (std::size_t i = 0; i < count; ++i) a[i] = combine(a[i], b[i]);
}

template <class T>
void reduce_as(Reduction reduction, std::span<std::byte> into, std::span<const std::byte> from) {
  using Wide = typename Wrapping<T>::type;
  switch (reduction) {
    case Reduction::sum:
      return each<T>(into, from, [](T a, T b) { return static_cast<T>(Wide(a) + Wide(b)); });
    case Reduction::product:
      return each<T>(into, from, [](T a, T b) { return static_cast<T>(Wide(a) * Wide(b)); });
    // b != b is true of a NaN alone; a NaN in `a` compares false and stays.
    case Reduction::min:
      return each<T>(into, from, [](T a, T b) { return b < a || b != b ? b : a; });
    case Reduction::max:
      return each<T>(into, from, [](T a, T b) { return b > a || b != b ? b : a; });
  }
}

}  // namespace

bool can_reduce(DType dtype) noexcept {
  return static_cast<std::uint8_t>(dtype) < kDTypeCount && dtype != DType::boolean &&
         dtype != DType::f16 && dtype != DType::bf16;
}

void reduce(DType dtype, Reduction reduction, std::span<std::byte> into,
            std::span<const std::byte> from) noexcept {
  switch (dtype) {
    case DType::i8:
      return reduce_as<std::int8_t>(reduction, into, from);
    case DType::u8:
      return reduce_as<std::uint8_t>(reduction, into, from);
    case DType::i16:
      return reduce_as<std::int16_t>(reduction, into, from);
    case DType::u16:
      return reduce_as<std::uint16_t>(reduction, into, from);
    case DType::i32:
      return reduce_as<std::int32_t>(reduction, into, from);
    case DType::u32:
      return reduce_as<std::uint32_t>(reduction, into, from);
    case DType::i64:
      return reduce_as<std::int64_t>(reduction, into, from);
    case DType::u64:
      return reduce_as<std::uint64_t>(reduction, into, from);
    case DType::f32:
      return reduce_as<float>(reduction, into, from);
    case DType::f64:
      return reduce_as<double>(reduction, into, from);
    case DType::boolean:
    case DType::f16:
    case DType::bf16:
      return;  // excluded by can_reduce
  }
}

}  // namespace forge::gpu
