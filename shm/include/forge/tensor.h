// Tensor: a typed, shaped view of bytes that somebody keeps alive.
//
// Copying a tensor shares its bytes. They may lie on the heap, in shared memory (then the storage
// holds the mapping), in another library's buffer (DLPack) or in the memory of a device, where the
// host can only hand out their address. A frozen tensor can only be read: it has been sent, or it
// came from another process.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

namespace forge {

/// The numbers are part of the wire form: append, never reorder.
enum class DType : std::uint8_t {
  boolean,
  i8,
  u8,
  i16,
  u16,
  i32,
  u32,
  i64,
  u64,
  f16,
  bf16,
  f32,
  f64
};
inline constexpr unsigned kDTypeCount = 13;

/// Bytes per element.
constexpr std::size_t size_of(DType dtype) {
  constexpr std::uint8_t kSizes[kDTypeCount] = {1, 1, 1, 2, 2, 4, 4, 8, 8, 2, 2, 4, 8};
  return kSizes[static_cast<std::uint8_t>(dtype)];
}
/// "bool", "i32", "f64" and so on.
std::string_view to_string(DType dtype) noexcept;

/// Own declarations of DLPack v0.8, identical in layout to dlpack.h, in a namespace of their own so
/// that both can be included.
namespace dlpack {
enum DLDeviceType : std::int32_t { kDLCPU = 1, kDLCUDA = 2, kDLCUDAHost = 3 };
enum DLDataTypeCode : std::uint8_t {
  kDLInt = 0,
  kDLUInt = 1,
  kDLFloat = 2,
  kDLBfloat = 4,
  kDLBool = 6
};
struct DLDevice {
  std::int32_t device_type;
  std::int32_t device_id;
};
struct DLDataType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};
struct DLTensor {
  void* data;
  DLDevice device;
  std::int32_t ndim;
  DLDataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  ///< in elements; null: compact, row-major
  std::uint64_t byte_offset;
};
struct DLManagedTensor {
  DLTensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(DLManagedTensor*);
};
static_assert(sizeof(void*) != 8 || (sizeof(DLTensor) == 48 && sizeof(DLManagedTensor) == 64));
}  // namespace dlpack

namespace detail {

/// The bytes under one or more tensors. Whoever provides memory derives from it; the destructor
/// gives the memory back.
struct TensorStorage {
  TensorStorage() = default;
  TensorStorage(const TensorStorage&) = delete;
  TensorStorage& operator=(const TensorStorage&) = delete;
  virtual ~TensorStorage();

  /// A storage of `bytes` bytes from `data` on, of which this one is the beginning; null if this
  /// memory cannot be seen as a whole. For tensors that adjoin.
  virtual std::shared_ptr<TensorStorage> widened(std::size_t bytes);
  /// A storage with all `pieces`, one behind the other, if whoever provides this memory, in which
  /// they lie, joins them better than a copy on the host would; null otherwise.
  virtual std::shared_ptr<TensorStorage> joined(std::span<const std::span<const std::byte>> pieces);

  std::byte* data = nullptr;  ///< as the device counts addresses, if it lies there
  std::size_t size = 0;
  int device = -1;                  ///< CUDA ordinal of whose memory it is; -1: the host's
  std::atomic<bool> frozen{false};  ///< once true, it stays true
  const void* home = nullptr;       ///< identity of the shared memory it lies in; null: private
  std::uint64_t home_offset = 0;    ///< of `data` in that memory
};

/// The dtype of elements of type T (integers by width and sign); `kKnown` is false for others.
template <class T>
struct DTypeOf {
  static constexpr bool kKnown = (std::is_integral_v<T> && sizeof(T) <= 8) ||
                                 std::is_same_v<T, float> || std::is_same_v<T, double>;
  static constexpr DType value() {
    if (std::is_same_v<T, bool>) return DType::boolean;
    if (std::is_floating_point_v<T>) return sizeof(T) == 4 ? DType::f32 : DType::f64;
    const int width = sizeof(T) == 1 ? 0 : sizeof(T) == 2 ? 2 : sizeof(T) == 4 ? 4 : 6;
    return static_cast<DType>(1 + width + (std::is_unsigned_v<T> ? 1 : 0));
  }
};

/// Elements of a tensor of that shape; nothing if there can be no such tensor: a negative
/// dimension, more than 8 of them, or more bytes than can be addressed.
std::optional<std::size_t> element_count(DType dtype, std::span<const std::int64_t> shape) noexcept;
/// Bytes of a tensor of that shape. Throws InvalidArgument if there can be none.
std::size_t byte_size(DType dtype, std::span<const std::int64_t> shape);
}  // namespace detail

/// Thread-compatible handle; the bytes may be read by any number of threads.
class Tensor {
 public:
  static constexpr std::size_t kMaxDims = 8;

  /// Empty: no bytes, shape [0].
  Tensor() = default;
  /// Own heap memory, 64-aligned and zeroed.
  Tensor(DType dtype, const std::vector<std::int64_t>& shape);
  /// A view of `storage` from `byte_offset` on. Throws InvalidArgument if it does not fit there or
  /// the elements would be misaligned.
  static Tensor adopt(std::shared_ptr<detail::TensorStorage> storage, DType dtype,
                      std::span<const std::int64_t> shape, std::size_t byte_offset = 0);

  DType dtype() const noexcept { return dtype_; }
  std::span<const std::int64_t> shape() const noexcept { return {shape_.data(), dims_}; }
  /// Number of elements.
  std::size_t size() const noexcept { return size_; }
  /// Bytes of all elements.
  std::size_t byte_count() const noexcept { return size_ * size_of(dtype_); }
  /// Throws InvalidArgument if they lie on a device.
  std::span<const std::byte> bytes() const {
    if (device() >= 0) throw_on_device();
    return {data(), byte_count()};
  }
  bool frozen() const noexcept {
    return storage_ && storage_->frozen.load(std::memory_order_relaxed);
  }
  /// CUDA ordinal, as this process counts, of the device whose memory it lies in; -1: the host.
  int device() const noexcept { return storage_ ? storage_->device : -1; }

  /// The elements. `span<const T>()` always reads; `span<T>()` writes and throws InvalidArgument on
  /// a frozen tensor. T must match the dtype: f16 and bf16 are seen as std::uint16_t, and
  /// std::byte fits every dtype. Throws InvalidArgument if they lie on a device.
  template <class T>
  std::span<T> span() {
    check_element<T>(!std::is_const_v<T>);
    return elements<T>();
  }
  template <class T>
  std::span<const T> span() const {
    check_element<T>(false);
    return elements<const T>();
  }

  /// Where the elements begin in device memory, for kernels and libraries; T as for span(). What
  /// wrote them may still run: use them in the call's stream. Throws InvalidArgument if they lie on
  /// the host.
  template <class T>
  T* device_data() {
    check_element<T>(!std::is_const_v<T>);
    return reinterpret_cast<T*>(address_on_device());
  }
  template <class T>
  const T* device_data() const {
    check_element<T>(false);
    return reinterpret_cast<const T*>(address_on_device());
  }

  /// A writable tensor with the same elements in heap memory of its own. Throws InvalidArgument if
  /// they lie on a device.
  Tensor copy() const;

  const std::shared_ptr<detail::TensorStorage>& storage() const noexcept { return storage_; }
  std::size_t byte_offset() const noexcept { return byte_offset_; }

  /// A DLPack view that keeps the bytes alive until its deleter runs. DLPack cannot say
  /// "read-only": a consumer must not write to what was frozen.
  dlpack::DLManagedTensor* to_dlpack() const;
  /// Takes over `managed`: its deleter runs when the last tensor over it dies. Accepts compact
  /// row-major tensors in memory of the host or of a CUDA device; on other ones it throws and the
  /// caller still owns `managed`.
  static Tensor from_dlpack(dlpack::DLManagedTensor* managed);

  /// The same with the DLManagedTensor of a dlpack.h that the program includes.
  template <class Managed>
  Managed* to_dlpack_as() const {
    check_dlpack<Managed>();
    return reinterpret_cast<Managed*>(to_dlpack());
  }
  template <class Managed>
  requires(!std::is_same_v<Managed, dlpack::DLManagedTensor>) static Tensor
      from_dlpack(Managed* managed) {
    check_dlpack<Managed>();
    return from_dlpack(reinterpret_cast<dlpack::DLManagedTensor*>(managed));
  }

 private:
  std::byte* data() const noexcept { return storage_ ? storage_->data + byte_offset_ : nullptr; }

  template <class T>
  std::span<T> elements() const {
    if (device() >= 0) throw_on_device();
    return {reinterpret_cast<T*>(data()), byte_count() / sizeof(T)};
  }
  template <class T>
  void check_element(bool writes) const {
    using Element = std::remove_const_t<T>;
    if constexpr (std::is_same_v<Element, std::byte>) {
      if (writes && frozen()) throw_bad_access(DType::u8, true);
    } else {
      static_assert(detail::DTypeOf<Element>::kKnown, "no DType has elements of this type");
      constexpr DType kWanted = detail::DTypeOf<Element>::value();
      const bool half = dtype_ == DType::f16 || dtype_ == DType::bf16;
      const bool fits = kWanted == dtype_ || (kWanted == DType::u16 && half);
      if (!fits || (writes && frozen())) throw_bad_access(kWanted, fits);
    }
  }
  template <class Managed>
  static void check_dlpack() {
    static_assert(std::is_standard_layout_v<Managed> &&
                      sizeof(Managed) == sizeof(dlpack::DLManagedTensor) &&
                      sizeof(Managed::dl_tensor) == sizeof(dlpack::DLTensor),
                  "forge speaks DLManagedTensor as in dlpack.h v0.8");
  }
  std::byte* address_on_device() const {
    if (device() < 0) throw_on_host();
    return data();
  }
  [[noreturn]] void throw_bad_access(DType wanted, bool type_fits) const;
  [[noreturn]] void throw_on_device() const;
  [[noreturn]] void throw_on_host() const;

  std::shared_ptr<detail::TensorStorage> storage_;
  std::size_t byte_offset_ = 0;
  std::size_t size_ = 0;
  std::array<std::int64_t, kMaxDims> shape_{};
  std::uint8_t dims_ = 1;
  DType dtype_ = DType::f32;
};

}  // namespace forge
