// The wire form: Writer and Reader against each other, against msgpack-cxx and against damage.
#include <forge/error.h>
#include <forge/wire.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <msgpack.hpp>
#include <string>
#include <vector>

#include "tests/shm/message.h"
#include "tests/shm/wire_model.h"

namespace forge::tests {
namespace {

TEST(Wire, ReaderReadsWhatMsgpackCxxPacks) {
  Generator generate(test_seed());
  for (int i = 0; i < 2000; ++i) {
    Value tree = generate.value(4, true);
    msgpack::sbuffer buffer;
    Packer packer(buffer);
    pack(packer, tree);
    const auto bytes = std::as_bytes(std::span(buffer.data(), buffer.size()));
    const Blob exact(bytes.begin(), bytes.end());

    Reader reader(exact);
    blank_unknown(tree);
    ASSERT_EQ(read(reader), tree) << "tree " << i;
    EXPECT_NO_THROW(reader.finish());

    Reader skipping(exact);
    skipping.skip();
    EXPECT_TRUE(skipping.at_end());
  }
}

TEST(Wire, MsgpackCxxUnpacksWhatWriterWrites) {
  Generator generate(test_seed());
  Writer writer;
  for (int i = 0; i < 2000; ++i) {
    const Value tree = generate.value(4, false);
    writer.reset();
    write(writer, tree);
    const Message message(writer);
    const auto* data = reinterpret_cast<const char*>(message.head().data());
    std::size_t used = 0;
    const msgpack::object_handle handle = msgpack::unpack(data, message.head().size(), used);
    ASSERT_EQ(used, message.head().size());
    ASSERT_EQ(unpacked(handle.get(), {message.blobs()->data, message.blobs()->size}), tree);

    Reader reader = message.reader();
    ASSERT_EQ(read(reader), tree);
    EXPECT_TRUE(reader.at_end());
  }
}

TEST(Wire, ReadsIntegersOfAnyWidth) {
  msgpack::sbuffer buffer;
  Packer packer(buffer);
  packer.pack_fix_uint8(1).pack_fix_uint16(1).pack_fix_uint32(1).pack_fix_uint64(1);
  packer.pack_fix_int8(-1).pack_fix_int16(-1).pack_fix_int32(-1).pack_fix_int64(-1);
  packer.pack_float(0.5f).pack_fix_int64(7);
  Reader reader(std::as_bytes(std::span(buffer.data(), buffer.size())));
  for (int i = 0; i < 4; ++i) EXPECT_EQ(reader.integer(), 1);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(reader.integer(), -1);
  EXPECT_EQ(reader.float64(), 0.5);
  EXPECT_EQ(reader.float64(), 7.0);
  EXPECT_TRUE(reader.at_end());
}

TEST(Wire, KeepsEveryBitOfAFloat) {
  using Limits = std::numeric_limits<double>;
  Writer writer;
  for (const double value : {0.0, -0.0, 1.0, -2.0, 1e19, 1e300, Limits::denorm_min(),
                             Limits::infinity(), Limits::quiet_NaN()}) {
    writer.reset();
    writer.float64(value);
    writer.float32(static_cast<float>(-0.0));
    Reader reader(writer.head());
    EXPECT_EQ(std::bit_cast<std::uint64_t>(reader.float64()), std::bit_cast<std::uint64_t>(value));
    EXPECT_TRUE(std::signbit(reader.float64()));
  }
}

// --- Damage --------------------------------------------------------------------------------------

/// Reads all values of a head; anything but success and InvalidArgument fails the test.
void read_all(Reader reader) {
  try {
    while (!reader.at_end()) read(reader);
  } catch (const InvalidArgument&) {
  }
}
void skip_all(Reader reader) {
  try {
    while (!reader.at_end()) reader.skip();
  } catch (const InvalidArgument&) {
  }
}

/// One of everything, with tensors in and out of home.
void write_everything(Writer& writer, const Blob& large, const std::shared_ptr<MemoryStorage>& home,
                      const Tensor& outside) {
  constexpr std::int64_t kShape[] = {2, 3};
  constexpr float kNumbers[] = {1, 2, 3};
  writer.reset(home->home);
  writer.map(2);
  writer.string("key");
  writer.array(6);
  writer.nil();
  writer.integer(-70000);
  writer.unsigned_integer(~std::uint64_t{0});
  writer.float32(1.5f);
  writer.float64(2.5);
  writer.boolean(true);
  writer.string(std::string(40, 's'));
  writer.array(6);
  writer.bytes(std::span(large).first(9));
  writer.bytes(large);
  writer.numbers(DType::f32, std::as_bytes(std::span(kNumbers)));
  writer.numbers(DType::u16, std::span(large).first(300));
  writer.tensor(Tensor::adopt(home, DType::i16, kShape, 8));
  writer.tensor(outside);
}

TEST(Wire, SurvivesEveryTruncationAndEveryDamagedByte) {
  const auto home = std::make_shared<MemoryStorage>(256);
  home->home = home.get();
  home->home_offset = 4096;
  const Blob large(300, std::byte{7});
  Writer writer;
  const Tensor outside(DType::f64, {3, 5});
  write_everything(writer, large, home, outside);
  const Message message(writer);
  MemorySource source(message.blobs(), home);
  Reader whole = message.reader(&source);
  read(whole);
  EXPECT_TRUE(whole.at_end());

  for (std::size_t size = 0; size < message.head().size(); ++size) {
    const Blob cut(message.head().begin(), message.head().begin() + static_cast<long>(size));
    Reader reader = message.reader(cut, &source);
    EXPECT_THROW(read(reader), InvalidArgument) << "cut to " << size;
    skip_all(message.reader(cut, &source));
  }
  for (std::size_t at = 0; at < message.head().size(); ++at) {
    Blob damaged = message.head();
    for (unsigned flip = 1; flip < 256; ++flip) {
      damaged[at] = message.head()[at] ^ static_cast<std::byte>(flip);
      read_all(message.reader(damaged, &source));
      skip_all(message.reader(damaged, &source));
    }
  }
}

TEST(Wire, SurvivesRandomBytes) {
  Generator generate(test_seed());
  const auto blobs = std::make_shared<MemoryStorage>(128);
  MemorySource source(blobs, blobs);
  for (int i = 0; i < 20000; ++i) {
    Blob noise(1 + generate.pick(64));
    for (std::byte& byte : noise) byte = static_cast<std::byte>(generate.pick(256));
    read_all(Reader(noise, {blobs->data, blobs->size}, &source));
    skip_all(Reader(noise, {blobs->data, blobs->size}, &source));
  }
}

Blob bytes_of(std::initializer_list<int> values) {
  Blob bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

TEST(Wire, RefusesCountsTheInputCannotHold) {
  EXPECT_THROW(Reader(bytes_of({0xdd, 0xff, 0xff, 0xff, 0xff, 0})).array(), InvalidArgument);
  EXPECT_THROW(Reader(bytes_of({0xdf, 0, 0, 0, 2, 0, 0, 0})).map(), InvalidArgument);
  EXPECT_THROW(Reader(bytes_of({0xdb, 0xff, 0xff, 0xff, 0xff, 0})).string(), InvalidArgument);
  EXPECT_THROW(Reader(bytes_of({0xc6, 0xff, 0xff, 0xff, 0xff, 0})).bytes(), InvalidArgument);
  const Blob fits = bytes_of({0xdc, 0, 2, 0, 0});
  EXPECT_EQ(Reader(fits).array(), 2u);
}

TEST(Wire, RefusesReferencesOutOfTheBlobs) {
  const Blob large(300, std::byte{1});
  Writer writer;
  writer.bytes(large);
  const Message message(writer);
  ASSERT_EQ(message.blobs()->size, 300u);
  const auto read_with = [&](std::uint64_t offset, std::uint64_t size) {
    Blob head = message.head();
    std::memcpy(head.data() + head.size() - 16, &offset, 8);
    std::memcpy(head.data() + head.size() - 8, &size, 8);
    return message.reader(head, nullptr).bytes().size();
  };
  EXPECT_EQ(read_with(0, 300), 300u);
  EXPECT_EQ(read_with(64, 236), 236u);
  EXPECT_EQ(read_with(256, 0), 0u);
  EXPECT_THROW(read_with(0, 301), InvalidArgument);
  EXPECT_THROW(read_with(64, 237), InvalidArgument);
  EXPECT_THROW(read_with(320, 0), InvalidArgument);
  EXPECT_THROW(read_with(1, 8), InvalidArgument) << "not aligned";
  EXPECT_THROW(read_with(64, ~std::uint64_t{0} - 32), InvalidArgument) << "wraps around";
  EXPECT_THROW(read_with(~std::uint64_t{63}, 64), InvalidArgument);
}

TEST(Wire, RefusesNestingBeyondItsDepthOnBothSides) {
  Writer writer;
  for (std::size_t i = 0; i < kMaxDepth; ++i) writer.array(1);
  EXPECT_THROW(writer.array(1), InvalidArgument);

  Blob deep(kMaxDepth, std::byte{0x91});
  deep.push_back(std::byte{0xc0});
  Reader fits(deep);
  EXPECT_NO_THROW(fits.skip());
  deep.insert(deep.begin(), std::byte{0x91});
  Reader too_deep(deep);
  EXPECT_THROW(too_deep.skip(), InvalidArgument);
}

TEST(Wire, CountsDepthNotLength) {
  Writer writer;
  writer.array(1000);
  for (int i = 0; i < 1000; ++i) {
    writer.array(2);
    writer.array(0);
    writer.map(1);
    writer.integer(i);
    writer.nil();
  }
  EXPECT_NO_THROW(writer.array(1)) << "back at the top";
  writer.nil();
  const Message message(writer);
  Reader reader = message.reader();
  reader.skip();
  reader.skip();
  EXPECT_TRUE(reader.at_end());
}

TEST(Wire, SaysWhereAndWhatItExpected) {
  Writer writer;
  writer.nil();
  writer.string("text");
  const Message message(writer);
  Reader reader = message.reader();
  reader.nil();
  try {
    reader.integer();
    FAIL();
  } catch (const InvalidArgument& error) {
    EXPECT_THAT(error.what(), testing::AllOf(testing::HasSubstr("byte 1 of 6"),
                                             testing::HasSubstr("expected an integer"),
                                             testing::HasSubstr("found a string")));
  }
  EXPECT_THROW(reader.finish(), InvalidArgument);
}

// --- Out of band ---------------------------------------------------------------------------------

TEST(Wire, KeepsSmallBytesInlineAndLargeOnesOutOfBand) {
  const Blob small(kMaxInlineBytes, std::byte{1});
  const Blob large(kMaxInlineBytes + 1, std::byte{2});
  Writer writer;
  writer.bytes(small);
  EXPECT_FALSE(writer.has_blobs());
  EXPECT_EQ(writer.block_size(), writer.head().size());

  writer.bytes(large);
  writer.bytes(large);
  EXPECT_TRUE(writer.has_blobs());
  EXPECT_EQ(writer.block_size(), align_up(writer.head().size(), 64) + 320 + 257);
  EXPECT_EQ(writer.copied_bytes(), writer.head().size() + 2 * 257);

  const Message message(writer);
  Reader reader = message.reader();
  EXPECT_EQ(reader.bytes().size(), small.size());
  const auto first = reader.bytes();
  const auto second = reader.bytes();
  EXPECT_TRUE(std::ranges::equal(first, large));
  EXPECT_TRUE(std::ranges::equal(second, large));
  EXPECT_EQ(second.data() - first.data(), 320) << "spans are 64-aligned";
}

TEST(Wire, CopiesTensorsThatAreNotAtHome) {
  Tensor tensor(DType::i32, {2, 2});
  tensor.span<int>()[3] = 9;
  Writer writer;
  for (const void* home : {static_cast<const void*>(nullptr), static_cast<const void*>(&writer)}) {
    writer.reset(home);
    writer.tensor(tensor);
    EXPECT_TRUE(writer.residents().empty());
    const Message message(writer);
    MemorySource source(message.blobs());
    const Tensor back = message.reader(&source).tensor();
    EXPECT_NE(back.bytes().data(), tensor.bytes().data());
    EXPECT_THAT(back.shape(), testing::ElementsAre(2, 2));
    EXPECT_EQ(back.span<const int>()[3], 9);
  }
}

TEST(Wire, RefersToTensorsAtHomeWithoutACopy) {
  const auto home = std::make_shared<MemoryStorage>(1 << 16);
  home->home = home.get();
  home->home_offset = 1 << 20;
  constexpr std::int64_t kShape[] = {1024};
  const Tensor tensor = Tensor::adopt(home, DType::f32, kShape, 4096);
  Writer writer;
  writer.reset(home.get());
  writer.tensor(tensor);
  EXPECT_FALSE(writer.has_blobs());
  EXPECT_LT(writer.copied_bytes(), 64u);
  ASSERT_EQ(writer.residents().size(), 1u);
  EXPECT_EQ(writer.residents()[0].bytes().data(), tensor.bytes().data());

  const Message message(writer);
  MemorySource source(message.blobs(), home);
  const Tensor back = message.reader(&source).tensor();
  EXPECT_EQ(back.bytes().data(), tensor.bytes().data());

  EXPECT_GT(home.use_count(), 4);
  writer.reset();
  EXPECT_TRUE(writer.residents().empty()) << "reset lets go of them";
}

TEST(Wire, CarriesEmptyTensorsAndScalars) {
  const Tensor tensors[] = {Tensor(), Tensor(DType::u8, {100}), Tensor(DType::f64, {0, 3}),
                            Tensor(DType::f64, {})};
  Writer writer;
  for (const Tensor& tensor : tensors) writer.tensor(tensor);
  const Message message(writer);
  MemorySource source(message.blobs());
  Reader reader = message.reader(&source);
  EXPECT_THAT(reader.tensor().shape(), testing::ElementsAre(0));
  EXPECT_EQ(reader.tensor().size(), 100u);
  EXPECT_THAT(reader.tensor().shape(), testing::ElementsAre(0, 3));
  EXPECT_EQ(reader.tensor().size(), 1u);
}

TEST(Wire, RefusesTensorsWithoutASource) {
  const Tensor tensor(DType::u8, {4});
  Writer writer;
  writer.tensor(tensor);
  const Message message(writer);
  EXPECT_THROW(message.reader().tensor(), InvalidArgument);
}

TEST(Wire, ForgetsTheLastMessageOnReset) {
  const Blob large(1000, std::byte{1});
  Writer writer;
  writer.array(5);
  writer.bytes(large);
  writer.reset();
  EXPECT_EQ(writer.block_size(), 0u);
  EXPECT_EQ(writer.copied_bytes(), 0u);
  writer.integer(1);
  EXPECT_EQ(writer.block_size(), 1u);
}

}  // namespace
}  // namespace forge::tests
