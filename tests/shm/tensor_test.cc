// Tensors: views, sharing, freezing and DLPack.
#include <forge/error.h>
#include <forge/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

namespace {

using forge::DType;
using forge::InvalidArgument;
using forge::Tensor;
using testing::ElementsAre;

/// A buffer of the test's own that tells when it is dropped.
struct TestStorage final : forge::detail::TensorStorage {
  explicit TestStorage(std::size_t bytes, bool* dropped_flag = nullptr)
      : memory((bytes + 7) / 8), dropped(dropped_flag) {
    data = reinterpret_cast<std::byte*>(memory.data());
    size = bytes;
  }
  ~TestStorage() override {
    if (dropped) *dropped = true;
  }
  std::vector<std::uint64_t> memory;
  bool* dropped;
};

/// Elements in what plays the memory of device `ordinal`.
Tensor on_device(int ordinal, DType dtype, std::span<const std::int64_t> shape) {
  auto storage = std::make_shared<TestStorage>(64);
  storage->device = ordinal;
  return Tensor::adopt(std::move(storage), dtype, shape, 8);
}

constexpr std::int64_t kShape24[] = {2, 4};

TEST(Tensor, IsEmptyByDefault) {
  const Tensor tensor;
  EXPECT_EQ(tensor.size(), 0u);
  EXPECT_THAT(tensor.shape(), ElementsAre(0));
  EXPECT_TRUE(tensor.bytes().empty());
  EXPECT_TRUE(tensor.span<float>().empty());
}

TEST(Tensor, OwnsZeroedAlignedMemory) {
  Tensor tensor(DType::f32, {8, 1024});
  EXPECT_EQ(tensor.size(), 8192u);
  EXPECT_EQ(tensor.bytes().size(), 32768u);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensor.bytes().data()) % 64, 0u);
  EXPECT_THAT(tensor.span<const float>(), testing::Each(0.0f));
}

TEST(Tensor, WithoutDimensionsHasOneElement) {
  Tensor tensor(DType::i64, {});
  EXPECT_EQ(tensor.size(), 1u);
  tensor.span<std::int64_t>()[0] = 7;
  EXPECT_EQ(tensor.span<const std::int64_t>()[0], 7);
}

TEST(Tensor, SharesItsBytesWithCopiesOfTheHandle) {
  Tensor tensor(DType::i32, {4});
  Tensor same = tensor;
  same.span<int>()[2] = 5;
  EXPECT_THAT(tensor.span<const int>(), ElementsAre(0, 0, 5, 0));

  Tensor other = tensor.copy();
  other.span<int>()[2] = 6;
  EXPECT_THAT(tensor.span<const int>(), ElementsAre(0, 0, 5, 0));
  EXPECT_THAT(other.shape(), ElementsAre(4));
}

TEST(Tensor, KnowsEveryElementType) {
  const auto fits = []<class T>(DType dtype, T) {
    Tensor tensor(dtype, {3});
    EXPECT_EQ(tensor.span<T>().size(), 3u);
    EXPECT_EQ(forge::size_of(dtype), sizeof(T));
    EXPECT_EQ(tensor.span<std::byte>().size(), 3 * sizeof(T));
  };
  fits(DType::boolean, bool{});
  fits(DType::i8, std::int8_t{});
  fits(DType::u8, std::uint8_t{});
  fits(DType::i16, std::int16_t{});
  fits(DType::u16, std::uint16_t{});
  fits(DType::i32, std::int32_t{});
  fits(DType::u32, std::uint32_t{});
  fits(DType::i64, std::int64_t{});
  fits(DType::u64, std::uint64_t{});
  fits(DType::i64, 0LL);
  fits(DType::f16, std::uint16_t{});
  fits(DType::bf16, std::uint16_t{});
  fits(DType::f32, float{});
  fits(DType::f64, double{});
}

TEST(Tensor, RefusesElementsOfAnotherType) {
  Tensor tensor(DType::f32, {4});
  EXPECT_THROW(tensor.span<double>(), InvalidArgument);
  EXPECT_THROW(tensor.span<std::int32_t>(), InvalidArgument);
  EXPECT_THROW(tensor.span<const std::uint32_t>(), InvalidArgument);
}

TEST(Tensor, CanOnlyBeReadOnceFrozen) {
  Tensor tensor(DType::u16, {4});
  EXPECT_FALSE(tensor.frozen());
  tensor.storage()->frozen = true;
  EXPECT_TRUE(tensor.frozen());
  EXPECT_THROW(tensor.span<std::uint16_t>(), InvalidArgument);
  EXPECT_THROW(tensor.span<std::byte>(), InvalidArgument);
  EXPECT_NO_THROW(tensor.span<const std::uint16_t>());
  EXPECT_NO_THROW(std::as_const(tensor).span<std::uint16_t>());
  EXPECT_NO_THROW(tensor.copy().span<std::uint16_t>());
}

TEST(Tensor, RefusesImpossibleShapes) {
  constexpr std::int64_t kHuge = std::int64_t{1} << 40;
  EXPECT_THROW(Tensor(DType::u8, {-1}), InvalidArgument);
  EXPECT_THROW(Tensor(DType::u8, {kHuge, kHuge}), InvalidArgument);
  EXPECT_THROW(Tensor(DType::u8, {kHuge, kHuge, 0}), InvalidArgument);
  EXPECT_THROW(Tensor(DType::u8, {0, kHuge, kHuge}), InvalidArgument);
  EXPECT_THROW(Tensor(DType::f64, {std::int64_t{1} << 61}), InvalidArgument);
  EXPECT_THROW(Tensor(DType::u8, {1, 1, 1, 1, 1, 1, 1, 1, 1}), InvalidArgument);
  EXPECT_NO_THROW(Tensor(DType::u8, {1, 1, 1, 1, 1, 1, 1, 1}));
}

TEST(Tensor, ViewsPartOfAStorageAndKeepsIt) {
  bool dropped = false;
  auto storage = std::make_shared<TestStorage>(64, &dropped);
  for (std::size_t i = 0; i < 64; ++i) storage->data[i] = std::byte(i);
  Tensor view = Tensor::adopt(std::move(storage), DType::u8, kShape24, 16);
  EXPECT_THAT(view.span<const std::uint8_t>(), ElementsAre(16, 17, 18, 19, 20, 21, 22, 23));
  EXPECT_EQ(view.byte_offset(), 16u);
  EXPECT_FALSE(dropped);
  view = Tensor();
  EXPECT_TRUE(dropped);
}

TEST(Tensor, RefusesToLeaveItsStorage) {
  const auto storage = std::make_shared<TestStorage>(64);
  EXPECT_NO_THROW(Tensor::adopt(storage, DType::f64, kShape24, 0));
  EXPECT_THROW(Tensor::adopt(storage, DType::f64, kShape24, 8), InvalidArgument);
  EXPECT_THROW(Tensor::adopt(storage, DType::u8, kShape24, 57), InvalidArgument);
  EXPECT_THROW(Tensor::adopt(storage, DType::u8, kShape24, ~std::size_t{0}), InvalidArgument);
  EXPECT_THROW(Tensor::adopt(nullptr, DType::u8, kShape24), InvalidArgument);
}

TEST(Tensor, RefusesMisalignedElements) {
  const auto storage = std::make_shared<TestStorage>(64);
  EXPECT_THROW(Tensor::adopt(storage, DType::f32, kShape24, 2), InvalidArgument);
  EXPECT_NO_THROW(Tensor::adopt(storage, DType::u8, kShape24, 3));
}

TEST(Tensor, SaysInItsErrorsWhichTensorItIs) {
  try {
    Tensor(DType::f32, {2, 3}).span<int>();
    FAIL();
  } catch (const InvalidArgument& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("f32[2,3]"));
    EXPECT_THAT(error.what(), testing::HasSubstr("i32"));
  }
}

TEST(Tensor, LiesOnTheHostUnlessItsStorageSaysOtherwise) {
  EXPECT_EQ(Tensor().device(), -1);
  EXPECT_EQ(Tensor(DType::f32, {4}).device(), -1);
  EXPECT_EQ(on_device(3, DType::f32, kShape24).device(), 3);
}

TEST(Tensor, OnADeviceShowsTheHostNothingButItsAddress) {
  Tensor tensor = on_device(0, DType::f32, kShape24);
  const std::byte* const begin = tensor.storage()->data + 8;
  EXPECT_EQ(reinterpret_cast<std::byte*>(tensor.device_data<float>()), begin);
  EXPECT_EQ(reinterpret_cast<const std::byte*>(std::as_const(tensor).device_data<float>()), begin);
  EXPECT_EQ(tensor.device_data<std::byte>(), begin);
  EXPECT_EQ(tensor.byte_count(), 32u);
  EXPECT_EQ(tensor.size(), 8u);
  EXPECT_THROW(tensor.span<float>(), InvalidArgument);
  EXPECT_THROW(std::as_const(tensor).span<float>(), InvalidArgument);
  EXPECT_THROW(tensor.bytes(), InvalidArgument);
  EXPECT_THROW(tensor.copy(), InvalidArgument);
  try {
    tensor.bytes();
  } catch (const InvalidArgument& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("device 0"));
    EXPECT_THAT(error.what(), testing::HasSubstr("to_host"));
  }
}

TEST(Tensor, ChecksElementsOnADeviceToo) {
  Tensor tensor = on_device(0, DType::f32, kShape24);
  EXPECT_THROW(tensor.device_data<double>(), InvalidArgument);
  tensor.storage()->frozen = true;
  EXPECT_THROW(tensor.device_data<float>(), InvalidArgument);
  EXPECT_NO_THROW(tensor.device_data<const float>());
  EXPECT_NO_THROW(std::as_const(tensor).device_data<float>());
}

TEST(Tensor, OnTheHostHasNoDeviceAddress) {
  Tensor tensor(DType::f32, {4});
  EXPECT_THROW(tensor.device_data<float>(), InvalidArgument);
  EXPECT_THROW(Tensor().device_data<float>(), InvalidArgument);
}

TEST(Dlpack, RoundTripSharesBytes) {
  for (unsigned i = 0; i < forge::kDTypeCount; ++i) {
    Tensor tensor(static_cast<DType>(i), {2, 3, 4});
    Tensor back = Tensor::from_dlpack(tensor.to_dlpack());
    EXPECT_EQ(back.dtype(), tensor.dtype());
    EXPECT_THAT(back.shape(), ElementsAre(2, 3, 4));
    EXPECT_EQ(back.bytes().data(), tensor.bytes().data());
  }
}

TEST(Dlpack, SaysWhichDeviceATensorLiesOn) {
  const Tensor tensor = on_device(2, DType::f32, kShape24);
  forge::dlpack::DLManagedTensor* managed = tensor.to_dlpack();
  EXPECT_EQ(managed->dl_tensor.device.device_type, forge::dlpack::kDLCUDA);
  EXPECT_EQ(managed->dl_tensor.device.device_id, 2);
  const Tensor back = Tensor::from_dlpack(managed);
  EXPECT_EQ(back.device(), 2);
  EXPECT_EQ(back.device_data<float>(), tensor.device_data<float>());
  EXPECT_THROW(back.bytes(), InvalidArgument);
}

TEST(Dlpack, KeepsBytesUntilTheDeleterRuns) {
  bool dropped = false;
  Tensor tensor =
      Tensor::adopt(std::make_shared<TestStorage>(64, &dropped), DType::f32, kShape24, 32);
  forge::dlpack::DLManagedTensor* managed = tensor.to_dlpack();
  EXPECT_THAT(std::span(managed->dl_tensor.shape, 2), ElementsAre(2, 4));
  EXPECT_THAT(std::span(managed->dl_tensor.strides, 2), ElementsAre(4, 1));
  tensor = Tensor();
  EXPECT_FALSE(dropped);
  managed->deleter(managed);
  EXPECT_TRUE(dropped);
}

/// Somebody else's tensor.
struct Foreign {
  Foreign() {
    std::iota(values.begin(), values.end(), 0.0f);
    managed.dl_tensor = {values.data(),
                         {forge::dlpack::kDLCPU, 0},
                         2,
                         {forge::dlpack::kDLFloat, 32, 1},
                         shape.data(),
                         nullptr,
                         0};
    managed.manager_ctx = this;
    managed.deleter = [](forge::dlpack::DLManagedTensor* self) {
      ++static_cast<Foreign*>(self->manager_ctx)->deletions;
    };
  }
  std::vector<float> values = std::vector<float>(12);
  std::vector<std::int64_t> shape{3, 4};
  std::vector<std::int64_t> strides{4, 1};
  forge::dlpack::DLManagedTensor managed{};
  int deletions = 0;
};

TEST(Dlpack, TakesAForeignTensorAndGivesItBackOnce) {
  Foreign foreign;
  {
    Tensor tensor = Tensor::from_dlpack(&foreign.managed);
    const Tensor second = tensor;
    EXPECT_EQ(tensor.span<const float>()[11], 11.0f);
    EXPECT_EQ(foreign.deletions, 0);
  }
  EXPECT_EQ(foreign.deletions, 1);
}

TEST(Dlpack, HonoursByteOffsetAndStrides) {
  Foreign foreign;
  foreign.managed.dl_tensor.byte_offset = 16;
  foreign.shape = {2, 4};
  foreign.managed.dl_tensor.shape = foreign.shape.data();
  foreign.managed.dl_tensor.strides = foreign.strides.data();
  EXPECT_EQ(Tensor::from_dlpack(&foreign.managed).span<const float>()[0], 4.0f);
}

TEST(Dlpack, LeavesWhatItRefusesToTheCaller) {
  const auto expect_refusal = [](auto change) {
    Foreign foreign;
    change(foreign, foreign.managed.dl_tensor);
    EXPECT_THROW((void)Tensor::from_dlpack(&foreign.managed), InvalidArgument);
    EXPECT_EQ(foreign.deletions, 0);
  };
  constexpr std::int32_t kDLVulkan = 7;
  expect_refusal([](auto&, auto& t) { t.device.device_type = kDLVulkan; });
  expect_refusal([](auto&, auto& t) { t.device = {forge::dlpack::kDLCUDA, -1}; });
  expect_refusal([](auto&, auto& t) { t.dtype.lanes = 4; });
  expect_refusal([](auto&, auto& t) { t.dtype.bits = 128; });
  expect_refusal([](auto&, auto& t) { t.dtype.code = 5; });
  expect_refusal([](auto&, auto& t) { t.ndim = -1; });
  expect_refusal([](auto&, auto& t) { t.shape = nullptr; });
  expect_refusal([](auto& f, auto&) { f.shape[0] = -3; });
  expect_refusal([](auto&, auto& t) { t.byte_offset = 2; });
  expect_refusal([](auto&, auto& t) { t.data = nullptr; });
  expect_refusal([](auto& f, auto& t) {
    f.strides = {1, 3};
    t.strides = f.strides.data();
  });
  EXPECT_THROW((void)Tensor::from_dlpack(nullptr), InvalidArgument);
}

/// What a program that includes dlpack.h itself has.
namespace theirs {
struct DLManagedTensor {
  forge::dlpack::DLTensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(DLManagedTensor*);
};
}  // namespace theirs

TEST(Dlpack, SpeaksThroughTheProgramsOwnDeclarations) {
  Tensor tensor(DType::f32, {2});
  auto* managed = tensor.to_dlpack_as<theirs::DLManagedTensor>();
  EXPECT_EQ(managed->dl_tensor.ndim, 1);
  EXPECT_EQ(Tensor::from_dlpack(managed).bytes().data(), tensor.bytes().data());
}

}  // namespace
