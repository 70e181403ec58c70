// What a worker writes is input: the controller's end of a channel over response files that no
// worker would write. The address sanitizer watches that nothing is read outside of them.
#include <forge/error.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/call.h"
#include "replicas/channel.h"
#include "tests/child.h"
#include "tests/random.h"
#include "tests/replicas/plain_memory.h"

namespace forge::replicas {
namespace {

using shm::ResponseKind;
using shm::ResponseSlot;
using ::testing::HasSubstr;

constexpr std::size_t kAnswers = 64 * 1024;
constexpr std::size_t kFileSize = shm::kAnswersOffset + kAnswers;

/// A worker in the hands of the test: it writes what it likes into its response file.
class Forger {
 public:
  Forger() : requests_(shm::kRequestFileSize), responses_(kFileSize) {
    channel_ = Channel::over(requests_.segment(), responses_.segment(),
                             {.name = "test", .answer_bytes = kAnswers});
  }

  void expect_answers(std::uint64_t count) {
    shm::RequestSlot slot{};
    slot.kind = shm::RequestKind::call;
    for (std::uint64_t i = 0; i < count; ++i) channel_->push(slot);
  }
  void answer(const ResponseSlot& slot) {
    file().responses[answered_ % shm::kWindow] = slot;
    file().responses_tail.position.store(++answered_);
  }
  shm::ResponseFile& file() { return responses_.as<shm::ResponseFile>(); }
  std::byte* bytes() { return responses_.data(); }
  Channel& channel() { return *channel_; }

 private:
  tests::PlainMemory requests_;
  tests::PlainMemory responses_;
  std::shared_ptr<Channel> channel_;
  std::uint64_t answered_ = 0;
};

ResponseSlot honest() {
  ResponseSlot slot{};
  slot.kind = ResponseKind::value;
  slot.head_size = 1;
  return slot;
}
ResponseSlot honest_block() {
  ResponseSlot slot = honest();
  slot.block = shm::kAnswersOffset + 64;
  slot.block_size = 1000;
  slot.head_size = 100;
  return slot;
}

/// Reads all that an accepted slot lets the controller read, as the engine does. The sum is there
/// so that the reads are.
unsigned read_all(Channel& channel, const ResponseSlot& slot) {
  unsigned sum = 0;
  core::Answer answer;
  const std::byte* head = slot.answer;
  if (slot.block != 0) {
    answer.source.block = std::make_shared<AnswerBlock>(
        channel.answers(), slot.block, slot.block_size, slot.flags & shm::kCopyOut);
    for (const std::byte byte : answer.source.block->bytes())
      sum += std::to_integer<unsigned>(byte);
    head = answer.source.block->bytes().data();
  }
  answer.head.assign(head, head + slot.head_size);
  answer.source.head_size = slot.head_size;
  std::span<const std::byte> blobs;
  if (answer.source.block) blobs = detail::blobs_of(answer.source.block->bytes(), slot.head_size);
  try {
    detail::Reader reader(answer.head, blobs, &answer.source);
    while (!reader.at_end()) {
      if (reader.peek() == detail::Kind::tensor) {
        const Tensor tensor = reader.tensor();
        for (const std::byte byte : tensor.bytes()) sum += std::to_integer<unsigned>(byte);
      } else if (reader.peek() == detail::Kind::bytes) {
        for (const std::byte byte : reader.bytes()) sum += std::to_integer<unsigned>(byte);
      } else {
        reader.skip();
      }
    }
  } catch (const InvalidArgument&) {
  }
  return sum + (core::decode_error(answer, "forger") == nullptr ? 1 : 0);
}

// ---- one lie at a time

TEST(ChannelViolation, IsNoneInWhatAWorkerWrites) {
  Forger forger;
  forger.expect_answers(5);
  ResponseSlot error = honest();
  error.kind = ResponseKind::error;
  ResponseSlot expired = honest();
  expired.kind = ResponseKind::expired;
  expired.head_size = 0;
  ResponseSlot full = honest();
  full.head_size = shm::kInlineAnswer;
  ResponseSlot last = honest_block();
  last.block = kFileSize - 64;
  last.block_size = last.head_size = 64;
  const ResponseSlot all[] = {error, expired, full, honest_block(), last};
  for (const ResponseSlot& slot : all) {
    forger.answer(slot);
    ResponseSlot out;
    ASSERT_TRUE(forger.channel().pop(out));
    EXPECT_EQ(std::memcmp(&out, &slot, sizeof out), 0);
    read_all(forger.channel(), out);
  }
  ResponseSlot out;
  EXPECT_FALSE(forger.channel().pop(out));
  EXPECT_EQ(forger.channel().violation(), nullptr);
}

struct Lie {
  const char* name;
  const char* expected;
  std::function<void(ResponseSlot&)> tell;
};

TEST(ChannelViolation, IsSeenInEachFieldThatCanLie) {
  constexpr std::uint64_t kMax = ~std::uint64_t{0};
  const Lie lies[] = {
      {"kind 0", "kind", [](auto& s) { s.kind = ResponseKind{0}; }},
      {"kind 5", "kind", [](auto& s) { s.kind = ResponseKind{5}; }},
      {"kind 255", "kind", [](auto& s) { s.kind = ResponseKind{255}; }},
      {"long inline answer", "inline",
       [](auto& s) { s.block = 0, s.head_size = shm::kInlineAnswer + 1; }},
      {"endless inline answer", "inline", [](auto& s) { s.block = 0, s.head_size = ~0U; }},
      {"block in the rings", "bounds", [](auto& s) { s.block = 64; }},
      {"block that begins too early", "bounds", [](auto& s) { s.block = shm::kAnswersOffset - 1; }},
      {"block behind the file", "bounds", [](auto& s) { s.block = kFileSize + 1; }},
      {"block that ends behind the file", "bounds", [](auto& s) { s.block = kFileSize - 999; }},
      {"block of endless size", "bounds", [](auto& s) { s.block_size = kMax; }},
      {"sum that overflows", "bounds", [](auto& s) { s.block_size = kMax - s.block + 1; }},
      {"block at the end of the world", "bounds", [](auto& s) { s.block = kMax; }},
      {"head longer than its block", "bounds", [](auto& s) { s.head_size = 1001; }},
      {"endless head", "bounds", [](auto& s) { s.head_size = ~0U; }},
  };
  for (const Lie& lie : lies) {
    Forger forger;
    forger.expect_answers(3);
    ResponseSlot slot = honest_block();
    lie.tell(slot);
    forger.answer(honest());
    forger.answer(slot);
    forger.answer(honest());
    ResponseSlot out;
    EXPECT_TRUE(forger.channel().pop(out)) << lie.name;
    EXPECT_FALSE(forger.channel().pop(out)) << lie.name;
    ASSERT_NE(forger.channel().violation(), nullptr) << lie.name;
    EXPECT_THAT(forger.channel().violation(), HasSubstr(lie.expected)) << lie.name;
    EXPECT_FALSE(forger.channel().pop(out)) << "nothing more is read";
  }
}

ResponseSlot starved() {
  ResponseSlot slot{};
  slot.kind = ResponseKind::starved;
  slot.block_size = ~std::uint64_t{0};
  return slot;
}

TEST(ChannelViolation, IsHungerWithoutARequest) {
  Forger forger;
  forger.answer(starved());
  ResponseSlot out;
  EXPECT_FALSE(forger.channel().pop(out));
  EXPECT_THAT(forger.channel().violation(), HasSubstr("more answers than requests"));
}

TEST(ChannelViolation, IsHungerWithoutEnd) {
  Forger forger;
  forger.expect_answers(1);
  ResponseSlot out;
  for (int i = 0; i < 200'000 && forger.channel().violation() == nullptr; ++i) {
    forger.answer(starved());
    EXPECT_FALSE(forger.channel().pop(out));
  }
  ASSERT_NE(forger.channel().violation(), nullptr);
  EXPECT_THAT(forger.channel().violation(), HasSubstr("without end"));
}

TEST(ChannelViolation, IsAnAnswerToNothing) {
  Forger forger;
  forger.expect_answers(1);
  forger.answer(honest());
  forger.answer(honest());
  ResponseSlot out;
  EXPECT_TRUE(forger.channel().pop(out));
  EXPECT_FALSE(forger.channel().pop(out));
  EXPECT_THAT(forger.channel().violation(), HasSubstr("more answers than requests"));
}

TEST(ChannelViolation, IsATailOutOfRange) {
  for (const std::uint64_t tail :
       {std::uint64_t{0}, std::uint64_t{1}, 3 + shm::kWindow, ~std::uint64_t{0}}) {
    Forger forger;
    forger.expect_answers(10);
    ResponseSlot out;
    forger.answer(honest());
    forger.answer(honest());
    EXPECT_TRUE(forger.channel().pop(out));
    EXPECT_TRUE(forger.channel().pop(out));
    forger.file().responses_tail.position.store(tail);
    EXPECT_FALSE(forger.channel().pop(out)) << tail;
    EXPECT_THAT(forger.channel().violation(), HasSubstr("position")) << tail;
    forger.file().responses_tail.position.store(3);
    EXPECT_FALSE(forger.channel().pop(out)) << "it is not believed again";
  }
}

TEST(ChannelViolation, IsNotNeededToKeepTheControllersOwnRingsWhole) {
  Forger forger;
  for (const std::uint64_t lie : {std::uint64_t{1}, shm::kWindow, ~std::uint64_t{0}}) {
    forger.file().requests_head.position.store(lie);
    forger.file().releases_head.position.store(lie);
    forger.file().started.position.store(lie);
    EXPECT_EQ(forger.channel().started(), 0u) << "nothing was pushed, so nothing was started";
    forger.channel().answers()->released().put(lie);
    forger.channel().flush_releases();
  }
  forger.expect_answers(shm::kWindow);
  EXPECT_FALSE(forger.channel().has_room());
  forger.file().started.position.store(~std::uint64_t{0});
  EXPECT_EQ(forger.channel().started(), shm::kWindow);
}

// ---- all lies at once

/// A number of the kind that checks stumble over.
std::uint64_t lie(std::mt19937_64& random) {
  switch (tests::below(random, 6)) {
    case 0:
      return tests::below(random, 4);
    case 1:
      return shm::kAnswersOffset + tests::below(random, kAnswers);
    case 2:
      return kFileSize - tests::below(random, 100);
    case 3:
      return ~tests::below(random, 200);
    default:
      return random() >> tests::below(random, 64);
  }
}

/// A slot that could be true, or one with lies in it.
void scribble(std::mt19937_64& random, ResponseSlot& slot) {
  slot.id = {static_cast<std::uint32_t>(random()), static_cast<std::uint32_t>(random())};
  slot.attempt = static_cast<std::uint16_t>(random());
  slot.kind = static_cast<ResponseKind>(1 + tests::below(random, 3));
  slot.flags = static_cast<std::uint8_t>(tests::below(random, 2));
  slot.block_size = 1 + tests::below(random, 2000);
  slot.head_size = static_cast<std::uint32_t>(
      tests::below(random, std::min<std::uint64_t>(slot.block_size, shm::kInlineAnswer)));
  slot.block = tests::below(random, 2) == 0
                   ? 0
                   : shm::kAnswersOffset + tests::below(random, kAnswers - slot.block_size + 1);
  for (std::byte& byte : slot.answer) byte = std::byte(random());
  if (tests::below(random, 10) == 0) slot.block = lie(random);
  if (tests::below(random, 10) == 0) slot.block_size = lie(random);
  if (tests::below(random, 10) == 0) slot.head_size = static_cast<std::uint32_t>(lie(random));
  if (tests::below(random, 30) == 0) slot.kind = static_cast<ResponseKind>(lie(random));
}

void scribble(std::mt19937_64& random, shm::ResponseFile& file) {
  file.responses_tail.position.store(tests::below(random, 4) == 0 ? lie(random)
                                                                  : tests::below(random, 257));
  file.requests_head.position.store(lie(random));
  file.releases_head.position.store(lie(random));
  file.started.position.store(lie(random));
  file.parked.store(static_cast<std::uint32_t>(lie(random)));
  file.exit_reason.store(static_cast<shm::ExitReason>(lie(random)));
  for (ResponseSlot& slot : file.responses) scribble(random, slot);
}

/// Scribbled heads, too: bytes that begin a value more often than chance would have it.
void scribble_answers(std::mt19937_64& random, std::byte* bytes) {
  for (std::size_t at = shm::kAnswersOffset; at < kFileSize; ++at) {
    constexpr std::uint8_t kTags[] = {0xC4, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xD4, 0xD8, 0xD9, 0xDD};
    bytes[at] =
        std::byte(tests::below(random, 3) == 0 ? kTags[tests::below(random, 10)] : random());
  }
}

TEST(ChannelViolation, NeverLeadsOutOfTheFileWhateverIsInIt) {
  auto random = tests::seeded();
  int accepted = 0;
  int refused = 0;
  for (int round = 0; round < 300; ++round) {
    Forger forger;
    if (round % 10 == 0) scribble_answers(random, forger.bytes());
    scribble(random, forger.file());
    const std::uint64_t pushed = tests::below(random, shm::kWindow);
    for (std::uint64_t i = 0; i < pushed && forger.channel().has_room(); ++i) {
      forger.expect_answers(1);
    }
    ResponseSlot out;
    while (forger.channel().pop(out)) {
      ++accepted;
      read_all(forger.channel(), out);
      forger.channel().flush_releases();
      forger.channel().wake_worker();
    }
    EXPECT_LE(forger.channel().started(), pushed);
    refused += forger.channel().violation() != nullptr;
  }
  EXPECT_GT(accepted, 300);
  EXPECT_GT(refused, 100);
}

TEST(ChannelViolation, NeverLeadsOutOfTheFileWhileAnotherProcessKeepsScribbling) {
  auto random = tests::seeded();
  int accepted = 0;
  // Until enough of the nonsense looked right; most ends a round at once.
  for (int round = 0; round < 1000 && (round < 20 || accepted <= 20); ++round) {
    // Real files, so that what the controller checks can change under its hands.
    auto channel =
        std::move(Channel::create({.name = "violation", .answer_bytes = kAnswers})).value();
    for (std::uint64_t i = 0; i < shm::kWindow; ++i) channel->push({});
    tests::Child forger([&, own = std::mt19937_64(random())]() mutable {
      const auto segment = shm::Segment::attach(shm::FileDescriptor(::dup(channel->response_fd())),
                                                shm::Access::read_write);
      auto& file = *reinterpret_cast<shm::ResponseFile*>(segment->data());
      scribble_answers(own, segment->data());
      for (std::uint64_t i = 0;; ++i) {
        file.responses_tail.position.store(std::min(i, shm::kWindow));
        for (int n = 0; n < 16; ++n) scribble(own, file.responses[tests::below(own, shm::kWindow)]);
        segment->data()[shm::kAnswersOffset + tests::below(own, kAnswers)] = std::byte(own());
      }
      return 0;
    });
    ResponseSlot out;
    for (std::uint64_t popped = 0; popped < shm::kWindow && channel->violation() == nullptr;) {
      if (!channel->pop(out)) continue;
      ++popped;
      ++accepted;
      read_all(*channel, out);
    }
  }
  EXPECT_GT(accepted, 20);
}

// ---- real files

TEST(ChannelFiles, SayWhoseTheyAre) {
  const auto channel = std::move(Channel::create({.name = "svc/1.2",
                                                  .incarnation = 9,
                                                  .replica = 1,
                                                  .rank = 2,
                                                  .procs = 4,
                                                  .wait = Wait::block,
                                                  .cpu = 5,
                                                  .answer_bytes = 100'000}))
                           .value();
  const auto requests =
      std::move(shm::Segment::attach(shm::FileDescriptor(::dup(channel->request_fd())),
                                     shm::Access::read_only))
          .value();
  const auto& file = *reinterpret_cast<const shm::RequestFile*>(requests.data());
  EXPECT_EQ(shm::invalid(file.header, requests.size()), "");
  EXPECT_EQ(file.header.incarnation, 9u);
  EXPECT_EQ(file.assignment.replica, 1u);
  EXPECT_EQ(file.assignment.incarnation, 9u);
  EXPECT_EQ(file.identity.rank, 2u);
  EXPECT_EQ(file.identity.procs, 4u);
  EXPECT_EQ(file.identity.wait, static_cast<std::uint32_t>(Wait::block));
  EXPECT_EQ(file.identity.cpu, 5);
  EXPECT_GE(channel->answers()->size(), shm::kAnswersOffset + 100'000);
  EXPECT_EQ(channel->answers()->size() % shm::kPage, 0u);
}

std::size_t mappings_of(const std::string& name) {
  std::size_t found = 0;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) found += line.find(name) != std::string::npos;
  return found;
}

TEST(ChannelFiles, OutliveTheWorkerAndTheChannelWhileAnAnswerIsHeld) {
  auto channel = std::move(Channel::create({.name = "outlive", .answer_bytes = kAnswers})).value();
  channel->push({});
  tests::Child worker([&] {
    const auto segment = shm::Segment::attach(shm::FileDescriptor(::dup(channel->response_fd())),
                                              shm::Access::read_write);
    auto& file = *reinterpret_cast<shm::ResponseFile*>(segment->data());
    ResponseSlot slot = honest_block();
    std::memset(segment->data() + slot.block, 42, slot.block_size);
    file.responses[0] = slot;
    file.responses_tail.position.store(1);
    return 0;
  });
  EXPECT_EQ(worker.join(), 0);
  ResponseSlot slot;
  ASSERT_TRUE(channel->pop(slot)) << "what the dead published is read";
  auto block =
      std::make_unique<AnswerBlock>(channel->answers(), slot.block, slot.block_size, false);
  const AnswerBlock copy(channel->answers(), slot.block, slot.block_size, true);
  EXPECT_EQ(copy.memory(), nullptr);
  channel->close_fds();
  EXPECT_EQ(channel->request_fd(), -1);
  EXPECT_EQ(channel->response_fd(), -1);
  channel.reset();
  EXPECT_EQ(mappings_of("outlive:requests"), 0u);
  EXPECT_EQ(mappings_of("outlive:responses"), 1u);
  for (const auto bytes : {block->bytes(), copy.bytes()}) {
    EXPECT_EQ(bytes.size(), 1000u);
    EXPECT_TRUE(std::all_of(bytes.begin(), bytes.end(), [](auto b) { return b == std::byte{42}; }));
  }
  block.reset();
  EXPECT_EQ(mappings_of("outlive"), 0u);
  EXPECT_EQ(copy.bytes()[999], std::byte{42}) << "a copy needs no file";
}

TEST(ChannelFiles, CannotBeMadeForMoreAnswersThanCanBeAddressed) {
  const auto channel = Channel::create({.name = "huge", .answer_bytes = std::size_t{1} << 62});
  ASSERT_FALSE(channel);
  EXPECT_EQ(channel.error().code(), "unavailable");
  EXPECT_EQ(mappings_of("forge:huge"), 0u);
}

}  // namespace
}  // namespace forge::replicas
