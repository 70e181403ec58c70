// The ledger: which answers count, and what becomes of a request whose replica died.
#include "replicas/ledger.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "tests/random.h"

namespace forge::replicas {
namespace {

using shm::RequestId;
using ::testing::ElementsAre;

constexpr std::uint32_t kReplica = 3;
constexpr std::uint64_t kIncarnation = 7;

/// An entry that was sent to two ranks of kReplica.
class LedgerOfOne : public ::testing::Test {
 protected:
  LedgerOfOne() { ledger_.sent(entry_, kReplica, kIncarnation, 2); }
  bool accept(std::uint32_t rank) {
    return ledger_.accept(entry_, kReplica, kIncarnation, rank, entry_.slot.attempt);
  }
  Ledger ledger_;
  Entry& entry_ = ledger_.open(0);
};

// ---- entries and ids

TEST(Ledger, OpensEntriesQueuedAndBlank) {
  Ledger ledger;
  const Entry& entry = ledger.open(5);
  EXPECT_EQ(entry.state, EntryState::queued);
  EXPECT_EQ(entry.slot.client, 5);
  EXPECT_EQ(entry.slot.kind, shm::RequestKind::call);
  EXPECT_EQ(entry.slot.batch, 1u);
  EXPECT_EQ(entry.slot.attempt, 0);
  EXPECT_GT(entry.slot.id.generation, 0u);
  EXPECT_EQ(entry.home, kAnyReplica);
  EXPECT_EQ(entry.rank, kAllRanks);
  EXPECT_EQ(ledger.open_entries(), 1u);
}

TEST(Ledger, LeavesNothingOfAnEntrysFormerLife) {
  Ledger ledger;
  Entry& entry = ledger.open(5);
  const RequestId id = entry.slot.id;
  entry.idempotent = true;
  entry.home = entry.rank = entry.part = 1;
  entry.slot.block = entry.slot.session = 77;
  entry.slot.deadline_ns = 1;
  entry.call = entry.payload = &ledger;
  ledger.sent(entry, kReplica, kIncarnation, 1);
  ledger.lost(entry, true);
  ledger.close(entry);

  Entry& again = ledger.open(0);
  ASSERT_EQ(&again, &entry) << "entries are pooled";
  EXPECT_FALSE(again.slot.id == id);
  EXPECT_FALSE(again.idempotent);
  EXPECT_EQ(again.executions, 0);
  EXPECT_EQ(again.home, kAnyReplica);
  EXPECT_EQ(again.rank, kAllRanks);
  EXPECT_EQ(again.replica, kAnyReplica);
  EXPECT_EQ(again.part, 0u);
  EXPECT_EQ(again.slot.block + again.slot.session, 0u);
  EXPECT_EQ(again.slot.deadline_ns, 0);
  EXPECT_EQ(again.slot.attempt, 0);
  EXPECT_EQ(again.slot.client, 0);
  EXPECT_EQ(again.call, nullptr);
  EXPECT_EQ(again.payload, nullptr);
  EXPECT_FALSE(ledger.accept(again, kReplica, kIncarnation, 0, 1)) << "it was not sent";
}

TEST(Ledger, FindsLiveEntriesOnlyAndByTheirWholeId) {
  Ledger ledger;
  EXPECT_EQ(ledger.find({0, 0}), nullptr);
  EXPECT_EQ(ledger.find({0, 1}), nullptr);
  Entry& entry = ledger.open(0);
  const RequestId id = entry.slot.id;
  EXPECT_EQ(ledger.find(id), &entry);
  EXPECT_EQ(ledger.find({id.entry, id.generation + 1}), nullptr);
  EXPECT_EQ(ledger.find({id.entry, 0}), nullptr);
  EXPECT_EQ(ledger.find({id.entry + 1, id.generation}), nullptr) << "there, but never opened";
  EXPECT_EQ(ledger.find({id.entry + 1, 0}), nullptr);
  EXPECT_EQ(ledger.find({1'000'000, id.generation}), nullptr);
  EXPECT_EQ(ledger.find({~0U, ~0U}), nullptr);
  ledger.close(entry);
  EXPECT_EQ(ledger.find(id), nullptr);
  EXPECT_EQ(ledger.open_entries(), 0u);
}

TEST(Ledger, NeverUsesAnIdTwice) {
  Ledger ledger;
  std::set<std::pair<std::uint32_t, std::uint32_t>> seen;
  for (int round = 0; round < 5; ++round) {
    std::vector<Entry*> live;
    for (int i = 0; i < 700; ++i) {  // more than the entries that are made at a time
      live.push_back(&ledger.open(0));
      const RequestId id = live.back()->slot.id;
      EXPECT_NE(id.generation, 0u);
      ASSERT_TRUE(seen.emplace(id.entry, id.generation).second);
    }
    for (Entry* entry : live) EXPECT_EQ(ledger.find(entry->slot.id), entry) << "entries never move";
    for (Entry* entry : live) ledger.close(*entry);
  }
}

TEST(Ledger, LeavesTheGenerationOfNoRequestOutWhenTheyAreUsedUp) {
  Ledger ledger;
  Entry& entry = ledger.open(0);
  const std::uint32_t index = entry.slot.id.entry;
  entry.slot.id.generation = ~std::uint32_t{0};
  ledger.close(entry);
  const Entry& next = ledger.open(0);
  EXPECT_EQ(next.slot.id.entry, index);
  EXPECT_EQ(next.slot.id.generation, 1U);
  EXPECT_EQ(ledger.find({index, ~std::uint32_t{0}}), nullptr);
}

TEST(Ledger, KeepsTheAttemptsOfARequestUnderOneId) {
  Ledger ledger;
  Entry& entry = ledger.open(0);
  const RequestId id = entry.slot.id;
  for (std::uint16_t attempt = 1; attempt <= 3; ++attempt) {
    ledger.sent(entry, kReplica, kIncarnation + attempt, 1);
    EXPECT_EQ(entry.slot.attempt, attempt);
    EXPECT_TRUE(entry.slot.id == id);
    ledger.lost(entry, false);
  }
}

// ---- which answers count

TEST_F(LedgerOfOne, AcceptsEachRankOnce) {
  EXPECT_EQ(entry_.state, EntryState::sent);
  EXPECT_EQ(entry_.waiting, 2u);
  EXPECT_TRUE(accept(1));
  EXPECT_EQ(entry_.waiting, 1u);
  EXPECT_FALSE(accept(1)) << "a rank answers once";
  EXPECT_EQ(entry_.waiting, 1u);
  EXPECT_TRUE(accept(0));
  EXPECT_EQ(entry_.waiting, 0u);
  EXPECT_FALSE(accept(0));
}

TEST_F(LedgerOfOne, RefusesWhatIsNotForThisAttempt) {
  const std::uint16_t attempt = entry_.slot.attempt;
  const auto wrong = [&](std::uint32_t replica, std::uint64_t incarnation, std::uint32_t rank,
                         std::uint16_t of) {
    return !ledger_.accept(entry_, replica, incarnation, rank, of);
  };
  EXPECT_TRUE(wrong(kReplica + 1, kIncarnation, 0, attempt));
  EXPECT_TRUE(wrong(kAnyReplica, kIncarnation, 0, attempt));
  EXPECT_TRUE(wrong(kReplica, kIncarnation - 1, 0, attempt));
  EXPECT_TRUE(wrong(kReplica, kIncarnation + 1, 0, attempt));
  EXPECT_TRUE(wrong(kReplica, kIncarnation, 2, attempt));
  EXPECT_TRUE(wrong(kReplica, kIncarnation, kAllRanks, attempt));
  EXPECT_TRUE(wrong(kReplica, kIncarnation, 0, static_cast<std::uint16_t>(attempt - 1)));
  EXPECT_TRUE(wrong(kReplica, kIncarnation, 0, static_cast<std::uint16_t>(attempt + 1)));
  EXPECT_EQ(entry_.waiting, 2u) << "none of them has left a trace";
  EXPECT_TRUE(accept(0));
  EXPECT_TRUE(accept(1));
}

TEST_F(LedgerOfOne, RefusesAnswersToAnAttemptThatIsOver) {
  EXPECT_TRUE(accept(0));
  const std::uint16_t attempt = entry_.slot.attempt;
  EXPECT_EQ(ledger_.lost(entry_, false), Verdict::replay);
  EXPECT_FALSE(accept(1)) << "it is queued again";
  ledger_.sent(entry_, kReplica, kIncarnation + 1, 2);
  EXPECT_FALSE(ledger_.accept(entry_, kReplica, kIncarnation, 1, attempt));
  EXPECT_EQ(entry_.waiting, 2u) << "the new attempt needs both ranks again";
  EXPECT_TRUE(ledger_.accept(entry_, kReplica, kIncarnation + 1, 0, entry_.slot.attempt));
}

TEST_F(LedgerOfOne, RefusesAnswersToAClosedEntry) {
  ledger_.close(entry_);
  EXPECT_FALSE(accept(0));
}

TEST(Ledger, AcceptsOnlyTheChosenRank) {
  Ledger ledger;
  Entry& entry = ledger.open(0);
  entry.rank = 2;
  ledger.sent(entry, 0, 1, 1);
  for (const std::uint32_t other : {0u, 1u, 3u, kAllRanks}) {
    EXPECT_FALSE(ledger.accept(entry, 0, 1, other, 1)) << other;
  }
  EXPECT_TRUE(ledger.accept(entry, 0, 1, 2, 1));
  EXPECT_EQ(entry.waiting, 0u);
  EXPECT_FALSE(ledger.accept(entry, 0, 1, 2, 1));
}

// ---- what becomes of an entry whose replica died

/// A call whose replica dies time and again.
struct Unlucky {
  explicit Unlucky(bool idempotent) { entry.idempotent = idempotent; }
  Verdict die(bool started, Blame blame = Blame::nobody) {
    ledger.sent(entry, 0, ++deaths, 1);
    return ledger.lost(entry, started, blame);
  }

  Ledger ledger;
  Entry& entry = ledger.open(0);
  std::uint64_t deaths = 0;
};

struct LostCase {
  bool idempotent;
  std::vector<bool> started;  // per death
  std::vector<Verdict> verdicts;
  std::uint16_t executions;
};

TEST(LedgerLost, DecidesByWhatHadStarted) {
  using V = Verdict;
  const LostCase cases[] = {
      {false, {false}, {V::replay}, 0},
      {false, {true}, {V::lost}, 1},
      {false,
       {false, false, false, false, true},
       {V::replay, V::replay, V::replay, V::replay, V::lost},
       1},
      {true, {false}, {V::replay}, 0},
      {true, {true}, {V::retry}, 1},
      {true, {true, true}, {V::retry, V::retry}, 2},
      {true, {true, true, true}, {V::retry, V::retry, V::lost}, 3},
      {true,
       {true, false, true, false, false, true},
       {V::retry, V::replay, V::retry, V::replay, V::replay, V::lost},
       3},
  };
  for (const LostCase& one : cases) {
    Unlucky call(one.idempotent);
    for (std::size_t death = 0; death < one.started.size(); ++death) {
      const Verdict verdict = call.die(one.started[death]);
      EXPECT_EQ(verdict, one.verdicts[death]) << "death " << death;
      if (verdict != Verdict::lost) {
        EXPECT_EQ(call.entry.state, EntryState::queued);
      }
    }
    EXPECT_EQ(call.entry.executions, one.executions);
    EXPECT_LE(call.entry.executions, kMaxExecutions);
    EXPECT_EQ(call.ledger.open_entries(), 1u) << "closing it is the engine's";
  }
}

struct PoisonCase {
  bool idempotent;
  std::vector<Blame> deaths;  // it had started in each
  Verdict last;               // all before it: retry
};

TEST(LedgerLost, TellsPoisonFromBadLuck) {
  using V = Verdict;
  constexpr auto kNobody = Blame::nobody;
  constexpr auto kSeveral = Blame::several;
  constexpr auto kAlone = Blame::alone;
  const PoisonCase cases[] = {
      {true, {kAlone, kAlone}, V::poison},
      {true, {kSeveral, kAlone}, V::poison},
      {true, {kAlone, kSeveral}, V::poison},
      {true, {kSeveral, kSeveral}, V::retry},
      {true, {kSeveral, kSeveral, kAlone}, V::poison},
      {true, {kSeveral, kSeveral, kSeveral}, V::lost},
      {true, {kNobody, kNobody, kNobody}, V::lost},
      {true, {kAlone, kNobody}, V::retry},
      {true, {kAlone, kNobody, kAlone}, V::poison},
      {true, {kNobody, kAlone, kNobody}, V::lost},
      {false, {kAlone}, V::lost},
  };
  for (const PoisonCase& one : cases) {
    Unlucky call(one.idempotent);
    for (std::size_t death = 0; death < one.deaths.size(); ++death) {
      const bool last = death + 1 == one.deaths.size();
      EXPECT_EQ(call.die(true, one.deaths[death]), last ? one.last : V::retry)
          << "case " << &one - cases << ", death " << death;
    }
  }
}

TEST(LedgerLost, ForGoodIsAlwaysLost) {
  for (const bool idempotent : {false, true}) {
    for (const bool started : {false, true}) {
      Ledger ledger;
      Entry& entry = ledger.open(0);
      entry.idempotent = idempotent;
      ledger.sent(entry, 0, 1, 4);
      EXPECT_EQ(ledger.lost_for_good(entry, started), Verdict::lost);
      EXPECT_EQ(entry.executions, started ? 1 : 0);
    }
  }
}

// ---- lists

TEST(EntryLists, KeepOrderAndKnowWhereEachEntryIs) {
  Ledger ledger;
  EntryList first;
  EntryList second;
  Entry& a = ledger.open(0);
  Entry& b = ledger.open(0);
  Entry& c = ledger.open(0);
  const auto order = [](EntryList& list) {
    std::vector<const Entry*> entries;
    for (const Entry& entry : list) entries.push_back(&entry);
    return entries;
  };
  append(first, a);
  append(first, b);
  prepend(first, c);
  EXPECT_THAT(order(first), ElementsAre(&c, &a, &b));
  EXPECT_EQ(a.list, &first);
  unlink(a);
  EXPECT_EQ(a.list, nullptr);
  append(second, a);
  EXPECT_THAT(order(first), ElementsAre(&c, &b));
  EXPECT_THAT(order(second), ElementsAre(&a));
  EXPECT_EQ(a.list, &second);
  EXPECT_EQ(first.size(), 2u);
  for (Entry* entry : {&a, &b, &c}) unlink(*entry);
}

// ---- against a model

/// What the ledger should know, in the simplest form.
struct Model {
  bool sent = false;
  bool idempotent = false;
  std::uint32_t rank = kAllRanks;
  std::uint32_t replica = 0;
  std::uint64_t incarnation = 0;
  std::uint16_t attempt = 0;
  std::uint16_t executions = 0;
  std::set<std::uint32_t> to_answer;
};

/// A worker's answer; right, or wrong in any of its fields.
struct Claim {
  RequestId id;
  std::uint32_t replica;
  std::uint64_t incarnation;
  std::uint32_t rank;
  std::uint16_t attempt;
};

class LedgerAgainstModel {
 public:
  explicit LedgerAgainstModel(std::mt19937_64& random) : random_(random) {}

  void step() {
    if (live_.empty() || chance(4)) return open();
    auto at = live_.begin();
    std::advance(at, tests::below(random_, live_.size()));
    auto& [id, model] = *at;
    Entry* entry = ledger_.find({id.first, id.second});
    ASSERT_NE(entry, nullptr);
    ASSERT_EQ(entry->state, model.sent ? EntryState::sent : EntryState::queued);
    ASSERT_EQ(entry->executions, model.executions);
    if (!model.sent) {
      chance(8) ? close(*entry) : send(*entry, model);
    } else if (chance(5)) {
      lose(*entry, model);
    } else {
      answer(*entry, model);
    }
    ASSERT_EQ(ledger_.open_entries(), live_.size());
  }

 private:
  using Key = std::pair<std::uint32_t, std::uint32_t>;

  bool chance(std::uint64_t one_in) { return tests::below(random_, one_in) == 0; }

  void open() {
    if (live_.size() > 400) return;
    Entry& entry = ledger_.open(0);
    const Key key{entry.slot.id.entry, entry.slot.id.generation};
    ASSERT_TRUE(ids_.insert(key).second) << "an id was used twice";
    Model& model = live_[key];
    model.idempotent = entry.idempotent = chance(2);
    if (chance(3)) model.rank = entry.rank = static_cast<std::uint32_t>(tests::below(random_, 4));
  }

  void close(Entry& entry) {
    live_.erase({entry.slot.id.entry, entry.slot.id.generation});
    const RequestId id = entry.slot.id;
    ledger_.close(entry);
    ASSERT_EQ(ledger_.find(id), nullptr);
  }

  void send(Entry& entry, Model& model) {
    model.sent = true;
    model.replica = static_cast<std::uint32_t>(tests::below(random_, 3));
    model.incarnation = 1 + tests::below(random_, 3);
    ++model.attempt;
    model.to_answer.clear();
    if (model.rank == kAllRanks) {
      for (std::uint32_t rank = 0; rank <= tests::below(random_, 4); ++rank) {
        model.to_answer.insert(rank);
      }
    } else {
      model.to_answer.insert(model.rank);
    }
    ledger_.sent(entry, model.replica, model.incarnation,
                 static_cast<std::uint32_t>(model.to_answer.size()));
  }

  void lose(Entry& entry, Model& model) {
    const bool started = chance(2);
    Verdict expected = Verdict::replay;
    if (started) {
      ++model.executions;
      expected = model.idempotent && model.executions < 3 ? Verdict::retry : Verdict::lost;
    }
    ASSERT_EQ(ledger_.lost(entry, started), expected);
    model.sent = false;
    if (expected == Verdict::lost) close(entry);
  }

  void answer(Entry& entry, Model& model) {
    const std::uint32_t rank = model.to_answer.empty() ? 0 : *model.to_answer.begin();
    Claim claim{entry.slot.id, model.replica, model.incarnation, rank, model.attempt};
    switch (tests::below(random_, 12)) {
      case 0:
        claim.id.generation -= 1;
        break;
      case 1:
        claim.id.entry = static_cast<std::uint32_t>(random_());
        break;
      case 2:
        claim.replica = static_cast<std::uint32_t>(tests::below(random_, 4));
        break;
      case 3:
        claim.incarnation = tests::below(random_, 5);
        break;
      case 4:
        claim.rank = static_cast<std::uint32_t>(tests::below(random_, 5));
        break;
      case 5:
        claim.attempt = static_cast<std::uint16_t>(tests::below(random_, 5));
        break;
      default:
        break;
    }
    Entry* found = ledger_.find(claim.id);
    const auto known = live_.find({claim.id.entry, claim.id.generation});
    ASSERT_EQ(found != nullptr, known != live_.end());
    if (found == nullptr) return;
    Model& its = known->second;
    const bool right = its.sent && claim.replica == its.replica &&
                       claim.incarnation == its.incarnation && claim.attempt == its.attempt &&
                       its.to_answer.count(claim.rank) != 0;
    ASSERT_EQ(ledger_.accept(*found, claim.replica, claim.incarnation, claim.rank, claim.attempt),
              right);
    if (!right) return;
    its.to_answer.erase(claim.rank);
    ASSERT_EQ(found->waiting, its.to_answer.size());
    if (its.to_answer.empty()) close(*found);
  }

  std::mt19937_64& random_;
  Ledger ledger_;
  std::map<Key, Model> live_;
  std::set<Key> ids_;
};

TEST(Ledger, AgreesWithASimpleModel) {
  auto random = tests::seeded();
  LedgerAgainstModel both(random);
  for (int i = 0; i < 100'000 && !::testing::Test::HasFatalFailure(); ++i) both.step();
}

}  // namespace
}  // namespace forge::replicas
