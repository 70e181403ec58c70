// Nobody is killed who is only slow: because the machine has too much to do, or because the
// controller's own process stood still.
//
// FORGE_TEST_MINUTES: how long the first test lasts; the second then has a thousand pauses.
#include <spawn.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "tests/e2e/fixture.h"
#include "tests/random.h"

extern char** environ;

namespace forge::e2e {
namespace {

std::chrono::seconds asked_for() {
  const char* const minutes = std::getenv("FORGE_TEST_MINUTES");
  return minutes == nullptr ? 3s : std::chrono::minutes(std::max(1, std::atoi(minutes)));
}

/// Looks for stopped and overrunning workers as often as it can.
Options watchful(std::chrono::milliseconds limit) {
  return {.num_replicas = 2,
          .health_poll_rate = 5ms,
          .restart = restart_at_once(),
          .endpoints = {{"sleep_ms", {.exec_timeout = limit}}}};
}

struct Served {
  std::uint64_t answers = 0;
  std::uint64_t wrong = 0;
  std::uint64_t deaths = 0;
};

/// Two threads ask, one for what takes as long as several looks at the workers, until `stop`.
Served serve(const Service& service, const std::atomic<bool>& stop) {
  std::atomic<std::uint64_t> answers{0};
  std::atomic<std::uint64_t> wrong{0};
  std::thread slow([&] {
    const auto sleep = service.endpoint<void(std::int64_t)>("sleep_ms");
    for (; !stop; ++answers) wrong += outcome(await(sleep.route(350))) != "ok";
  });
  const auto echo = service.endpoint<std::int64_t(std::int64_t)>("echo");
  for (std::int64_t i = 0; !stop; ++i, ++answers) {
    const auto result = await(echo.route(i));
    wrong += !result.has_value() || *result != i;
  }
  slow.join();
  Served served{answers, wrong, 0};
  for (const auto& replica : service.replicas()) served.deaths += replica.incarnation - 1;
  return served;
}

// ---- too much to do

/// Processes that do nothing but take the cores, eight for each.
class Crowd {
 public:
  Crowd() {
    const unsigned cores = std::max(1U, std::thread::hardware_concurrency());
    for (unsigned i = 0; i < 8 * cores; ++i) {
      const pid_t pid = ::fork();
      if (pid == 0) {
        ::alarm(static_cast<unsigned>(asked_for().count()) + 300);  // if the test goes without them
        for (std::atomic<std::uint64_t> work{0};;) work.fetch_add(1);
      }
      pids_.push_back(pid);
    }
  }
  Crowd(const Crowd&) = delete;
  Crowd& operator=(const Crowd&) = delete;
  ~Crowd() {
    for (const pid_t pid : pids_) ::kill(pid, SIGKILL);
    for (const pid_t pid : pids_) ::waitpid(pid, nullptr, 0);
  }

 private:
  std::vector<pid_t> pids_;
};

TEST(FalseKills, NoneWhenTheCoresAreOversubscribed) {
  const Crowd crowd;
  Controller controller(quiet());
  const Service service =
      controller.load(plugin_path("faulty")).actor("Faulty").options(watchful(10s)).as_service();
  std::atomic<bool> stop{false};
  std::thread timer([&] {
    std::this_thread::sleep_for(asked_for());
    stop = true;
  });
  const Served served = serve(service, stop);
  timer.join();
  EXPECT_GT(served.answers, 0U);
  EXPECT_EQ(served.wrong, 0U);
  EXPECT_EQ(served.deaths, 0U);
}

// ---- a controller that stands still

/// This program again, with a controller in it that serves until its standard input ends.
class Child {
 public:
  Child() {
    int in[2];
    int out[2];
    if (::pipe2(in, O_CLOEXEC) != 0 || ::pipe2(out, O_CLOEXEC) != 0)
      throw std::runtime_error("pipe2 failed");
    std::string self = std::filesystem::read_symlink("/proc/self/exe");
    std::string flag = "--controller";
    std::array<char*, 3> arguments = {self.data(), flag.data(), nullptr};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
    const int refused =
        ::posix_spawn(&pid_, self.c_str(), &actions, nullptr, arguments.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    ::close(in[0]);
    ::close(out[1]);
    to_ = in[1];
    from_ = ::fdopen(out[0], "r");
    char ready = 0;
    if (refused != 0 || std::fscanf(from_, " %c", &ready) != 1)
      throw std::runtime_error("the controller's process did not start");
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    if (to_ >= 0) ::close(to_);
    std::fclose(from_);
  }
  void signal(int number) const { ::kill(pid_, number); }
  Served finish() {
    ::close(std::exchange(to_, -1));
    unsigned long long answers = 0;
    unsigned long long wrong = 1;
    unsigned long long deaths = 1;
    EXPECT_EQ(std::fscanf(from_, "%llu %llu %llu", &answers, &wrong, &deaths), 3);
    return {answers, wrong, deaths};
  }

 private:
  pid_t pid_ = -1;
  int to_ = -1;
  std::FILE* from_ = nullptr;
};

/// On an execution; pauses may be longer.
constexpr std::chrono::milliseconds kLimit = 600ms;

int run_controller() {
  Controller controller(quiet());
  const Service service =
      controller.load(plugin_path("faulty")).actor("Faulty").options(watchful(kLimit)).as_service();
  std::printf("r\n");
  std::fflush(stdout);
  std::atomic<bool> stop{false};
  std::thread end([&] {
    char ignored;
    while (::read(STDIN_FILENO, &ignored, 1) > 0) continue;
    stop = true;
  });
  const Served served = serve(service, stop);
  end.join();
  std::printf("%llu %llu %llu\n", static_cast<unsigned long long>(served.answers),
              static_cast<unsigned long long>(served.wrong),
              static_cast<unsigned long long>(served.deaths));
  std::fflush(stdout);
  return 0;
}

TEST(Fault, ControllerPaused) {
  auto random = tests::seeded();
  Child child;
  const int pauses = asked_for() >= 1min ? 1000 : 20;
  for (int i = 0; i < pauses; ++i) {
    // All are longer than the rate of looking, some than the limit on executions.
    const auto least = i % 10 == 0 ? kLimit : 5ms;
    child.signal(SIGSTOP);
    std::this_thread::sleep_for(least + std::chrono::milliseconds(tests::below(random, 60)));
    child.signal(SIGCONT);
    std::this_thread::sleep_for(std::chrono::milliseconds(tests::below(random, 40)));
  }
  const Served served = child.finish();
  EXPECT_GT(served.answers, 0U);
  EXPECT_EQ(served.wrong, 0U);
  EXPECT_EQ(served.deaths, 0U);
}

}  // namespace
}  // namespace forge::e2e

int main(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == "--controller") return forge::e2e::run_controller();
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
