// A call's answers: tensors that stay inside of what a worker lent, errors as callers see them, and
// the pool that calls come from.
#include "core/call.h"

#include <forge/payload.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/engine.h"
#include "core/host.h"
#include "tests/replicas/plain_memory.h"

namespace forge::core {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

constexpr std::size_t kAnswers = 64 * 1024;
constexpr std::uint64_t kBlock = shm::kAnswersOffset + 4096;
constexpr std::size_t kBlockSize = 1000;
constexpr std::size_t kHead = 100;  // so the blobs begin at 128
const std::vector<std::int64_t> kOne{1};

/// A response file in which every byte of answer memory tells its offset.
class AnswerSources : public ::testing::Test {
 protected:
  AnswerSources() {
    for (std::size_t at = shm::kAnswersOffset; at < bytes_.size(); ++at) {
      bytes_.data()[at] = std::byte(at / 8);
    }
    lend(false);
  }
  void lend(bool copy) {
    source_.block = std::make_shared<replicas::AnswerBlock>(memory_, kBlock, kBlockSize, copy);
    source_.head_size = kHead;
  }
  std::vector<std::uint64_t> released() {
    std::vector<std::uint64_t> offsets;
    memory_->released().take(offsets);
    return offsets;
  }
  Tensor bytes_in_block(std::uint64_t offset, std::uint64_t size) {
    return source_.in_block(offset, size, DType::u8,
                            std::vector<std::int64_t>{static_cast<std::int64_t>(size)});
  }
  Tensor bytes_in_home(std::uint64_t offset, std::uint64_t size) {
    return source_.in_home(offset, size, DType::u8,
                           std::vector<std::int64_t>{static_cast<std::int64_t>(size)});
  }

  tests::PlainMemory bytes_{shm::kAnswersOffset + kAnswers};
  std::shared_ptr<replicas::AnswerMemory> memory_ =
      std::make_shared<replicas::AnswerMemory>(bytes_.segment());
  AnswerSource source_;
};

constexpr std::uint64_t kBlobs = kBlockSize - 128;
constexpr std::uint64_t kMax = ~std::uint64_t{0};

TEST_F(AnswerSources, ViewTheBlocksBytesWithoutACopy) {
  const Tensor tensor = bytes_in_block(64, 100);
  EXPECT_EQ(tensor.bytes().data(), bytes_.data() + kBlock + 128 + 64);
  EXPECT_TRUE(tensor.frozen());
  EXPECT_EQ(bytes_in_block(0, kBlobs).size(), kBlobs);
  EXPECT_EQ(bytes_in_block(kBlobs - 1, 1).size(), 1u);
}

TEST_F(AnswerSources, RefuseWhatLeavesTheBlock) {
  EXPECT_THROW(bytes_in_block(0, kBlobs + 1), InvalidArgument);
  EXPECT_THROW(bytes_in_block(kBlobs, 1), InvalidArgument);
  EXPECT_THROW(bytes_in_block(kBlobs + 1, 1), InvalidArgument);
  EXPECT_THROW(source_.in_block(1, kMax, DType::u8, kOne), InvalidArgument);
  EXPECT_THROW(source_.in_block(kMax, 1, DType::u8, kOne), InvalidArgument);
  EXPECT_THROW(source_.in_block(kMax - 127, 128, DType::u8, kOne), InvalidArgument);
  EXPECT_THROW(source_.in_block(0, 1, DType::f64, kOne), InvalidArgument) << "8 bytes in 1";
  source_.head_size = kBlockSize;
  EXPECT_THROW(bytes_in_block(0, 1), InvalidArgument) << "head only";
}

TEST_F(AnswerSources, ViewAnswerMemoryByItsOffsetInTheFile) {
  const Tensor tensor = bytes_in_home(kBlock + 8, 64);
  EXPECT_EQ(tensor.bytes().data(), bytes_.data() + kBlock + 8);
  EXPECT_TRUE(tensor.frozen());
  EXPECT_EQ(bytes_in_home(shm::kAnswersOffset, kAnswers).size(), kAnswers);
}

TEST_F(AnswerSources, RefuseWhatLeavesAnswerMemory) {
  const std::uint64_t end = bytes_.size();
  EXPECT_THROW(bytes_in_home(0, 1), InvalidArgument) << "the rings are no answer";
  EXPECT_THROW(bytes_in_home(shm::kAnswersOffset - 1, 2), InvalidArgument);
  EXPECT_THROW(bytes_in_home(end - 1, 2), InvalidArgument);
  EXPECT_THROW(bytes_in_home(end + 1, 0), InvalidArgument);
  EXPECT_THROW(source_.in_home(kBlock, kMax, DType::u8, kOne), InvalidArgument);
  EXPECT_THROW(source_.in_home(kMax, 2, DType::u8, kOne), InvalidArgument);
}

TEST_F(AnswerSources, GiveEmptyTensorsWithoutABlock) {
  const std::vector<std::int64_t> none{0, 3};
  source_.head_size = kBlockSize;  // a block of nothing but a head
  EXPECT_EQ(source_.in_block(0, 0, DType::f32, none).size(), 0u);
  source_.block.reset();  // an answer that rode in the slot
  source_.head_size = 10;
  const Tensor tensor = source_.in_block(0, 0, DType::f32, none);
  EXPECT_EQ(tensor.size(), 0u);
  EXPECT_THAT(tensor.shape(), ElementsAre(0, 3));
  EXPECT_THROW(bytes_in_block(0, 1), InvalidArgument);
  EXPECT_THROW(bytes_in_home(kBlock, 1), InvalidArgument);
}

TEST_F(AnswerSources, GiveTheBlockBackWhenTheLastTensorIsDropped) {
  Tensor first = bytes_in_block(0, 10);
  Tensor second = bytes_in_home(kBlock, 10);
  source_.block.reset();
  first = Tensor();
  EXPECT_THAT(released(), IsEmpty());
  Tensor third = second;
  second = Tensor();
  EXPECT_THAT(released(), IsEmpty());
  EXPECT_EQ(third.bytes()[0], std::byte((kBlock / 8) & 0xFF));
  third = Tensor();
  EXPECT_THAT(released(), ElementsAre(kBlock));
}

TEST_F(AnswerSources, OfACopyGaveTheBlockBackAtOnceAndKnowNoMemory) {
  source_.block.reset();
  EXPECT_THAT(released(), ElementsAre(kBlock));
  lend(true);
  EXPECT_THAT(released(), ElementsAre(kBlock));
  const Tensor tensor = bytes_in_block(0, 10);
  EXPECT_NE(tensor.bytes().data(), bytes_.data() + kBlock + 128);
  EXPECT_TRUE(
      std::equal(tensor.bytes().begin(), tensor.bytes().end(), bytes_.data() + kBlock + 128));
  EXPECT_THROW(bytes_in_home(kBlock, 1), InvalidArgument);
  EXPECT_THROW(bytes_in_block(0, kBlobs + 1), InvalidArgument);
  source_.block.reset();
  EXPECT_THAT(released(), IsEmpty()) << "not twice";
  EXPECT_EQ(tensor.bytes()[0], std::byte(((kBlock + 128) / 8) & 0xFF));
}

// ---- errors

Answer answer_of(const Error& error) {
  detail::Writer writer;
  detail::write_error(writer, error);
  Answer answer;
  answer.head.assign(writer.head().begin(), writer.head().end());
  return answer;
}

TEST(DecodeError, KeepsTheClassAndSaysWhere) {
  Answer answer = answer_of(Backpressure("full"));
  const auto error = decode_error(answer, "svc.f on replica 2");
  EXPECT_EQ(error->code(), "backpressure");
  EXPECT_STREQ(error->what(), "svc.f on replica 2: full");
}

TEST(DecodeError, KeepsTypeAndTextOfWhatTheActorThrew) {
  Answer answer = answer_of(ActorError("A.f", "std::out_of_range", "at 5"));
  const auto error = decode_error(answer, "svc.f on replica 2");
  EXPECT_EQ(error->code(), "actor_error");
  EXPECT_THAT(error->what(), AllOf(StartsWith("svc.f on replica 2: "), HasSubstr("at 5")));
  const auto* actor = dynamic_cast<const ActorError*>(error.get());
  ASSERT_NE(actor, nullptr);
  EXPECT_EQ(actor->type(), "std::out_of_range");
  EXPECT_EQ(actor->text(), "at 5");
}

TEST(DecodeError, OfBytesThatAreNoneIsALostWorker) {
  for (const std::vector<std::byte>& bytes :
       {std::vector<std::byte>{}, std::vector<std::byte>(1), std::vector(50, std::byte{0xDD})}) {
    Answer answer;
    answer.head = bytes;
    const auto error = decode_error(answer, "svc.f");
    ASSERT_NE(error, nullptr);
    const auto* lost = dynamic_cast<const WorkerLost*>(error.get());
    ASSERT_NE(lost, nullptr) << error->what();
    EXPECT_TRUE(lost->maybe_executed());
    EXPECT_THAT(error->what(), AllOf(HasSubstr("svc.f"), HasSubstr("cannot be read")));
  }
}

// ---- calls

void answer(Answer& answer, std::int64_t value) {
  detail::Writer writer;
  writer.integer(value);
  answer.head.assign(writer.head().begin(), writer.head().end());
  answer.source.head_size = answer.head.size();
}

TEST(Call, AreReadyWhenTheirLastShareIsSettled) {
  Call call;
  call.begin(nullptr, 2, 1);
  EXPECT_FALSE(call.settle());
  EXPECT_FALSE(call.ready());
  EXPECT_TRUE(call.settle());
  call.complete();
  EXPECT_TRUE(call.ready());
}

TEST(Call, GiveTheAnswerOfEachShareAndRank) {
  Call call;
  call.begin(nullptr, 2, 3);
  for (std::size_t i = 0; i < 6; ++i) answer(call.answer(i), static_cast<std::int64_t>(10 + i));
  EXPECT_EQ(call.shares(), 2u);
  EXPECT_EQ(call.ranks(), 3u);
  for (std::size_t share = 0; share < 2; ++share) {
    EXPECT_EQ(call.error(share), nullptr);
    for (std::size_t rank = 0; rank < 3; ++rank) {
      EXPECT_EQ(call.value(share, rank).integer(),
                static_cast<std::int64_t>(10 + 3 * share + rank));
    }
  }
}

TEST(Call, GiveTheErrorOfTheLowestRank) {
  Call call;
  call.begin(nullptr, 2, 3);
  for (std::size_t i = 0; i < 6; ++i) answer(call.answer(i), 0);
  call.answer(4).error = std::make_shared<Backpressure>("second");
  call.answer(5).error = std::make_shared<Cancelled>("third");
  EXPECT_EQ(call.error(0), nullptr) << "an error is its share's own";
  EXPECT_STREQ(call.error(1)->what(), "second");
  EXPECT_THROW(call.value(1, 1), Backpressure);
  EXPECT_THROW(call.value(1, 2), Cancelled);
  EXPECT_EQ(call.value(1, 0).integer(), 0);
}

TEST(Call, GiveACauseBeforeItsConsequences) {
  Call call;
  call.begin(nullptr, 1, 3);
  for (const std::size_t i : {0u, 1u, 2u}) {
    call.answer(i).error = std::make_shared<Unavailable>("of rank " + std::to_string(i));
    call.answer(i).let_down = i != 2;
  }
  EXPECT_STREQ(call.error(0)->what(), "of rank 2");
  call.answer(2).clear();
  answer(call.answer(2), 0);
  EXPECT_STREQ(call.error(0)->what(), "of rank 0") << "better than nothing";
}

TEST(Call, GiveTheRefusalToEveryQuestion) {
  Call call;
  call.begin(nullptr, 0, 0);
  call.refuse(std::make_shared<Stopped>("no more"));
  EXPECT_TRUE(call.ready());
  EXPECT_EQ(call.shares(), 0u);
  ASSERT_NE(call.failure(), nullptr);
  EXPECT_EQ(call.failure()->code(), "stopped");
  for (const std::size_t share : {0u, 1u}) EXPECT_EQ(call.error(share)->code(), "stopped");
}

TEST(Call, ReadBytesThatAreBehindTheHead) {
  const tests::PlainMemory bytes(shm::kAnswersOffset + kAnswers);
  const auto memory = std::make_shared<replicas::AnswerMemory>(bytes.segment());
  detail::Writer writer;
  const std::vector<std::byte> large(5000, std::byte{3});
  writer.bytes(large);
  writer.write_to(bytes.data() + kBlock);

  Call call;
  call.begin(nullptr, 1, 1);
  Answer& answer = call.answer(0);
  answer.source.block =
      std::make_shared<replicas::AnswerBlock>(memory, kBlock, writer.block_size(), false);
  answer.head.assign(writer.head().begin(), writer.head().end());
  answer.source.head_size = answer.head.size();
  detail::Reader reader = call.value(0, 0);
  const auto read = reader.bytes();
  EXPECT_TRUE(std::equal(read.begin(), read.end(), large.begin(), large.end()));
}

TEST(Call, KeepsItsEngineUntilTheFutureHasLetGo) {
  const auto host = Host::create({});
  Launch launch;
  launch.name = "call_test";
  launch.options.arena_bytes = std::size_t{1} << 20;
  const auto engine = std::move(Engine::create(host, std::move(launch))).value();
  const auto before = engine.use_count();
  for (const bool abandoned_first : {false, true}) {
    auto* call = new Call();  // the engine's pool will own it
    call->begin(engine, 1, 1);
    EXPECT_EQ(engine.use_count(), before + 1);
    abandoned_first ? call->abandon() : call->complete();
    EXPECT_EQ(engine.use_count(), before + 1) << "one of two has let go";
    abandoned_first ? call->complete() : call->abandon();
    EXPECT_EQ(engine.use_count(), before);
  }
}

// ---- the pool

TEST(CallPool, GivesCallsThatCameBackBeforeNewOnes) {
  CallPool pool;
  Call& first = pool.take();
  Call& second = pool.take();
  EXPECT_NE(&first, &second);
  pool.put(first);
  EXPECT_EQ(&pool.take(), &first);
  pool.put(second);
  pool.put(first);
  Call* const third = &pool.take();
  Call* const fourth = &pool.take();
  EXPECT_NE(third, fourth);
  EXPECT_TRUE(third == &first || third == &second);
  EXPECT_TRUE(fourth == &first || fourth == &second);
  pool.put(*third);
  pool.put(*fourth);
}

TEST(CallPool, TakesCallsBackFromAnyThreadAndGivesEachToOneUser) {
  constexpr int kThreads = 4;
  constexpr int kRounds = 5000;
  CallPool pool;
  std::mutex lock;  // as the engine's
  std::vector<std::thread> users;
  for (int user = 0; user < kThreads; ++user) {
    users.emplace_back([&, user] {
      for (int i = 0; i < kRounds; ++i) {
        Call* call;
        {
          const std::lock_guard guard(lock);
          call = &pool.take();
        }
        // Not atomic: if two had it, a thread sanitizer would say so, and most often the check.
        call->begin(nullptr, 1, 1);
        answer(call->answer(0), user);
        ASSERT_EQ(call->value(0, 0).integer(), user);
        pool.put(*call);
      }
    });
  }
  for (auto& user : users) user.join();
}

}  // namespace
}  // namespace forge::core
