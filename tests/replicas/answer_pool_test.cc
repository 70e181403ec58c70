// Answer memory: what rides in the slot, what gets a block, and what comes back once released.
#include "replicas/answer_pool.h"

#include <forge/error.h>
#include <forge/payload.h>
#include <gmock/gmock.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/replicas/plain_memory.h"

namespace forge::replicas {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr std::size_t kMiB = std::size_t{1} << 20;

/// A pool over plain memory, and the controller that releases blocks.
class Answers {
 public:
  explicit Answers(std::size_t bytes = kMiB)
      : memory_(shm::kAnswersOffset + bytes), file_(memory_.segment()) {}

  /// What the controller would find.
  shm::ResponseSlot write(detail::Writer& writer) {
    shm::ResponseSlot slot{};
    pool_.write(writer, slot);
    return slot;
  }
  shm::ResponseSlot write_bytes(std::size_t size, int fill = 7) {
    const std::vector<std::byte> bytes(size, std::byte(fill));
    detail::Writer writer;
    writer.reset(pool_.home());
    writer.bytes(bytes);
    return write(writer);
  }
  void release(const shm::ResponseSlot& slot) {
    ASSERT_NE(slot.block, 0u);
    ASSERT_TRUE(producer_.try_push(slot.block));
  }
  std::span<const std::byte> block(const shm::ResponseSlot& slot) const {
    EXPECT_GE(slot.block, shm::kAnswersOffset);
    EXPECT_LE(slot.block + slot.block_size, memory_.size());
    return {memory_.data() + slot.block, slot.block_size};
  }
  bool holds(const void* address) const {
    return address >= memory_.data() + shm::kAnswersOffset &&
           address < memory_.data() + memory_.size();
  }

 private:
  tests::PlainMemory memory_;
  shm::Segment file_;
  std::vector<std::uint64_t> releases_ = std::vector<std::uint64_t>(shm::kReleases);
  shm::RingIndex tail_{};
  shm::RingIndex head_{};
  shm::RingProducer<std::uint64_t> producer_{releases_.data(), shm::kReleases, tail_, head_};

 public:
  AnswerPool pool_{file_, releases_.data(), tail_, head_};
};

/// Writes answers of `size` bytes until there is no room.
std::vector<shm::ResponseSlot> fill(Answers& answers, std::size_t size) {
  std::vector<shm::ResponseSlot> slots;
  try {
    for (;;) slots.push_back(answers.write_bytes(size));
  } catch (const Backpressure&) {
  }
  return slots;
}

// ---- slots and blocks

TEST(AnswerPool, PutsSmallAnswersIntoTheSlot) {
  Answers answers;
  for (const std::size_t size : {std::size_t{0}, std::size_t{10}, shm::kInlineAnswer - 2}) {
    const std::string text(size, 'x');
    detail::Writer writer;
    writer.string(text);
    const auto slot = answers.write(writer);
    EXPECT_EQ(slot.block, 0u);
    EXPECT_EQ(slot.block_size, 0u);
    EXPECT_EQ(slot.flags, 0);
    detail::Reader reader({slot.answer, slot.head_size});
    EXPECT_EQ(reader.string(), text);
    EXPECT_TRUE(reader.at_end());
  }
}

TEST(AnswerPool, PutsWhatDoesNotFitTheSlotIntoABlock) {
  Answers answers;
  const std::string text(shm::kInlineAnswer - 1, 'x');
  detail::Writer writer;
  writer.string(text);
  ASSERT_EQ(writer.head().size(), shm::kInlineAnswer + 1);
  const auto slot = answers.write(writer);
  EXPECT_EQ(slot.block % 64, 0u);
  EXPECT_EQ(slot.block_size, slot.head_size);
  detail::Reader reader(answers.block(slot).first(slot.head_size));
  EXPECT_EQ(reader.string(), text);
}

TEST(AnswerPool, PutsOutOfBandBytesBehindTheHead) {
  Answers answers;
  const auto slot = answers.write_bytes(5000, 9);
  EXPECT_LE(slot.head_size, shm::kInlineAnswer);
  const auto block = answers.block(slot);
  detail::Reader reader(block.first(slot.head_size), detail::blobs_of(block, slot.head_size));
  const auto bytes = reader.bytes();
  EXPECT_EQ(bytes.size(), 5000u);
  EXPECT_TRUE(std::all_of(bytes.begin(), bytes.end(), [](auto b) { return b == std::byte{9}; }));
}

TEST(AnswerPool, GivesASmallTensorABlockToo) {
  Answers answers;
  detail::Writer writer;
  const Tensor tensor(DType::i32, {2});  // the writer refers to its bytes
  writer.tensor(tensor);
  EXPECT_NE(answers.write(writer).block, 0u) << "its bytes are out of band";
}

// ---- fullness

TEST(AnswerPool, AnswersBackpressureWhenFullAndGoesOnAfterARelease) {
  Answers answers;
  auto slots = fill(answers, 100'000);
  EXPECT_GE(slots.size(), 8u);
  for (int i = 0; i < 100; ++i) {
    const std::size_t which = static_cast<std::size_t>(i) % slots.size();
    answers.release(slots[which]);
    slots[which] = answers.write_bytes(100'000);
    EXPECT_THROW(answers.write_bytes(100'000), Backpressure);
  }
}

TEST(AnswerPool, SaysHowFullItIs) {
  Answers answers;
  const auto slots = fill(answers, 100'000);
  try {
    answers.write_bytes(100'000);
    FAIL();
  } catch (const Backpressure& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("100"), HasSubstr(std::to_string(kMiB)),
                                    HasSubstr("full"), HasSubstr("arena_bytes")));
  }
}

TEST(AnswerPool, AnswersPayloadTooLargeToWhatNeverFits) {
  Answers answers;
  try {
    answers.write_bytes(2 * kMiB);
    FAIL();
  } catch (const PayloadTooLarge& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("answer of 2097"), HasSubstr(std::to_string(kMiB)),
                                    HasSubstr("arena_bytes")));
  }
  EXPECT_NE(answers.write_bytes(kMiB / 2).block, 0u) << "and is none the worse for it";
}

TEST(AnswerPool, WithHardlyAnyMemoryStillAnswersInline) {
  Answers answers(4096);
  detail::Writer writer;
  writer.integer(1);
  EXPECT_EQ(answers.write(writer).block, 0u);
  EXPECT_THROW(answers.write_bytes(1000), Error);
}

TEST(AnswerPool, AsksForACopyWhenLittleIsLeft) {
  Answers answers;
  EXPECT_EQ(answers.write_bytes(1000).flags, 0);
  const auto slots = fill(answers, 50'000);
  EXPECT_EQ(slots.front().flags, 0);
  EXPECT_EQ(slots.back().flags, shm::kCopyOut);
  for (const auto& slot : slots) answers.release(slot);
  EXPECT_EQ(answers.write_bytes(1000).flags, 0);
}

TEST(AnswerPool, ReservesMemoryAsItGrows) {
  shm::Segment file = std::move(shm::Segment::create({.name = "answer_pool_test",
                                                      .size = shm::kAnswersOffset + 8 * kMiB,
                                                      .reserved = shm::kAnswersOffset,
                                                      .writer = shm::Writer::peer})
                                    .value());
  // As the worker maps it.
  shm::Segment mine = std::move(
      shm::Segment::attach(shm::FileDescriptor(::dup(file.fd())), shm::Access::read_write).value());
  const auto backed = [&] {
    struct stat status {};
    ::fstat(file.fd(), &status);
    return static_cast<std::size_t>(status.st_blocks) * 512;
  };
  const std::vector<std::uint64_t> releases(shm::kReleases);
  const shm::RingIndex tail{};
  shm::RingIndex head{};
  AnswerPool pool(mine, releases.data(), tail, head);
  EXPECT_EQ(backed(), shm::kAnswersOffset) << "an actor that needs none gets none";
  std::vector<Tensor> tensors;
  std::size_t before = backed();
  for (int i = 0; i < 6; ++i) {
    tensors.push_back(pool.allocate(DType::u8, std::vector<std::int64_t>{1'000'000}));
    ASSERT_NE(tensors.back().storage()->home, nullptr);
    EXPECT_GE(backed(), before);
    before = backed();
  }
  EXPECT_GE(before, 6'000'000u);
  EXPECT_LE(before, file.size());
}

// ---- tensors that are born in answer memory

const std::vector<std::int64_t> kShape{100, 100};

TEST(AnswerPool, LaysTensorsIntoAnswerMemory) {
  Answers answers;
  Tensor tensor = answers.pool_.allocate(DType::f32, kShape);
  EXPECT_TRUE(answers.holds(tensor.bytes().data()));
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensor.bytes().data()) % 64, 0u);
  EXPECT_EQ(tensor.storage()->home, answers.pool_.home());
  tensor.span<float>()[0] = 1;
}

TEST(AnswerPool, CopiesNoTensorThatIsAlreadyThere) {
  Answers answers;
  Tensor tensor = answers.pool_.allocate(DType::f32, kShape);
  detail::Writer writer;
  writer.reset(answers.pool_.home());
  writer.tensor(tensor);
  EXPECT_FALSE(writer.has_blobs());
  const auto slot = answers.write(writer);
  EXPECT_NE(slot.block, 0u) << "a block, so that its release brings the tensor back";
  EXPECT_LT(slot.block_size, 100u);
}

TEST(AnswerPool, FreezesATensorWithItsFirstAnswer) {
  Answers answers;
  Tensor tensor = answers.pool_.allocate(DType::f32, kShape);
  detail::Writer writer;
  writer.reset(answers.pool_.home());
  writer.tensor(tensor);
  tensor.span<float>()[0] = 1;
  const auto first = answers.write(writer);
  EXPECT_THROW(tensor.span<float>(), InvalidArgument);
  writer.restart();
  writer.tensor(tensor);
  const auto second = answers.write(writer);
  EXPECT_NE(first.block, second.block);
  EXPECT_FALSE(writer.has_blobs());
}

TEST(AnswerPool, KeepsWhatItHoldsForTheNextAnswer) {
  Answers answers;
  EXPECT_TRUE(answers.pool_.could_hold(kMiB - 2000));
  EXPECT_FALSE(answers.pool_.could_hold(kMiB));
  constexpr std::size_t kBlock = 10'000 + 64;
  const auto slots = fill(answers, 10'000);
  ASSERT_GE(slots.size(), 2u);
  for (const std::size_t next : {10'000, 9'000}) {  // a block of another size is given back
    EXPECT_FALSE(answers.pool_.hold(kBlock));
    answers.release(slots[next == 9'000]);
    EXPECT_TRUE(answers.pool_.hold(kBlock));
    EXPECT_NE(answers.write_bytes(next).block, 0u);
  }
}

TEST(AnswerPool, KeepsATensorUntilTheAnswerIsReleased) {
  Answers answers(kMiB);
  constexpr std::int64_t kHalf = 450'000;
  shm::ResponseSlot slot;
  const std::byte* there;
  {
    Tensor tensor = answers.pool_.allocate(DType::u8, std::vector{kHalf});
    there = tensor.bytes().data();
    detail::Writer writer;
    writer.reset(answers.pool_.home());
    writer.tensor(tensor);
    slot = answers.write(writer);
    EXPECT_TRUE(writer.residents().empty()) << "the pool has taken them over";
  }
  {
    const Tensor other = answers.pool_.allocate(DType::u8, std::vector{kHalf});
    EXPECT_TRUE(other.bytes().data() + kHalf <= there || other.bytes().data() >= there + kHalf);
  }
  answers.release(slot);
  const Tensor first = answers.pool_.allocate(DType::u8, std::vector{kHalf});
  const Tensor second = answers.pool_.allocate(DType::u8, std::vector{kHalf - 10'000});
  EXPECT_TRUE(answers.holds(first.bytes().data()));
  EXPECT_TRUE(answers.holds(second.bytes().data())) << "the released half is free again";
}

TEST(AnswerPool, FallsBackToPlainMemoryWhenFull) {
  Answers answers;
  const auto slots = fill(answers, 100'000);
  Tensor tensor = answers.pool_.allocate(DType::u8, std::vector<std::int64_t>{200'000});
  EXPECT_FALSE(answers.holds(tensor.bytes().data()));
  EXPECT_EQ(tensor.storage()->home, nullptr);
  EXPECT_EQ(tensor.size(), 200'000u);
  tensor.span<std::uint8_t>()[199'999] = 1;
}

TEST(AnswerPool, RefusesShapesThatCannotBe) {
  Answers answers;
  using Shape = std::vector<std::int64_t>;
  EXPECT_THROW(answers.pool_.allocate(DType::f32, Shape{-1}), InvalidArgument);
  EXPECT_THROW(answers.pool_.allocate(DType::f32, Shape{3, -4}), InvalidArgument);
  EXPECT_THROW(answers.pool_.allocate(DType::f64, Shape{INT64_MAX, 2}), InvalidArgument);
  EXPECT_THROW(answers.pool_.allocate(DType::u8, Shape(9, 1)), InvalidArgument);
  EXPECT_EQ(answers.pool_.allocate(DType::f32, Shape{0, 5}).size(), 0u);
  EXPECT_EQ(answers.pool_.allocate(DType::f32, Shape{}).size(), 1u);
}

TEST(AnswerPool, TakesTensorsBackFromAnyThread) {
  Answers answers(4 * kMiB);
  std::vector<std::thread> droppers;
  for (int round = 0; round < 50; ++round) {
    std::vector<Tensor> tensors;
    for (int i = 0; i < 8; ++i) {
      tensors.push_back(answers.pool_.allocate(DType::u8, std::vector<std::int64_t>{20'000 + i}));
      std::memset(tensors.back().span<std::uint8_t>().data(), i, 20'000);
    }
    droppers.emplace_back([mine = std::move(tensors)]() mutable { mine.clear(); });
    const auto slot = answers.write_bytes(3000);
    answers.release(slot);
    if (droppers.size() == 4) {
      for (auto& dropper : droppers) dropper.join();
      droppers.clear();
    }
  }
  for (auto& dropper : droppers) dropper.join();
  EXPECT_GE(fill(answers, 100'000).size(), 38u) << "not all of them came back";
}

}  // namespace
}  // namespace forge::replicas
