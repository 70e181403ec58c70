// A worker that writes nonsense into its own response file while it and others serve: the controller
// goes on, every future completes, the worker is killed and replaced. And what no worker can do.
#include <gmock/gmock.h>

#include <atomic>
#include <cerrno>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/e2e/fixture.h"
#include "tests/random.h"

namespace forge::e2e {
namespace {

using ::testing::AnyOf;

/// Every replica but the first, in turn.
class OthersRouter : public Router {
 public:
  const Replica& get_replica(std::span<const Replica> healthy, const RouteContext&) override {
    const Replica& next = healthy[turn_++ % healthy.size()];
    return next.idx != 0 ? next : healthy.back();
  }

 private:
  std::size_t turn_ = 0;
};

class BrokenWorker : public ::testing::Test {
 protected:
  using Work = std::int64_t(std::int64_t);

  BrokenWorker() {
    const auto first = std::make_shared<PinRouter>(0);
    service_ = std::make_unique<Service>(plugin_.actor("Broken")
                                             .options({.num_replicas = 3,
                                                       .restart = restart_at_once(),
                                                       .routers = {{"work_beside_it", first},
                                                                   {"scribble_indices", first},
                                                                   {"scribble_slots", first},
                                                                   {"scribble_bytes", first},
                                                                   {"work", others_}}})
                                             .as_service());
    for (std::int64_t n = 0; n < 2; ++n) {
      clients_.emplace_back([this, n] {
        auto work = service_->endpoint<Work>("work");
        for (std::int64_t i = n; !stop_; i += 2) {
          const auto result = await(work.route(i));
          if (!result.has_value() || *result != i + 1) {
            ++wrong_;
            ADD_FAILURE() << (result ? std::to_string(*result) : result.error().what());
          }
          ++served_;
        }
      });
    }
  }
  ~BrokenWorker() override {
    stop_ = true;
    for (auto& client : clients_) client.join();
  }

  const ReplicaStatus first() const { return service_->replicas().at(0); }

  /// Calls of the broken replica, in front of the scribble and behind it. Their answers may be
  /// anything, but there must be one. Gives the outcome of the scribble.
  template <class... Args>
  std::string scribble(const std::string& how, Args... args) {
    auto work = service_->endpoint<Work>("work_beside_it");
    auto endpoint = service_->endpoint<void(Args...)>(how);
    std::vector<Future<std::int64_t>> beside;
    for (int i = 0; i < 5; ++i) beside.push_back(work.route(i));
    auto scribbled = endpoint.route(args...);
    for (int i = 0; i < 5; ++i) beside.push_back(work.route(i));
    const std::string result = outcome(await(std::move(scribbled)));
    outcomes(beside);
    return result;
  }

  /// Each scribble is seen, and costs the worker its life.
  void is_killed_each_time(const std::string& how) {
    auto random = tests::seeded();
    constexpr std::uint64_t kTimes = 12;
    for (std::uint64_t i = 0; i < kTimes; ++i) {
      const std::uint64_t life = first().incarnation;
      EXPECT_EQ(scribble(how, static_cast<std::uint64_t>(random())), "worker_lost");
      ASSERT_TRUE(wait_until([&] { return first().incarnation > life && first().healthy; }));
      EXPECT_EQ(service_->counters().violations, i + 1);
    }
    serves_on();
  }

  void serves_on() {
    const std::uint64_t before = served_;
    EXPECT_TRUE(wait_until([&] { return served_ > before + 100; }));
    EXPECT_EQ(wrong_, 0U) << "replicas beside the broken one answer as ever";
    EXPECT_EQ(outcome(await(service_->endpoint<Work>("work_beside_it").route(1))), "ok");
  }

  Controller controller_{quiet()};
  Plugin plugin_ = controller_.load(plugin_path("broken"));
  std::shared_ptr<Router> others_ = std::make_shared<OthersRouter>();
  std::unique_ptr<Service> service_;
  std::atomic<bool> stop_{false};
  std::atomic<std::uint64_t> served_{0};
  std::atomic<std::uint64_t> wrong_{0};
  std::vector<std::thread> clients_;
};
using Fault = BrokenWorker;

TEST_F(Fault, CorruptPositionsInAResponseFile) { is_killed_each_time("scribble_indices"); }

TEST_F(Fault, CorruptAnswersInAResponseFile) { is_killed_each_time("scribble_slots"); }

TEST_F(BrokenWorker, HarmsNobodyWithBytesAnywhere) {
  auto random = tests::seeded();
  for (int i = 0; i < 60; ++i) {
    const std::uint64_t count = std::uint64_t{1} << i % 14;
    scribble("scribble_bytes", static_cast<std::uint64_t>(random()), count);
  }
  EXPECT_GT(service_->counters().violations, 0U) << "some of it is seen";
  ASSERT_TRUE(wait_until([&] { return first().healthy; }));
  serves_on();
}

TEST_F(BrokenWorker, CannotWriteWhatIsNotItsOwn) {
  using Trespass = std::map<std::string, int>();
  const auto result = await(service_->endpoint<Trespass>("trespass").route());
  ASSERT_TRUE(result.has_value());
  EXPECT_EQ(result->size(), 19U);
  for (const auto& [what, error] : *result) {
    EXPECT_THAT(error, AnyOf(EPERM, EACCES)) << what;
  }
  serves_on();
  EXPECT_EQ(service_->counters().violations, 0U);
}

}  // namespace
}  // namespace forge::e2e
