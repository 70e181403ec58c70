#include "replicas/spawner.h"

#include <sys/wait.h>

#include <atomic>
#include <fstream>
#include <future>
#include <set>

#include "tests/replicas/roles.h"

namespace forge::replicas {
namespace {

using namespace std::chrono_literals;
using test::make_pipe;
using test::Pipe;
using test::read_all;
using test::read_line;
using test::role;
using test::shell;
using ::testing::ElementsAre;
using Kind = ExitInfo::Kind;
using Clock = std::chrono::steady_clock;

/// Runs `function` on the watchdog thread and returns what it returned.
template <typename Function>
auto on_watchdog(Spawner& spawner, Function function) {
  std::packaged_task<decltype(function())()> task(std::move(function));
  auto result = task.get_future();
  EXPECT_TRUE(spawner.post([&task] { task(); }));
  return result.get();
}

/// A process started through the watchdog, and how it ended.
struct Started {
  Process process;
  std::future<ExitInfo> exit;
};

Started start(Spawner& spawner, SpawnSpec spec, std::function<void()> on_stuck = {}) {
  auto exit = std::make_shared<std::promise<ExitInfo>>();
  return on_watchdog(spawner, [&, exit] {
    auto future = exit->get_future();
    auto process = spawner.spawn(
        spec, {[exit](const ExitInfo& info) { exit->set_value(info); }, std::move(on_stuck)});
    return Started{process.value(), std::move(future)};
  });
}

TEST(SpawnerJobs, RunInOrderOnOneThreadWithAllSignalsBlocked) {
  Spawner spawner;
  std::vector<int> order;
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(spawner.post([&order, i] { order.push_back(i); }));
  }
  const auto blocked = on_watchdog(spawner, [&] {
    EXPECT_TRUE(spawner.on_thread());
    sigset_t mask;
    ::pthread_sigmask(SIG_SETMASK, nullptr, &mask);
    std::set<int> signals;
    for (int signal = 1; signal < SIGRTMAX; ++signal) {
      if (::sigismember(&mask, signal) == 1) signals.insert(signal);
    }
    return signals;
  });
  ASSERT_EQ(order.size(), 100U);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(order[static_cast<std::size_t>(i)], i);
  for (const int signal : {SIGINT, SIGTERM, SIGCHLD, SIGUSR1, SIGRTMIN}) {
    EXPECT_EQ(blocked.count(signal), 1U) << signal;
  }
  EXPECT_FALSE(spawner.on_thread());
  sigset_t ours;
  ::pthread_sigmask(SIG_SETMASK, nullptr, &ours);
  EXPECT_EQ(::sigismember(&ours, SIGTERM), 0) << "the host's own mask is as it was";
}

TEST(SpawnerJobs, AcceptedOnesRunThoughStopIsCalledAndLaterOnesAreRefused) {
  for (int round = 0; round < 50; ++round) {
    Spawner spawner;
    std::atomic<int> accepted = 0;
    std::atomic<int> ran = 0;
    std::vector<std::thread> posters;
    for (int i = 0; i < 4; ++i) {
      posters.emplace_back([&] {
        while (spawner.post([&] { ++ran; })) ++accepted;
      });
    }
    while (ran == 0) std::this_thread::yield();
    spawner.stop();
    for (std::thread& poster : posters) poster.join();
    EXPECT_EQ(ran, accepted);
    EXPECT_FALSE(spawner.post([] { FAIL(); }));
  }
}

TEST(SpawnerJobs, MayPostAndBePostedFromCallbacks) {
  Spawner spawner;
  std::promise<int> done;
  spawner.post([&] {
    spawner.at(Clock::now(), [&] {
      (void)spawner.spawn(shell("exit 4"), {[&](const ExitInfo& exit) {
                            EXPECT_TRUE(spawner.on_thread());
                            EXPECT_EQ(spawner.living(), 0U);
                            spawner.post([&, exit] { done.set_value(exit.value); });
                          }});
    });
  });
  EXPECT_EQ(done.get_future().get(), 4);
}

TEST(SpawnerStop, IsSafeTwiceAndFromManyThreads) {
  Spawner spawner;
  std::vector<std::thread> stoppers;
  for (int i = 0; i < 4; ++i) stoppers.emplace_back([&] { spawner.stop(); });
  for (std::thread& stopper : stoppers) stopper.join();
  spawner.stop();
}

TEST(SpawnerTimers, FireInOrderOfTimeAndNeverEarly) {
  Spawner spawner;
  std::vector<int> order;
  std::promise<void> done;
  spawner.post([&] {
    const auto start = Clock::now();
    const auto add = [&](std::chrono::milliseconds after, int number) {
      spawner.at(start + after, [&, start, after, number] {
        EXPECT_GE(Clock::now(), start + after);
        order.push_back(number);
        if (number == 4) done.set_value();
      });
    };
    add(40ms, 4);
    add(20ms, 2);
    add(-5ms, 1);
    add(20ms, 3);
  });
  done.get_future().get();
  EXPECT_THAT(order, ElementsAre(1, 2, 3, 4));
}

TEST(SpawnerTimers, CanBeCancelledUntilTheyRun) {
  Spawner spawner;
  std::promise<void> done;
  spawner.post([&] {
    auto never = spawner.at(Clock::now() + 10ms, [] { FAIL() << "cancelled"; });
    auto far = spawner.at(Clock::time_point::max(), [] { FAIL() << "not in this life"; });
    EXPECT_TRUE(never);
    EXPECT_TRUE(spawner.cancel(never));
    EXPECT_FALSE(spawner.cancel(never));
    EXPECT_FALSE(spawner.cancel({}));
    auto self = std::make_shared<Spawner::Timer>();
    *self = spawner.at(Clock::now() + 20ms, [&, self, far] {
      EXPECT_FALSE(spawner.cancel(*self)) << "it is running";
      EXPECT_TRUE(spawner.cancel(far));
      done.set_value();
    });
  });
  done.get_future().get();
}

TEST(SpawnerTimers, AreDroppedByStop) {
  Spawner spawner;
  on_watchdog(spawner, [&] {
    spawner.at(Clock::now() + 1h, [] { FAIL(); });
    return true;
  });
  spawner.stop();
}

TEST(SpawnerProcesses, ReportTheirExit) {
  Spawner spawner;
  EXPECT_EQ(start(spawner, shell("exit 3")).exit.get(), (ExitInfo{Kind::exited, 3}));
  EXPECT_EQ(start(spawner, shell("kill -SEGV $$")).exit.get().value, SIGSEGV);
}

TEST(SpawnerProcesses, ThatCannotStartAreAnErrorAndHaveNoExit) {
  Spawner spawner;
  on_watchdog(spawner, [&] {
    const auto process =
        spawner.spawn({"/nowhere/worker", {}, {}, {}}, {[](const ExitInfo&) { FAIL(); }});
    EXPECT_FALSE(process);
    EXPECT_EQ(spawner.living(), 0U);
    return true;
  });
}

TEST(SpawnerProcesses, CanBeSignalledAndKilledUntilTheyHaveEnded) {
  Spawner spawner;
  Pipe pipe = make_pipe();
  Started stays = start(spawner, role("stay", {}, pipe.write.get()));
  EXPECT_EQ(read_line(pipe.read.get()), "here");
  on_watchdog(spawner, [&] { return spawner.send_signal(stays.process, SIGTERM); });
  EXPECT_EQ(stays.exit.get(), (ExitInfo{Kind::signaled, SIGTERM}));

  Started killed = start(spawner, role("stay", {}, pipe.write.get()));
  EXPECT_TRUE(on_watchdog(spawner, [&] { return spawner.kill(killed.process); }));
  EXPECT_EQ(killed.exit.get(), (ExitInfo{Kind::signaled, SIGKILL}));
  EXPECT_FALSE(on_watchdog(spawner, [&] { return spawner.kill(killed.process); }));
  EXPECT_FALSE(on_watchdog(spawner, [&] { return spawner.send_signal(killed.process, SIGTERM); }));
  EXPECT_FALSE(on_watchdog(spawner, [&] { return spawner.kill({}); }));
}

TEST(SpawnerProcesses, TakeTheirOwnChildrenAlongWhenTheyExit) {
  Spawner spawner;
  Pipe pipe = make_pipe();
  auto spec = shell("sleep 1000 & exit 0");
  spec.fds = {{pipe.write.get(), 3}};
  EXPECT_EQ(start(spawner, spec).exit.get(), (ExitInfo{Kind::exited, 0}));
  pipe.write = shm::FileDescriptor();
  EXPECT_EQ(read_all(pipe.read.get()), "") << "ends when sleep is gone";
}

TEST(SpawnerProcesses, LiveThroughThePostersEnd) {
  Spawner spawner;
  Pipe pipe = make_pipe();
  Started follower;
  // The thread that asks ends at once; the one that starts stays.
  std::thread([&] {
    follower = start(spawner, role("follow", {std::to_string(::getpid())}, pipe.write.get()));
  }).join();
  EXPECT_EQ(read_line(pipe.read.get()), "following");
  EXPECT_EQ(on_watchdog(spawner, [&] { return spawner.living(); }), 1U);
}

TEST(SpawnerProcesses, AreUnknownWhenTheHostReapedThem) {
  Spawner spawner;
  Pipe orders = make_pipe();
  auto spec = shell("read line <&4");
  spec.fds = {{orders.read.get(), 4}};
  std::promise<ExitInfo> exit;
  on_watchdog(spawner, [&] {
    const auto process = spawner.spawn(spec, {[&](const ExitInfo& info) { exit.set_value(info); }});
    orders.write = shm::FileDescriptor();
    EXPECT_EQ(::waitpid(-1, nullptr, 0), process.value().pid);
    return true;
  });
  EXPECT_EQ(exit.get_future().get(), ExitInfo{});
}

TEST(SpawnerStop, KillsAndReapsWhatLivesAndRefusesMore) {
  Pipe pipe = make_pipe();
  std::atomic<int> exits = 0;
  Spawner spawner;
  for (int i = 0; i < 5; ++i) {
    on_watchdog(spawner, [&] {
      (void)spawner
          .spawn(role("stay", {}, pipe.write.get()), {[&](const ExitInfo& exit) {
                   EXPECT_EQ(exit, (ExitInfo{Kind::signaled, SIGKILL}));
                   ++exits;
                   const auto late = spawner.spawn(shell("exit 0"), {});
                   EXPECT_FALSE(late);
                   EXPECT_EQ(late.error().error_code(), ErrorCode::stopped);
                   EXPECT_FALSE(spawner.at(Clock::now(), [] { FAIL(); }));
                   EXPECT_FALSE(spawner.post([] { FAIL(); }));
                 }})
          .value();
      return true;
    });
  }
  for (int i = 0; i < 5; ++i) EXPECT_EQ(read_line(pipe.read.get()), "here");
  spawner.stop();
  EXPECT_EQ(exits, 5);
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1) << "no child is left";
}

TEST(SpawnerProcesses, LeaveNoDescriptorAndNoZombieAfterManySpawns) {
  const auto before = test::open_fds();
  {
    Spawner spawner;
    const auto with_spawner = test::open_fds().size();
    std::vector<Started> all;
    for (int i = 0; i < 200; ++i) {
      all.push_back(start(spawner, {"/bin/true", {}, {}, {{0, 3}, {1, 4}}}));
    }
    for (Started& one : all) EXPECT_EQ(one.exit.get(), (ExitInfo{Kind::exited, 0}));
    EXPECT_EQ(on_watchdog(spawner, [&] { return spawner.living(); }), 0U);
    EXPECT_EQ(test::open_fds().size(), with_spawner);
    EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
  }
  EXPECT_EQ(test::open_fds(), before);
}

/// A process that is dead but cannot be reaped, because another one traces it: what a process that
/// SIGKILL does not end looks like from here.
class Stuck : public ::testing::Test {
 protected:
  void SetUp() override {
    victim_ = start(spawner_, role("stay", {}, report_.write.get()), [this] { ++stuck_; });
    ASSERT_EQ(read_line(report_.read.get()), "here");
    auto tracer = spawn_process(role("trace", {std::to_string(victim_.process.pid)},
                                     report_.write.get(), orders_.read.get()));
    ASSERT_TRUE(tracer) << tracer.error().what();
    tracer_ = std::move(*tracer);
    if (read_line(report_.read.get()) != "held") GTEST_SKIP() << "ptrace is not allowed here";
  }
  void TearDown() override {
    let_go();
    if (tracer_.pidfd) reap(tracer_);
  }
  void let_go() { orders_.write = shm::FileDescriptor(); }
  void wait_until_reported() {
    while (stuck_ == 0) std::this_thread::sleep_for(1ms);
  }

  Pipe report_ = make_pipe();
  Pipe orders_ = make_pipe();
  std::atomic<int> stuck_ = 0;
  Spawner spawner_{{.stuck_after = 50ms}};
  Started victim_;
  Child tracer_;
};

TEST_F(Stuck, ProcessIsReportedOnceAndItsExitFollows) {
  on_watchdog(spawner_,
              [&] { return spawner_.kill(victim_.process) && spawner_.kill(victim_.process); });
  wait_until_reported();
  EXPECT_EQ(victim_.exit.wait_for(0s), std::future_status::timeout);
  EXPECT_EQ(on_watchdog(spawner_, [&] { return spawner_.living(); }), 1U);
  on_watchdog(spawner_, [&] { return spawner_.kill(victim_.process); });
  let_go();
  EXPECT_EQ(victim_.exit.get(), (ExitInfo{Kind::signaled, SIGKILL}));
  EXPECT_EQ(stuck_, 1);
}

TEST_F(Stuck, ProcessDoesNotKeepStopForEver) {
  spawner_.stop();
  EXPECT_EQ(stuck_, 1);
  EXPECT_THROW(victim_.exit.get(), std::future_error) << "on_exit was dropped, not called";
  let_go();
  EXPECT_EQ(::waitpid(victim_.process.pid, nullptr, 0), victim_.process.pid);
}

TEST_F(Stuck, ProcessThatWasReportedIsNotWaitedForAgain) {
  on_watchdog(spawner_, [&] { return spawner_.kill(victim_.process); });
  wait_until_reported();
  spawner_.stop();
  EXPECT_EQ(stuck_, 1);
  let_go();
  EXPECT_EQ(::waitpid(victim_.process.pid, nullptr, 0), victim_.process.pid);
}

TEST_F(Stuck, ProcessThatIsReleasedDuringStopStillReportsItsExit) {
  on_watchdog(spawner_, [&] { return spawner_.send_signal(victim_.process, SIGKILL); });
  std::thread stopper([&] { spawner_.stop(); });
  let_go();
  stopper.join();
  if (stuck_ == 0) {
    EXPECT_EQ(victim_.exit.get(), (ExitInfo{Kind::signaled, SIGKILL}));
  } else {  // this machine took longer than stuck_after to run the tracer
    EXPECT_EQ(::waitpid(victim_.process.pid, nullptr, 0), victim_.process.pid);
  }
}

TEST(SpawnerInAForkedCopy, RefusesAndDoesNotHang) {
  Spawner spawner;
  const pid_t copy = ::fork();
  if (copy == 0) {
    const bool accepted = spawner.post([] {});
    spawner.stop();
    ::_exit(accepted ? 1 : 0);
  }
  int status = -1;
  EXPECT_EQ(::waitpid(copy, &status, 0), copy);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(on_watchdog(spawner, [] { return 7; }), 7) << "the original works on";
}

/// Descriptors in the one epoll set of this process.
int watched_by_epoll() {
  int count = 0;
  for (const auto& [fd, target] : test::open_fds()) {
    if (target != "anon_inode:[eventpoll]") continue;
    std::ifstream in("/proc/self/fdinfo/" + std::to_string(fd));
    for (std::string line; std::getline(in, line);) count += line.starts_with("tfd:");
  }
  return count;
}

TEST(SpawnerInAForkedCopy, DescriptorsHeldThereDoNotKeepTheWatchdogBusy) {
  Spawner spawner;
  Pipe report = make_pipe();
  Pipe orders = make_pipe();
  Started stays = start(spawner, role("stay", {}, report.write.get()));
  EXPECT_EQ(read_line(report.read.get()), "here");
  const pid_t copy = ::fork();  // holds the pidfd of `stays` from now on
  if (copy == 0) {
    orders.write = shm::FileDescriptor();
    test::wait_for_end(orders.read.get());
    ::_exit(0);
  }
  on_watchdog(spawner, [&] { return spawner.kill(stays.process); });
  stays.exit.get();
  EXPECT_EQ(watched_by_epoll(), 1) << "its eventfd alone; a dead pidfd would be reported for ever";
  orders.write = shm::FileDescriptor();
  EXPECT_EQ(::waitpid(copy, nullptr, 0), copy);
}

TEST(SpawnerDeathTest, MistakesOfOurOwnAbort) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        Spawner spawner;
        (void)spawner.spawn(shell("exit 0"), {});
      },
      "outside the watchdog");
  EXPECT_DEATH(
      {
        Spawner spawner;
        spawner.post([&] { spawner.stop(); });
        for (;;) ::pause();
      },
      "on the watchdog");
}

}  // namespace
}  // namespace forge::replicas

FORGE_TEST_MAIN_WITH_ROLES;
