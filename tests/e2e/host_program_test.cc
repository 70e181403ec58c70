// forge as a guest in somebody's program: forks, signals, and what a worker inherits of them.
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "payloads.h"
#include "support.h"
#include "tests/sanitizer.h"

namespace forge::e2e {
namespace {

using ::testing::Contains;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

/// Runs `work` in a forked child; the status it left with, 1000 + signal if it was killed.
int in_child(const std::function<int()>& work) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::alarm(30);  // a deadlock shall be seen as one
    int status = 99;
    try {
      status = work();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "in the child: %s\n", error.what());
    }
    ::_exit(status);
  }
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

template <class Work>
bool says_stopped(Work work) {
  try {
    work();
  } catch (const Stopped&) {
    return true;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "in the child: %s\n", error.what());
  }
  return false;
}

class Forks : public PayloadTest {
 protected:
  Service service = serve();
  Endpoint<std::int64_t(std::int64_t)> same = service.endpoint<std::int64_t(std::int64_t)>("i64");
};

TEST_F(Forks, CallsInTheChildSayStopped) {
  auto pending = service.endpoint<void(std::int64_t)>("sleep_ms").route(300);
  const ActorMesh mesh = payloads.actor("Payloads").as_actor();
  const auto mesh_pid = mesh.endpoint<std::int64_t()>("pid");
  EXPECT_EQ(in_child([&] {
              int wrong = 0;
              const auto check = [&](int bit, auto work) { wrong |= says_stopped(work) ? 0 : bit; };
              check(1, [&] { same.route(1).get(); });
              check(2, [&] { same.fanout(1).get(); });
              check(4, [&] { mesh_pid.choose().get(); });
              check(8, [&] { mesh_pid.broadcast(); });
              check(16, [&] { pending.get(); });
              check(32, [&] { payloads.actor("Payloads").as_service(); });
              check(64, [&] { service.allocate(DType::u8, {10}); });
              return wrong;
            }),
            0);
  EXPECT_EQ(in_child([&] {
              int wrong = 0;
              const auto check = [&](int bit, auto work) { wrong |= says_stopped(work) ? 0 : bit; };
              check(1, [&] { controller.load(plugin_path("counter")); });
              check(2, [&] { (void)service.endpoint<std::int64_t()>("pid"); });
              check(4, [&] { (void)mesh.endpoint<std::int64_t()>("pid"); });
              check(8, [&] { pending.wait_for(1h); });
              check(16, [&] { payloads.actor("Payloads").as_service_async().get(); });
              return wrong;
            }),
            0);
  EXPECT_EQ(value_of(same.route(4)), 4);
  value_of(std::move(pending));
}

TEST_F(Forks, DestructorsInTheChildDoNothing) {
  const std::vector<int> pids = pids_of(service);
  auto held = std::make_unique<Service>(serve({.name = "held"}));
  auto mesh = std::make_unique<ActorMesh>(payloads.actor("Payloads").as_actor());
  auto other = std::make_unique<Controller>(quiet());
  auto tensor = std::make_unique<Tensor>(held->allocate(DType::f32, {1000}));
  auto answer = std::make_unique<Tensor>(value_of(
      held->endpoint<Tensor(std::int64_t, std::uint8_t)>("make_tensor").route(100'000, 1)));
  auto pending =
      std::make_unique<Future<void>>(held->endpoint<void(std::int64_t)>("sleep_ms").route(300));
  auto ready = std::make_unique<Future<Bytes>>(
      held->endpoint<Bytes(std::uint64_t, std::uint8_t)>("make_bytes").route(5000, 1));
  auto chained = std::make_unique<Future<int>>(same.route(1).then([](std::int64_t) { return 1; }));
  auto endpoint = std::make_unique<Endpoint<std::int64_t(std::int64_t)>>(same);
  EXPECT_EQ(in_child([&] {
              chained.reset();
              ready.reset();
              pending.reset();
              answer.reset();
              tensor.reset();
              endpoint.reset();
              mesh.reset();
              held->shutdown();
              held.reset();
              other->shutdown();
              other.reset();
              return 0;
            }),
            0);
  // And the parent did not notice.
  value_of(std::move(*pending));
  EXPECT_EQ(value_of(std::move(*ready)).size(), 5000U);
  EXPECT_EQ(value_of(std::move(*chained)), 1);
  EXPECT_EQ(answer->span<const std::uint8_t>()[99'999], 1);
  EXPECT_EQ(value_of(endpoint->route(4)), 4);
  EXPECT_EQ(pids_of(service), pids);
}

TEST_F(Forks, AChildMayEndNormally) {
  if (tests::kUnderAsan)
    GTEST_SKIP() << "in the child, what the parent's threads owned looks like a leak";
  // The whole program's destructors run there, in a process that has only one thread.
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::alarm(30);
    controller.shutdown();
    std::exit(HasFailure() ? 1 : 0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  EXPECT_EQ(value_of(same.route(4)), 4);
}

TEST_F(Forks, WhatWasShutDownBeforeMayBeDestroyedInTheChild) {
  auto endpoint = std::make_unique<Endpoint<std::int64_t(std::int64_t)>>(same);
  auto tensor = std::make_unique<Tensor>(service.allocate(DType::f32, {100'000}));
  auto answer = std::make_unique<Tensor>(value_of(
      service.endpoint<Tensor(std::int64_t, std::uint8_t)>("make_tensor").route(100'000, 1)));
  {
    const auto same_again = std::move(same);
    service.shutdown();
    const Service gone = std::move(service);
  }
  EXPECT_EQ(in_child([&] {
              answer.reset();
              tensor.reset();
              endpoint.reset();
              return 0;
            }),
            0);
}

TEST_F(Forks, ForkingWhileCallsRunHarmsNobody) {
  std::atomic<bool> stop{false};
  std::atomic<int> calls{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      for (; !stop; ++calls) EXPECT_EQ(value_of(same.route(calls.load())) >= 0, true);
    });
  }
  for (int i = 0; i < 30; ++i)
    EXPECT_EQ(in_child([&] { return says_stopped([&] { same.route(1).get(); }) ? 0 : 1; }), 0);
  const int before = calls;
  EXPECT_TRUE(wait_until([&] { return calls > before + 100; }));
  stop = true;
  for (auto& thread : threads) thread.join();
}

TEST_F(Forks, TheChildHoldsNoneOfTheMemory) {
  const Tensor tensor = service.allocate(DType::u8, {100});
  EXPECT_EQ(in_child([&] { return static_cast<int>(Footprint::now().segments); }), 0);
}

// ---- another user

using Fault = Forks;

/// How many files below `folder` can be opened.
int opened(const std::filesystem::path& folder) {
  int count = 0;
  std::error_code refused;
  for (std::filesystem::directory_iterator it(folder, refused), end; !refused && it != end;
       it.increment(refused)) {
    const int fd = ::open(it->path().c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    count += fd >= 0;
    ::close(fd);
  }
  return count;
}

TEST_F(Fault, AnotherUserOnTheHost) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can become somebody else";
  std::vector<std::filesystem::path> places;
  std::vector<int> pids = pids_of(service);
  pids.push_back(::getpid());
  for (const int pid : pids) {
    const std::filesystem::path process = "/proc/" + std::to_string(pid);
    places.push_back(process / "fd");
    places.push_back(process / "map_files");
  }
  const auto open_all = [&] {
    int count = 0;
    for (const auto& place : places) count += opened(place);
    return std::min(count, 90);
  };
  EXPECT_GT(in_child(open_all), 3) << "this user can";
  EXPECT_EQ(in_child([&] {
              constexpr uid_t kNobody = 65534;
              if (::setgroups(0, nullptr) != 0 || ::setgid(kNobody) != 0 || ::setuid(kNobody) != 0)
                return 98;
              return open_all();
            }),
            0);
  // And nothing has a name.
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm"))
    EXPECT_EQ(entry.path().filename().string().find("forge"), std::string::npos) << entry;
}

// ---- signals

/// Puts handler, mask and dispositions back.
class Signals : public ::testing::Test {
 protected:
  void SetUp() override {
    for (int i = 0; i < kKept; ++i) ::sigaction(kSignals[i], nullptr, &kept_[i]);
    ::pthread_sigmask(SIG_SETMASK, nullptr, &mask_);
  }
  void TearDown() override {
    for (int i = 0; i < kKept; ++i) ::sigaction(kSignals[i], &kept_[i], nullptr);
    ::pthread_sigmask(SIG_SETMASK, &mask_, nullptr);
  }
  /// Starts, calls, loses a worker, calls, shuts down.
  static void live_and_die() {
    const Footprint before = Footprint::now();
    {
      Controller controller(quiet());
      const Plugin plugin = controller.load(plugin_path("payloads"));
      const Service service =
          plugin.actor("Payloads").options({.procs = 2, .restart = restart_at_once()}).as_service();
      const auto pid = service.endpoint<std::int64_t()>("pid");
      const int first = static_cast<int>(value_of(pid.route()));
      ::kill(first, SIGKILL);
      EXPECT_TRUE(wait_until([&] { return service.replicas()[0].incarnation == 2; }));
      EXPECT_NE(value_of(pid.with({.timeout = 1h}).route()), first);
    }
    EXPECT_TRUE(returns_to(before));
  }

 private:
  static constexpr int kKept = 3;
  static constexpr int kSignals[kKept] = {SIGCHLD, SIGPIPE, SIGUSR1};
  struct sigaction kept_[kKept];
  sigset_t mask_;
};

TEST_F(Signals, AHostThatIgnoresSigchldIsServed) {
  ::signal(SIGCHLD, SIG_IGN);  // the kernel then reaps children by itself
  live_and_die();
  struct sigaction now {};
  ::sigaction(SIGCHLD, nullptr, &now);
  EXPECT_EQ(now.sa_handler, SIG_IGN);
}

TEST_F(Signals, AHostThatReapsEverythingIsServed) {
  std::atomic<bool> stop{false};
  std::atomic<int> stolen{0};
  std::thread reaper([&] {
    while (!stop) {
      if (::waitpid(-1, nullptr, WNOHANG) > 0) ++stolen;
      std::this_thread::yield();
    }
  });
  for (int i = 0; i < 5; ++i) live_and_die();
  stop = true;
  reaper.join();
}

TEST_F(Signals, AHostWithASigchldHandlerThatReapsIsServed) {
  struct sigaction action {};
  action.sa_handler = [](int) {
    const int saved = errno;
    while (::waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    errno = saved;
  };
  ::sigaction(SIGCHLD, &action, nullptr);
  live_and_die();
}

TEST_F(Signals, ForgesThreadsTakeNoSignals) {
  static std::atomic<int> taken{0};
  static pthread_t main_thread;
  main_thread = ::pthread_self();
  struct sigaction action {};
  action.sa_handler = [](int) {
    taken += ::pthread_equal(::pthread_self(), main_thread) ? 1 : 1000;
  };
  ::sigaction(SIGUSR1, &action, nullptr);
  Controller controller(quiet());
  const Service service = controller.load(plugin_path("payloads"))
                              .actor("Payloads")
                              .options({.wait = Wait::block})
                              .as_service();
  const auto same = service.endpoint<std::int64_t(std::int64_t)>("i64");
  for (int i = 0; i < 200; ++i) {
    ::kill(::getpid(), SIGUSR1);
    EXPECT_EQ(value_of(same.route(i)), i);
  }
  EXPECT_LT(taken, 1000);
  EXPECT_GT(taken, 0);
  sigset_t mask;
  ::pthread_sigmask(SIG_SETMASK, nullptr, &mask);
  EXPECT_EQ(::sigismember(&mask, SIGUSR1), 0);
}

TEST_F(Signals, WorkersInheritNeitherSignalsNorDescriptors) {
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGUSR1, SIG_IGN);
  sigset_t blocked;
  ::sigemptyset(&blocked);
  ::sigaddset(&blocked, SIGTERM);
  ::sigaddset(&blocked, SIGUSR2);
  ::pthread_sigmask(SIG_BLOCK, &blocked, nullptr);
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);  // not close-on-exec, as careless programs have them
  {
    Controller controller(quiet());
    const Service service = controller.load(plugin_path("payloads"))
                                .actor("Payloads")
                                .options({.num_replicas = 2})
                                .as_service();
    for (auto& one :
         value_of(service.endpoint<payloads::ProcessState()>("process_state").fanout())) {
      const payloads::ProcessState state = one.value();
      if (!tests::kUnderAsan) {  // it handles SIGSEGV
        EXPECT_THAT(state.not_default, IsEmpty());
      }
      EXPECT_THAT(state.blocked, IsEmpty());
      // What is left open is forge's own: shared memory, an eventfd, and what tells of our end.
      EXPECT_THAT(state.descriptors,
                  Each(::testing::AnyOf(HasSubstr("memfd:forge:"), HasSubstr("[eventfd]"),
                                        HasSubstr("[pidfd]"))));
      EXPECT_THAT(state.descriptors, Not(Contains(HasSubstr("pipe:"))));
    }
  }
  ::close(ends[0]);
  ::close(ends[1]);
}

/// A program that changes its environment moves it. Here it lies where whoever looks dies.
TEST(Environment, IsNotLookedAtOnceTheControllerIsMade) {
  Controller controller;  // its lines are made by threads of forge, too
  const Service service =
      controller.load(plugin_path("payloads"))
          .actor("Payloads")
          .options({.procs = 2, .num_replicas = 2, .restart = restart_at_once()})
          .as_service();
  const ActorFactory other = controller.load(plugin_path("faulty")).actor("Faulty");
  void* const nowhere = ::mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(nowhere, MAP_FAILED);
  char** const real = std::exchange(environ, static_cast<char**>(nowhere));
  bool back = true;
  for (std::uint64_t life = 1; life <= 3; ++life) {
    ::kill(service.replicas().at(0).pids.at(0), SIGKILL);
    back = back && wait_restarted(service, 0, life);
  }
  auto second = other.as_service_async();
  const bool up = second.wait_for(kPatience);
  environ = real;
  EXPECT_TRUE(back);
  ASSERT_TRUE(up);
  second.get().shutdown();
  ::munmap(nowhere, 4096);
}

}  // namespace
}  // namespace forge::e2e
