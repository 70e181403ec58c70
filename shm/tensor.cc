#include <forge/error.h>
#include <forge/tensor.h>
#include <algorithm>
#include <cstring>
#include <limits>
#include <new>
#include <string>
#include <utility>

namespace forge {
namespace {

constexpr std::string_view kNames[kDTypeCount] = {"bool", "i8",  "u8",  "i16",  "u16", "i32", "u32",
                                                  "i64",  "u64", "f16", "bf16", "f32", "f64"};
constexpr std::align_val_t kHeapAlignment{64};

struct HeapStorage final : detail::TensorStorage {
  explicit HeapStorage(std::size_t bytes) {
    data = static_cast<std::byte*>(::operator new(bytes, kHeapAlignment));
    size = bytes;
  }
  ~HeapStorage() override { ::operator delete(data, kHeapAlignment); }
};

/// Somebody else's DLPack tensor; `managed` is null until it is certain that we take it.
struct DlpackStorage final : detail::TensorStorage {
  ~DlpackStorage() override {
    if (managed && managed->deleter) managed->deleter(managed);
  }
  dlpack::DLManagedTensor* managed = nullptr;
};

/// Ours, as lent to somebody else.
struct DlpackExport {
  dlpack::DLManagedTensor managed{};
  Tensor tensor;
  std::array<std::int64_t, Tensor::kMaxDims> shape{};
  std::array<std::int64_t, Tensor::kMaxDims> strides{};
};

std::string describe(DType dtype, std::span<const std::int64_t> shape) {
  std::string text(to_string(dtype));
  text += '[';
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i != 0) text += ',';
    text += std::to_string(shape[i]);
  }
  return text + ']';
}

std::size_t require_count(DType dtype, std::span<const std::int64_t> shape) {
  if (const auto count = detail::element_count(dtype, shape)) return *count;
  throw InvalidArgument("there is no tensor " + describe(dtype, shape) +
                        ": use at most 8 dimensions, none negative, and a size that fits memory");
}

dlpack::DLDataType to_dlpack_type(DType dtype) {
  const auto bits = static_cast<std::uint8_t>(size_of(dtype) * 8);
  switch (dtype) {
    case DType::boolean:
      return {dlpack::kDLBool, bits, 1};
    case DType::i8:
    case DType::i16:
    case DType::i32:
    case DType::i64:
      return {dlpack::kDLInt, bits, 1};
    case DType::u8:
    case DType::u16:
    case DType::u32:
    case DType::u64:
      return {dlpack::kDLUInt, bits, 1};
    case DType::bf16:
      return {dlpack::kDLBfloat, bits, 1};
    case DType::f16:
    case DType::f32:
    case DType::f64:
      break;
  }
  return {dlpack::kDLFloat, bits, 1};
}

DType from_dlpack_type(dlpack::DLDataType type) {
  for (unsigned i = 0; i < kDTypeCount; ++i) {
    const auto dtype = static_cast<DType>(i);
    const dlpack::DLDataType ours = to_dlpack_type(dtype);
    if (ours.code == type.code && ours.bits == type.bits && type.lanes == 1) return dtype;
  }
  throw InvalidArgument("from_dlpack: forge has no dtype for code " + std::to_string(type.code) +
                        " with " + std::to_string(type.bits) + " bits and " +
                        std::to_string(type.lanes) + " lanes; convert the tensor first");
}

/// Row-major without gaps. A stride along which nothing is stepped may be anything.
bool is_compact(const dlpack::DLTensor& tensor, std::size_t count) {
  if (!tensor.strides || count == 0) return true;
  std::int64_t expected = 1;
  for (std::int32_t i = tensor.ndim - 1; i >= 0; --i) {
    if (tensor.shape[i] != 1 && tensor.strides[i] != expected) return false;
    expected *= tensor.shape[i];
  }
  return true;
}

}  // namespace

std::string_view to_string(DType dtype) noexcept {
  const auto number = static_cast<std::uint8_t>(dtype);
  return number < kDTypeCount ? kNames[number] : "unknown";
}

detail::TensorStorage::~TensorStorage() = default;
std::shared_ptr<detail::TensorStorage> detail::TensorStorage::widened(std::size_t) {
  return nullptr;
}

std::shared_ptr<detail::TensorStorage> detail::TensorStorage::joined(
    std::span<const std::span<const std::byte>>) {
  return nullptr;
}

std::optional<std::size_t> detail::element_count(DType dtype,
                                                 std::span<const std::int64_t> shape) noexcept {
  if (shape.size() > Tensor::kMaxDims) return std::nullopt;
  // Zeros are left out of the product, so that strides cannot overflow either.
  std::int64_t count = 1;
  bool empty = false;
  for (const std::int64_t length : shape) {
    empty = empty || length == 0;
    if (length < 0 || __builtin_mul_overflow(count, std::max<std::int64_t>(length, 1), &count)) {
      return std::nullopt;
    }
  }
  const auto element = static_cast<std::int64_t>(size_of(dtype));
  if (count > std::numeric_limits<std::int64_t>::max() / element) return std::nullopt;
  return empty ? 0 : static_cast<std::size_t>(count);
}

std::size_t detail::byte_size(DType dtype, std::span<const std::int64_t> shape) {
  return require_count(dtype, shape) * size_of(dtype);
}

Tensor::Tensor(DType dtype, const std::vector<std::int64_t>& shape) {
  const std::size_t bytes = detail::byte_size(dtype, shape);
  auto storage = std::make_shared<HeapStorage>(bytes);
  std::memset(storage->data, 0, bytes);
  *this = adopt(std::move(storage), dtype, shape);
}

Tensor Tensor::adopt(std::shared_ptr<detail::TensorStorage> storage, DType dtype,
                     std::span<const std::int64_t> shape, std::size_t byte_offset) {
  const std::size_t count = require_count(dtype, shape);
  const std::size_t bytes = count * size_of(dtype);
  const std::size_t available = storage ? storage->size : 0;
  if (byte_offset > available || bytes > available - byte_offset) {
    throw InvalidArgument("tensor " + describe(dtype, shape) + " needs " + std::to_string(bytes) +
                          " bytes from offset " + std::to_string(byte_offset) +
                          ", but its memory has " + std::to_string(available) +
                          "; use a smaller shape or more memory");
  }
  if (bytes != 0 &&
      reinterpret_cast<std::uintptr_t>(storage->data + byte_offset) % size_of(dtype) != 0) {
    throw InvalidArgument("tensor " + describe(dtype, shape) + " at offset " +
                          std::to_string(byte_offset) + " is not aligned to its " +
                          std::to_string(size_of(dtype)) + "-byte elements; align or copy it");
  }
  Tensor tensor;
  tensor.storage_ = std::move(storage);
  tensor.byte_offset_ = byte_offset;
  tensor.size_ = count;
  std::copy(shape.begin(), shape.end(), tensor.shape_.begin());
  tensor.dims_ = static_cast<std::uint8_t>(shape.size());
  tensor.dtype_ = dtype;
  return tensor;
}

Tensor Tensor::copy() const {
  const std::span<const std::byte> from = bytes();
  auto storage = std::make_shared<HeapStorage>(from.size());
  if (!from.empty()) std::memcpy(storage->data, from.data(), from.size());
  return adopt(std::move(storage), dtype_, shape());
}

dlpack::DLManagedTensor* Tensor::to_dlpack() const {
  auto exported = std::make_unique<DlpackExport>();
  exported->tensor = *this;
  exported->shape = shape_;
  std::int64_t stride = 1;
  for (std::size_t i = dims_; i-- > 0;) {
    exported->strides[i] = stride;
    stride *= shape_[i];
  }
  exported->managed.dl_tensor = {.data = data(),
                                 .device = device() < 0
                                               ? dlpack::DLDevice{dlpack::kDLCPU, 0}
                                               : dlpack::DLDevice{dlpack::kDLCUDA, device()},
                                 .ndim = dims_,
                                 .dtype = to_dlpack_type(dtype_),
                                 .shape = exported->shape.data(),
                                 .strides = exported->strides.data(),
                                 .byte_offset = 0};
  exported->managed.manager_ctx = exported.get();
  exported->managed.deleter = [](dlpack::DLManagedTensor* self) {
    delete static_cast<DlpackExport*>(self->manager_ctx);
  };
  return &exported.release()->managed;
}

Tensor Tensor::from_dlpack(dlpack::DLManagedTensor* managed) {
  if (!managed) throw InvalidArgument("from_dlpack: the DLManagedTensor is null; pass a live one");
  const dlpack::DLTensor& given = managed->dl_tensor;
  const bool on_device = given.device.device_type == dlpack::kDLCUDA;
  if (!on_device && given.device.device_type != dlpack::kDLCPU &&
      given.device.device_type != dlpack::kDLCUDAHost) {
    throw InvalidArgument("from_dlpack: the tensor is on device type " +
                          std::to_string(given.device.device_type) +
                          "; forge takes memory of the host and of CUDA devices: copy it there "
                          "first");
  }
  if (on_device && given.device.device_id < 0) {
    throw InvalidArgument("from_dlpack: there is no CUDA device " +
                          std::to_string(given.device.device_id) + "; pass a complete DLTensor");
  }
  if (given.ndim < 0 || (given.ndim > 0 && !given.shape)) {
    throw InvalidArgument("from_dlpack: the DLTensor has no valid shape; pass a complete one");
  }
  const DType dtype = from_dlpack_type(given.dtype);
  const std::span<const std::int64_t> shape(given.shape, static_cast<std::size_t>(given.ndim));
  const std::size_t count = require_count(dtype, shape);
  if (!is_compact(given, count)) {
    throw InvalidArgument("from_dlpack: " + describe(dtype, shape) +
                          " is not compact in row-major order; make it contiguous first");
  }
  auto storage = std::make_shared<DlpackStorage>();
  if (given.data) {
    storage->data = static_cast<std::byte*>(given.data) + given.byte_offset;
    storage->size = count * size_of(dtype);
  }
  if (on_device) storage->device = given.device.device_id;
  Tensor tensor = adopt(storage, dtype, shape);
  storage->managed = managed;
  return tensor;
}

void Tensor::throw_bad_access(DType wanted, bool type_fits) const {
  const std::string self = "tensor " + describe(dtype_, shape());
  const std::string type(to_string(wanted));
  if (!type_fits) {
    throw InvalidArgument(self + " was asked for elements of type " + type +
                          "; ask for its dtype()'s type");
  }
  throw InvalidArgument(self +
                        " is frozen: it was sent or received, and can only be read; read it with "
                        "span<const T>() or write to its copy()");
}

void Tensor::throw_on_device() const {
  throw InvalidArgument("tensor " + describe(dtype_, shape()) + " lies in memory of device " +
                        std::to_string(device()) +
                        ", which the host cannot reach; in an actor, read "
                        "forge::context().to_host(tensor), or hand device_data<T>() to a kernel");
}

void Tensor::throw_on_host() const {
  throw InvalidArgument("tensor " + describe(dtype_, shape()) +
                        " lies in host memory and has no address on a device; in an actor, use "
                        "forge::context().to_device(tensor), or span<T>() on the host");
}

}  // namespace forge
