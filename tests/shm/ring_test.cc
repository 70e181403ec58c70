// The ring: order, fullness, what each side believes of the other, and two threads or processes at
// its two ends. Memory orders are proved by ring_model.cc.
#include "shm/ring.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <deque>
#include <thread>
#include <vector>

#include "shm/segment.h"
#include "tests/child.h"
#include "tests/random.h"

namespace forge::shm {
namespace {

constexpr std::uint64_t kMax = ~std::uint64_t{0};

/// A number, and bytes that must belong to it.
struct Item {
  std::uint64_t number = 0;
  std::array<std::uint64_t, 6> rest{};
  static Item of(std::uint64_t number) {
    Item item{number, {}};
    for (std::uint64_t i = 0; i < item.rest.size(); ++i) item.rest[i] = number * 31 + i;
    return item;
  }
  friend bool operator==(const Item&, const Item&) = default;
};

/// What one side writes: a fresh file of zeros.
struct ProducerSide {
  RingIndex tail;
  Item slots[64];
};
struct ConsumerSide {
  RingIndex head;
};

/// Both ends in one address space.
struct Ring {
  explicit Ring(std::uint64_t capacity)
      : producer(mine->slots, capacity, mine->tail, theirs->head),
        consumer(mine->slots, capacity, mine->tail, theirs->head) {}

  bool push(std::uint64_t number) { return producer.try_push(Item::of(number)); }
  void push_all(std::uint64_t first, std::uint64_t count) {
    for (std::uint64_t i = 0; i < count; ++i) ASSERT_TRUE(push(first + i));
  }
  /// The next number; kMax if there is none.
  std::uint64_t pop() {
    const Item* item = consumer.front();
    if (item == nullptr) return kMax;
    EXPECT_EQ(*item, Item::of(item->number));
    const std::uint64_t number = item->number;
    consumer.pop();
    return number;
  }
  void set_tail(std::uint64_t tail) { mine->tail.position.store(tail); }
  void set_head(std::uint64_t head) { theirs->head.position.store(head); }

  std::unique_ptr<ProducerSide> mine = std::make_unique<ProducerSide>();
  std::unique_ptr<ConsumerSide> theirs = std::make_unique<ConsumerSide>();
  RingProducer<Item> producer;
  RingConsumer<Item> consumer;
};

// ---- one thread

TEST(Ring, IsEmptyAtFirst) {
  Ring ring(8);
  EXPECT_FALSE(ring.consumer.ready());
  EXPECT_FALSE(ring.consumer.maybe_ready());
  EXPECT_EQ(ring.consumer.front(), nullptr);
  EXPECT_FALSE(ring.consumer.corrupt());
  EXPECT_EQ(ring.producer.room(8), 8u);
  EXPECT_EQ(ring.producer.capacity(), 8u);
  EXPECT_EQ(ring.producer.position(), 0u);
  EXPECT_EQ(ring.consumer.position(), 0u);
}

TEST(Ring, GivesWhatWasPushedInOrder) {
  Ring ring(8);
  ring.push_all(0, 5);
  EXPECT_TRUE(ring.consumer.maybe_ready());
  for (std::uint64_t i = 0; i < 5; ++i) EXPECT_EQ(ring.pop(), i);
  EXPECT_EQ(ring.pop(), kMax);
  EXPECT_EQ(ring.producer.position(), 5u);
  EXPECT_EQ(ring.consumer.position(), 5u);
}

TEST(Ring, RejectsPushWhenFullAndChangesNothing) {
  Ring ring(4);
  ring.push_all(0, 4);
  EXPECT_EQ(ring.producer.room(), 0u);
  EXPECT_EQ(ring.producer.try_claim(), nullptr);
  EXPECT_FALSE(ring.push(99));
  EXPECT_EQ(ring.producer.position(), 4u);
  for (std::uint64_t i = 0; i < 4; ++i) EXPECT_EQ(ring.pop(), i);
  EXPECT_EQ(ring.pop(), kMax);
}

TEST(Ring, TakesOneMoreForEachThatLeft) {
  Ring ring(4);
  ring.push_all(0, 4);
  for (std::uint64_t i = 0; i < 100; ++i) {
    EXPECT_EQ(ring.pop(), i);
    EXPECT_TRUE(ring.push(4 + i));
    EXPECT_FALSE(ring.push(kMax));
  }
}

TEST(Ring, OfOneSlotWorks) {
  Ring ring(1);
  for (std::uint64_t i = 0; i < 10; ++i) {
    EXPECT_TRUE(ring.push(i));
    EXPECT_FALSE(ring.push(kMax));
    EXPECT_EQ(ring.pop(), i);
    EXPECT_EQ(ring.pop(), kMax);
  }
}

TEST(Ring, ShowsAClaimedSlotOnlyWhenItIsPublished) {
  Ring ring(4);
  Item* slot = ring.producer.try_claim();
  ASSERT_NE(slot, nullptr);
  *slot = Item::of(1);
  EXPECT_FALSE(ring.consumer.ready());
  EXPECT_EQ(ring.producer.try_claim(), slot) << "a claim that is not published is given again";
  ring.producer.publish();
  EXPECT_EQ(ring.pop(), 1u);
}

TEST(Ring, KeepsTheFrontUntilItIsPopped) {
  Ring ring(2);
  ring.push_all(0, 2);
  const Item* front = ring.consumer.front();
  EXPECT_EQ(ring.consumer.front(), front);
  EXPECT_FALSE(ring.push(2)) << "the slot is the consumer's until it gives it back";
  EXPECT_EQ(*front, Item::of(0));
}

// ---- cached indices

TEST(Ring, ProducerLooksAtHeadOnlyWhenItKnowsOfTooLittleRoom) {
  Ring ring(8);
  ring.push_all(0, 4);
  for (std::uint64_t i = 0; i < 4; ++i) EXPECT_EQ(ring.pop(), i);
  EXPECT_EQ(ring.producer.room(), 4u) << "what it knew suffices";
  EXPECT_EQ(ring.producer.room(4), 4u);
  EXPECT_EQ(ring.producer.room(5), 8u) << "what it knew does not";
}

TEST(Ring, ConsumerLooksAtTailOnlyWhenItHasReadAllItKnowsOf) {
  Ring ring(8);
  ring.push_all(0, 2);
  EXPECT_TRUE(ring.consumer.ready());
  ring.set_tail(kMax);
  EXPECT_EQ(ring.pop(), 0u);
  EXPECT_EQ(ring.pop(), 1u);
  EXPECT_FALSE(ring.consumer.corrupt());
  EXPECT_EQ(ring.pop(), kMax);
  EXPECT_TRUE(ring.consumer.corrupt());
}

// ---- what the peer writes is input

TEST(Ring, RefusesATailBeyondCapacityForGood) {
  for (const std::uint64_t lie : {std::uint64_t{4 + 2 + 1}, std::uint64_t{1000}, kMax, kMax / 2}) {
    Ring ring(4);
    ring.push_all(0, 2);
    EXPECT_EQ(ring.pop(), 0u);
    EXPECT_EQ(ring.pop(), 1u);
    ring.set_tail(lie);
    EXPECT_EQ(ring.pop(), kMax) << lie;
    EXPECT_TRUE(ring.consumer.corrupt()) << lie;
    ring.set_tail(3);
    EXPECT_EQ(ring.pop(), kMax) << "nothing of it is believed any more";
    EXPECT_FALSE(ring.consumer.ready());
    EXPECT_TRUE(ring.consumer.corrupt());
    EXPECT_EQ(ring.consumer.position(), 2u);
  }
}

TEST(Ring, RefusesATailThatWentBackForGood) {
  for (const std::uint64_t lie : {0u, 1u, 2u}) {
    Ring ring(4);
    ring.push_all(0, 3);
    for (std::uint64_t i = 0; i < 3; ++i) EXPECT_EQ(ring.pop(), i);
    ring.set_tail(lie);
    EXPECT_EQ(ring.pop(), kMax) << lie;
    EXPECT_TRUE(ring.consumer.corrupt()) << lie;
    ring.set_tail(4);
    EXPECT_FALSE(ring.consumer.ready());
    EXPECT_TRUE(ring.consumer.corrupt());
  }
}

TEST(Ring, BelievesATailOfExactlyCapacity) {
  Ring ring(4);
  ring.push_all(0, 2);
  EXPECT_EQ(ring.pop(), 0u);
  ring.push_all(2, 3);
  for (std::uint64_t i = 1; i < 5; ++i) EXPECT_EQ(ring.pop(), i);
  EXPECT_FALSE(ring.consumer.corrupt());
}

TEST(Ring, IgnoresAHeadThatCannotBe) {
  Ring ring(4);
  ring.push_all(0, 4);
  EXPECT_EQ(ring.pop(), 0u);
  EXPECT_EQ(ring.producer.room(4), 1u);
  for (const std::uint64_t lie : {std::uint64_t{0}, std::uint64_t{5}, std::uint64_t{9}, kMax}) {
    ring.set_head(lie);
    EXPECT_EQ(ring.producer.room(4), 1u) << "head " << lie;
  }
  ring.set_head(4);
  EXPECT_EQ(ring.producer.room(4), 4u) << "the truth counts again: this side cannot be hurt";
}

TEST(Ring, NeverGivesASlotOutsideOfWhatATailAllows) {
  auto random = tests::seeded();
  for (int round = 0; round < 20'000; ++round) {
    Ring ring(4);
    const std::uint64_t before = tests::below(random, 6);
    for (std::uint64_t i = 0; i < before; ++i) {
      ring.push(i);
      ring.pop();
    }
    const std::uint64_t lie = random() >> tests::below(random, 64);
    ring.set_tail(lie);
    std::uint64_t given = 0;
    while (ring.consumer.front() != nullptr && given <= 4) {
      ring.consumer.pop();
      ++given;
    }
    const bool possible = lie >= before && lie - before <= 4;
    ASSERT_EQ(given, possible ? lie - before : 0) << before << " " << lie;
    ASSERT_EQ(ring.consumer.corrupt(), !possible) << before << " " << lie;
  }
}

// ---- against a model

TEST(Ring, BehavesLikeABoundedDeque) {
  auto random = tests::seeded();
  for (const std::uint64_t capacity : {1u, 2u, 4u, 16u, 64u}) {
    Ring ring(capacity);
    std::deque<std::uint64_t> model;
    std::uint64_t pushed = 0;
    std::uint64_t popped = 0;
    for (int step = 0; step < 50'000; ++step) {
      // Runs of one kind, so that full and empty both happen.
      const bool push = tests::below(random, 2) == 0;
      for (std::uint64_t n = tests::below(random, capacity + 2); n-- > 0;) {
        if (push) {
          ASSERT_EQ(ring.push(pushed), model.size() < capacity);
          if (model.size() < capacity) model.push_back(pushed++);
        } else if (model.empty()) {
          ASSERT_EQ(ring.pop(), kMax);
        } else {
          ASSERT_EQ(ring.pop(), model.front());
          model.pop_front();
          ++popped;
        }
      }
      ASSERT_EQ(ring.consumer.maybe_ready(), !model.empty());
      const std::uint64_t wanted = 1 + tests::below(random, capacity);
      const std::uint64_t room = ring.producer.room(wanted);
      ASSERT_LE(room, capacity - model.size());
      ASSERT_EQ(room >= wanted, capacity - model.size() >= wanted);
      ASSERT_EQ(ring.producer.position(), pushed);
      ASSERT_EQ(ring.consumer.position(), popped);
    }
    EXPECT_FALSE(ring.consumer.corrupt());
  }
}

// ---- two ends at once

void produce(RingProducer<Item>& producer, std::uint64_t count) {
  for (std::uint64_t i = 0; i < count;) {
    if (producer.try_push(Item::of(i))) {
      ++i;
    } else {
      ::sched_yield();
    }
  }
}

/// True if all came, in order and whole.
bool consume(RingConsumer<Item>& consumer, std::uint64_t count) {
  for (std::uint64_t i = 0; i < count;) {
    const Item* item = consumer.front();
    if (consumer.corrupt()) return false;
    if (item == nullptr) {
      ::sched_yield();
      continue;
    }
    if (*item != Item::of(i)) return false;
    consumer.pop();
    ++i;
  }
  return !consumer.ready() && !consumer.corrupt();
}

TEST(Ring, CarriesEverythingBetweenTwoThreads) {
  for (const std::uint64_t capacity : {1u, 2u, 64u}) {
    Ring ring(capacity);
    std::thread producer([&] { produce(ring.producer, 20'000); });
    EXPECT_TRUE(consume(ring.consumer, 20'000));
    producer.join();
    EXPECT_EQ(ring.producer.room(capacity), capacity);
  }
}

/// The two files of a ring, as two processes have them.
struct Files {
  Segment producer = std::move(Segment::create({.name = "ring_test:producer",
                                                .size = sizeof(ProducerSide),
                                                .reserved = sizeof(ProducerSide)}))
                         .value();
  Segment consumer = std::move(Segment::create({.name = "ring_test:consumer",
                                                .size = sizeof(ConsumerSide),
                                                .reserved = sizeof(ConsumerSide),
                                                .writer = Writer::peer}))
                         .value();
};

Segment mapped_again(const Segment& segment, Access access) {
  return std::move(Segment::attach(FileDescriptor(::dup(segment.fd())), access)).value();
}
ProducerSide& producer_side(const Segment& segment) {
  return *reinterpret_cast<ProducerSide*>(segment.data());
}
ConsumerSide& consumer_side(const Segment& segment) {
  return *reinterpret_cast<ConsumerSide*>(segment.data());
}

TEST(Ring, WorksThroughTwoMappingsAtDifferentAddresses) {
  Files files;
  const Segment read = mapped_again(files.producer, Access::read_only);
  const Segment write = mapped_again(files.consumer, Access::read_write);
  ASSERT_NE(read.data(), files.producer.data());
  ASSERT_NE(write.data(), files.consumer.data());

  auto& mine = producer_side(files.producer);
  auto& theirs = producer_side(read);
  RingProducer<Item> producer(mine.slots, 64, mine.tail, consumer_side(files.consumer).head);
  RingConsumer<Item> consumer(theirs.slots, 64, theirs.tail, consumer_side(write).head);
  std::thread thread([&] { produce(producer, 50'000); });
  EXPECT_TRUE(consume(consumer, 50'000));
  thread.join();
  EXPECT_EQ(producer.room(64), 64u);
}

TEST(Ring, WorksBetweenTwoProcesses) {
  Files files;
  tests::Child child([&] {
    const Segment read = mapped_again(files.producer, Access::read_only);
    const Segment write = mapped_again(files.consumer, Access::read_write);
    auto& side = producer_side(read);
    RingConsumer<Item> consumer(side.slots, 64, side.tail, consumer_side(write).head);
    return consume(consumer, 50'000) ? 0 : 1;
  });
  auto& side = producer_side(files.producer);
  RingProducer<Item> producer(side.slots, 64, side.tail, consumer_side(files.consumer).head);
  produce(producer, 50'000);
  EXPECT_EQ(child.join(), 0);
  EXPECT_EQ(producer.room(64), 64u);
}

}  // namespace
}  // namespace forge::shm
