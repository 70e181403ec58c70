// Doorbells: sleepers that wake when they should, and the handshake that loses no wake-up.
#include "shm/doorbell.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "shm/segment.h"
#include "tests/child.h"
#include "tests/random.h"

namespace forge::shm {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

/// When a test gives up on a wake-up. Not a bound on time: a hang has to end.
SteadyTime patience() { return Clock::now() + 60s; }

/// Rings until the sleeper has left.
template <class Sleep>
void expect_woken_by(Word& bell, Scope scope, Sleep sleep) {
  std::atomic<bool> awake{false};
  std::thread sleeper([&] {
    sleep();
    awake.store(true);
  });
  while (!awake.load()) {
    ring(bell, scope);
    std::this_thread::sleep_for(1ms);
  }
  sleeper.join();
}

// ---- one word

TEST(FutexWait, ReturnsAtOnceWhenTheWordDiffers) {
  const Word word{1};
  futex_wait(word, 0, std::nullopt, Scope::priv);
  futex_wait(word, 2, std::nullopt, Scope::shared);
}

TEST(FutexWait, SleepsUntilItsTime) {
  const Word word{0};
  for (const Scope scope : {Scope::priv, Scope::shared}) {
    const SteadyTime until = Clock::now() + 20ms;
    while (Clock::now() < until) futex_wait(word, 0, until, scope);  // spurious returns are allowed
    futex_wait(word, 0, Clock::now() - 1s, scope);                   // in the past: not at all
  }
}

TEST(FutexWait, WakesWhenTheBellRings) {
  for (const Scope scope : {Scope::priv, Scope::shared}) {
    Word bell{0};
    expect_woken_by(bell, scope, [&] {
      while (bell.load() == 0) futex_wait(bell, 0, patience(), scope);
    });
  }
}

TEST(Ring, ChangesTheWordEachTime) {
  Word bell{0};
  ring(bell, Scope::priv);
  ring(bell, Scope::shared);
  EXPECT_EQ(bell.load(), 2u);
  futex_wait(bell, 0, std::nullopt, Scope::priv);  // rung between look and sleep: no sleep
}

TEST(Ring, ShowsWhatWasBeforeItToWhoReadsTheBell) {
  for (int i = 0; i < 100; ++i) {
    Word bell{0};
    int news = 0;  // not atomic: a thread sanitizer sees whether anything orders it
    std::thread ringer([&] {
      news = i + 1;
      ring(bell, Scope::priv);
    });
    while (bell.load(std::memory_order_acquire) == 0) ::sched_yield();
    EXPECT_EQ(news, i + 1);
    ringer.join();
  }
}

TEST(FutexWake, WakesAsManyAsAreAskedFor) {
  constexpr int kSleepers = 3;
  Word word{0};
  std::atomic<int> awake{0};
  std::vector<std::thread> sleepers;
  for (int i = 0; i < kSleepers; ++i) {
    sleepers.emplace_back([&] {
      while (word.load() == 0) futex_wait(word, 0, patience(), Scope::priv);
      awake.fetch_add(1);
    });
  }
  word.store(1);
  futex_wake(word, kSleepers, Scope::priv);
  for (auto& sleeper : sleepers) sleeper.join();
  EXPECT_EQ(awake.load(), kSleepers);
}

// ---- many words

class FutexWaitAny : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!has_futex_waitv()) GTEST_SKIP() << "this kernel has no futex_waitv";
  }
  std::vector<WaitWord> wait_words(Scope scope) {
    std::vector<WaitWord> words;
    for (const Word& word : words_) words.push_back({&word, word.load(), scope});
    return words;
  }
  std::array<Word, kMaxWaitWords> words_{};
};

TEST_F(FutexWaitAny, ReturnsAtOnceWhenAnyWordDiffers) {
  auto words = wait_words(Scope::shared);
  for (const std::size_t which : {std::size_t{0}, kMaxWaitWords / 2, kMaxWaitWords - 1}) {
    ring(words_[which], Scope::shared);
    futex_wait_any(words, std::nullopt);
    words[which].expected = words_[which].load();
  }
}

TEST_F(FutexWaitAny, SleepsUntilItsTime) {
  const auto words = wait_words(Scope::shared);
  const SteadyTime until = Clock::now() + 20ms;
  while (Clock::now() < until) futex_wait_any(words, until);
  futex_wait_any(words, Clock::now() - 1s);
}

TEST_F(FutexWaitAny, WakesByEachOfAsManyWordsAsItTakes) {
  for (const Scope scope : {Scope::shared, Scope::priv}) {
    for (const std::size_t which : {std::size_t{0}, std::size_t{57}, kMaxWaitWords - 1}) {
      const auto words = wait_words(scope);
      const std::uint32_t before = words_[which].load();
      expect_woken_by(words_[which], scope, [&] {
        while (words_[which].load() == before) futex_wait_any(words, patience());
      });
    }
  }
}

TEST_F(FutexWaitAny, TakesWordsOfBothScopesAtOnce) {
  for (const std::size_t which : {0u, 1u}) {
    Word priv{0};
    Word shared{0};
    const WaitWord words[] = {{&priv, 0, Scope::priv}, {&shared, 0, Scope::shared}};
    Word& rung = which == 0 ? priv : shared;
    expect_woken_by(rung, words[which].scope, [&] {
      while (rung.load() == 0) futex_wait_any(words, patience());
    });
  }
}

TEST(HasFutexWaitvDeathTest, IsFalseWhenTheEnvironmentForbidsIt) {
  // In a process of its own, because the answer is kept.
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        ::setenv("FORGE_NO_FUTEX_WAITV", "1", 1);
        ::_exit(has_futex_waitv() ? 1 : 42);
      },
      ::testing::ExitedWithCode(42), "");
}

// ---- the handshake

/// What one side writes. Who sleeps, sleeps on the other's bell.
struct Side {
  alignas(128) std::atomic<std::uint64_t> at_start;  // of this round
  alignas(128) std::atomic<std::uint64_t> published;
  alignas(128) Word bell;
  alignas(128) Word parked;
};

/// One of two that play the handshake as doorbell.h says it. In each round they start together;
/// then one publishes and the other parks, a few instructions earlier or later than that.
class Player {
 public:
  Player(Side& mine, const Side& theirs, Scope scope, std::uint64_t seed)
      : mine_(mine), theirs_(theirs), scope_(scope), random_(seed) {}

  /// False if it ever slept although there was something: a lost wake-up.
  bool play(bool publishes_first) {
    constexpr std::uint64_t kRounds = 50'000;
    bool publishes = publishes_first;
    for (std::uint64_t round = 1; round <= kRounds; ++round, publishes = !publishes) {
      meet(round);
      for (volatile std::uint64_t i = tests::below(random_, 100); i != 0;) i = i - 1;
      if (publishes) {
        publish(round);
      } else if (!await(round)) {
        leave();
        return false;
      }
    }
    return true;
  }

 private:
  void meet(std::uint64_t round) {
    mine_.at_start.store(round, std::memory_order_relaxed);
    for (int looks = 1; theirs_.at_start.load(std::memory_order_relaxed) < round; ++looks) {
      if (looks % 1000 == 0) ::sched_yield();
    }
  }

  /// Lets the other play on alone.
  void leave() {
    mine_.at_start.store(~std::uint64_t{0}, std::memory_order_relaxed);
    publish(~std::uint64_t{0});
  }

  void publish(std::uint64_t number) {
    mine_.published.store(number, std::memory_order_release);
    handshake_fence();
    if (theirs_.parked.load(std::memory_order_relaxed) != 0) ring(mine_.bell, scope_);
  }

  bool await(std::uint64_t number) {
    const SteadyTime until = patience();
    while (!there(number)) {
      const std::uint32_t seen = theirs_.bell.load(std::memory_order_relaxed);
      mine_.parked.store(1, std::memory_order_relaxed);
      handshake_fence();
      if (!there(number)) futex_wait(theirs_.bell, seen, until, scope_);
      mine_.parked.store(0, std::memory_order_relaxed);
      if (Clock::now() >= until) return false;
    }
    return true;
  }

  bool there(std::uint64_t number) const {
    return theirs_.published.load(std::memory_order_acquire) >= number;
  }

  Side& mine_;
  const Side& theirs_;
  Scope scope_;
  std::mt19937_64 random_;
};

TEST(Handshake, LosesNoWakeupBetweenTwoThreads) {
  auto random = tests::seeded();
  for (const Scope scope : {Scope::priv, Scope::shared}) {
    const auto sides = std::make_unique<Side[]>(2);
    bool kept_up = false;
    std::thread thread(
        [&, seed = random()] { kept_up = Player(sides[1], sides[0], scope, seed).play(false); });
    EXPECT_TRUE(Player(sides[0], sides[1], scope, random()).play(true));
    thread.join();
    EXPECT_TRUE(kept_up);
  }
}

TEST(Handshake, LosesNoWakeupBetweenTwoProcessesThatReadEachOthersFiles) {
  auto random = tests::seeded();
  const Segment ours = std::move(
      Segment::create({.name = "doorbell_test:ours", .size = 4096, .reserved = 4096}).value());
  const Segment theirs = std::move(
      Segment::create(
          {.name = "doorbell_test:theirs", .size = 4096, .reserved = 4096, .writer = Writer::peer})
          .value());
  const auto side = [](const Segment& segment) -> Side& {
    return *reinterpret_cast<Side*>(segment.data());
  };
  tests::Child child([&, seed = random()] {
    const auto read = Segment::attach(FileDescriptor(::dup(ours.fd())), Access::read_only);
    const auto write = Segment::attach(FileDescriptor(::dup(theirs.fd())), Access::read_write);
    return Player(side(*write), side(*read), Scope::shared, seed).play(false) ? 0 : 1;
  });
  EXPECT_TRUE(Player(side(ours), side(theirs), Scope::shared, random()).play(true));
  EXPECT_EQ(child.join(), 0);
}

TEST(Handshake, WakesASleeperOnManyReadOnlyWords) {
  if (!has_futex_waitv()) GTEST_SKIP() << "this kernel has no futex_waitv";
  constexpr std::uint32_t kRings = 200;
  const Segment segment = std::move(
      Segment::create(
          {.name = "doorbell_test:bells", .size = 4096, .reserved = 4096, .writer = Writer::peer})
          .value());
  const auto* bells = reinterpret_cast<const Word*>(segment.data());
  tests::Child child([&] {
    const auto mine = Segment::attach(FileDescriptor(::dup(segment.fd())), Access::read_write);
    auto* own = reinterpret_cast<Word*>(mine->data());
    for (std::uint32_t i = 0; i < kRings; ++i) {
      ring(own[i % 2], Scope::shared);
      if (i % 16 == 0) ::usleep(200);
    }
    return 0;
  });
  const SteadyTime until = patience();
  std::uint32_t heard = 0;
  while (heard < kRings && Clock::now() < until) {
    const WaitWord words[] = {{&bells[0], bells[0].load(), Scope::shared},
                              {&bells[1], bells[1].load(), Scope::shared}};
    heard = words[0].expected + words[1].expected;
    if (heard < kRings) futex_wait_any(words, until);
  }
  EXPECT_EQ(heard, kRings);
  EXPECT_EQ(child.join(), 0);
}

}  // namespace
}  // namespace forge::shm
