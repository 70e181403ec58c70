// What workers print comes out of this program, whole lines with the worker's name in front.
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <future>
#include <map>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "support.h"

namespace forge::e2e {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsSupersetOf;
using Lines = std::vector<std::string>;

/// Redirects one of our own descriptors, as long as it lives.
class Redirected {
 public:
  Redirected(int fd, int to) : fd_(fd), saved_(::fcntl(fd, F_DUPFD_CLOEXEC, 100)) {
    std::fflush(nullptr);
    ::dup2(to, fd);
  }
  Redirected(const Redirected&) = delete;
  Redirected& operator=(const Redirected&) = delete;
  ~Redirected() {
    std::fflush(nullptr);
    ::dup2(saved_, fd_);
    ::close(saved_);
  }

 private:
  int fd_;
  int saved_;
};

/// Redirects it into a file.
class Captured {
 public:
  explicit Captured(int fd) : path_(folder_.file("output")) {
    const int file = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    redirected_.emplace(fd, file);
    ::close(file);
  }
  Lines lines() const {
    std::ifstream file(path_);
    Lines result;
    for (std::string line; std::getline(file, line);) result.push_back(line);
    return result;
  }
  /// Without the prefix, those of one worker.
  Lines lines_of(const std::string& worker) const {
    const std::string prefix = "[" + worker + "] ";
    Lines result;
    for (const std::string& line : lines()) {
      if (line.starts_with(prefix)) result.push_back(line.substr(prefix.size()));
    }
    return result;
  }
  bool ends_with_newline() const {
    std::ifstream file(path_);
    std::stringstream all;
    all << file.rdbuf();
    return all.str().ends_with('\n');
  }

 private:
  TemporaryFolder folder_;
  std::string path_;
  std::optional<Redirected> redirected_;
};

class OutputTest : public ::testing::Test {
 protected:
  using Print = void(const std::string&);
  using Write = void(std::int64_t, const std::string&);

  Service talk(Options options = {}) {
    options.name = "talk";
    options.restart = restart_at_once();
    return talker.actor("Talker").options(options).as_service();
  }
  static void everywhere(const Service& service, std::int64_t fd, const std::string& text) {
    for (auto& one : value_of(service.endpoint<Write>("write").fanout(fd, text)))
      EXPECT_EQ(outcome(one), "ok");
  }

  Controller controller{quiet()};
  Plugin talker = controller.load(plugin_path("talker"));
};

TEST_F(OutputTest, EveryRankOfEveryReplicaHasItsName) {
  const Captured out(STDOUT_FILENO);
  const Captured err(STDERR_FILENO);
  Service service = talk({.procs = 2, .num_replicas = 2});
  everywhere(service, STDERR_FILENO, "to stderr\n");
  service.shutdown();
  const Lines expected_out{"[talk/0.0] ready", "[talk/0.1] ready", "[talk/1.0] ready",
                           "[talk/1.1] ready"};
  EXPECT_THAT(out.lines(), ::testing::UnorderedElementsAreArray(expected_out));
  const Lines expected_err{"[talk/0.0] to stderr", "[talk/0.1] to stderr", "[talk/1.0] to stderr",
                           "[talk/1.1] to stderr"};
  EXPECT_THAT(err.lines(), ::testing::UnorderedElementsAreArray(expected_err));
}

TEST_F(OutputTest, ASpareGoesByTheNameOfTheReplicaItBecomes) {
  const Captured out(STDOUT_FILENO);
  const Service service = talk({.spares = 1});
  ASSERT_TRUE(wait_until([&] { return out.lines_of("talk/spare0.0") == Lines{"ready"}; }));
  kill_and_wait(pids_of(service).at(0));
  ASSERT_TRUE(wait_restarted(service, 0, 1));
  value_of(service.endpoint<Print>("print").route("mine\n"));
  EXPECT_TRUE(wait_until([&] {
    return out.lines_of("talk/0.0") == Lines{"ready", "mine"};
  })) << ::testing::PrintToString(out.lines());
}

TEST_F(OutputTest, AWholeLineIsSeenWhileTheWorkerLives) {
  const Captured out(STDOUT_FILENO);
  const Service service = talk();
  value_of(service.endpoint<Print>("print").route("a line\nand a piece"));
  EXPECT_TRUE(wait_until([&] { return out.lines_of("talk/0.0") == Lines{"ready", "a line"}; }));
}

TEST_F(OutputTest, PiecesArePutTogetherAndTheLastOneIsEnded) {
  const Captured out(STDOUT_FILENO);
  Service service = talk();
  for (const char* piece : {"one ", "line\n\n\n[in] brackets", "\n", "without an end"})
    everywhere(service, STDOUT_FILENO, piece);
  service.shutdown();
  EXPECT_THAT(out.lines_of("talk/0.0"),
              ElementsAre("ready", "one line", "", "", "[in] brackets", "without an end"));
  EXPECT_TRUE(out.ends_with_newline());
}

TEST_F(OutputTest, AVeryLongLineIsCut) {
  constexpr std::size_t kLongest = 64 * 1024;
  const Captured out(STDOUT_FILENO);
  Service service = talk();
  const std::string exact(kLongest, 'x');
  everywhere(service, STDOUT_FILENO, exact + exact + "rest\n" + exact + "\n" + "short\n");
  service.shutdown();
  EXPECT_EQ(out.lines_of("talk/0.0"), (Lines{"ready", exact, exact, "rest", exact, "short"}));
}

TEST_F(OutputTest, ABurstFromSeveralRanksIsWhole) {
  constexpr std::int64_t kLines = 10'000;
  std::map<std::string, Lines> streams[2];
  {
    const Captured out(STDOUT_FILENO);
    const Captured err(STDERR_FILENO);
    Service service = talk({.procs = 2, .num_replicas = 2});
    for (auto& one : value_of(service.endpoint<void(std::int64_t)>("burst").fanout(kLines)))
      EXPECT_EQ(outcome(one), "ok");
    service.shutdown();
    EXPECT_EQ(out.lines().size(), 4 * (kLines / 2 + 1));  // with "ready"
    EXPECT_EQ(err.lines().size(), 4 * (kLines / 2));
    for (const char* worker : {"talk/0.0", "talk/0.1", "talk/1.0", "talk/1.1"}) {
      streams[0][worker] = out.lines_of(worker);
      streams[1][worker] = err.lines_of(worker);
    }
  }
  for (int stream = 0; stream < 2; ++stream) {
    Lines expected;
    if (stream == 0) expected.push_back("ready");
    for (std::int64_t i = stream; i < kLines; i += 2)
      expected.push_back(std::to_string(i) + " " + std::string(i % 120, '.'));
    for (const auto& [worker, lines] : streams[stream])
      EXPECT_TRUE(lines == expected) << worker << " on " << stream + 1;
  }
}

TEST_F(OutputTest, LastWordsComeOut) {
  const Captured err(STDERR_FILENO);
  Service service = talk();
  for (std::uint64_t life = 1; life <= 3; ++life) {
    const std::string words = "assertion " + std::to_string(life) + " failed\nand this unended";
    const auto died = await(service.endpoint<Print>("last_words").route(words));
    EXPECT_EQ(outcome(died), "worker_lost");
    ASSERT_TRUE(wait_restarted(service, 0, life));
  }
  service.shutdown();
  EXPECT_THAT(err.lines_of("talk/0.0"),
              IsSupersetOf(Lines{"assertion 1 failed", "and this unended", "assertion 2 failed",
                                 "assertion 3 failed"}));
}

TEST_F(OutputTest, ForgeWorkersOwnMessagesTakeTheSameWay) {
  const TemporaryFolder folder;
  const std::string script = folder.file("worker");
  std::ofstream(script) << "#!/bin/sh\necho a script\nexec " << std::getenv("FORGE_PLUGIN_DIR")
                        << "/forge-worker\n";
  std::filesystem::permissions(script, std::filesystem::perms::owner_all);
  const Captured out(STDOUT_FILENO);
  const Captured err(STDERR_FILENO);
  ControllerOptions options = quiet();
  options.worker_path = script;
  Controller other(options);
  EXPECT_THROW((void)other.load(plugin_path("talker")), Error);
  EXPECT_THAT(out.lines_of("describe libtalker.so/0.0"), ElementsAre("a script"));
  EXPECT_THAT(
      err.lines_of("describe libtalker.so/0.0"),
      ElementsAre(HasSubstr("forge-worker: this program is started by a forge controller")));
}

TEST_F(OutputTest, NothingIsKeptForWorkersThatAreGone) {
  const Footprint before = Footprint::now();
  {
    const Service service = talk({.procs = 2});
    // All that one life holds, and what is prepared for the next.
    ASSERT_TRUE(wait_until([&] { return Footprint::now().segments >= before.segments + 9; }));
    const Footprint serving = Footprint::now();
    for (std::uint64_t life = 1; life <= 5; ++life) {
      kill_and_wait(pids_of(service).at(life % 2));
      ASSERT_TRUE(wait_restarted(service, 0, life));
    }
    EXPECT_TRUE(returns_to(serving));
  }
  EXPECT_TRUE(returns_to(before));
}

TEST_F(OutputTest, AProcessThatAWorkerLeftBehindIsNotWaitedFor) {
  const Footprint before = Footprint::now();
  std::int64_t child = 0;
  {
    const Captured out(STDOUT_FILENO);
    const Service service = talk();
    child = value_of(service.endpoint<std::int64_t()>("leave_child").route());
    EXPECT_TRUE(wait_until([&] {
      const Lines lines = out.lines_of("talk/0.0");
      return std::count(lines.begin(), lines.end(), "child") >= 3;
    }));
  }
  EXPECT_TRUE(returns_to(before));
  ::kill(static_cast<pid_t>(child), SIGKILL);
}

/// A pipe that is full and that nobody reads, in the place of one of our own descriptors.
class Stuck {
 public:
  explicit Stuck(int fd) {
    if (::pipe2(ends_, O_CLOEXEC) != 0) throw std::runtime_error("pipe2 failed");
    const std::string block(4096, '-');
    ::fcntl(ends_[1], F_SETFL, O_NONBLOCK);
    while (::write(ends_[1], block.data(), block.size()) > 0) continue;
    ::fcntl(ends_[1], F_SETFL, 0);
    redirected_.emplace(fd, ends_[1]);
  }
  ~Stuck() {
    ::close(ends_[0]);  // whoever still writes is done
    redirected_.reset();
    ::close(ends_[1]);
  }
  /// Reads until `text` has come, and gives all that came.
  std::string read_until(const std::string& text) const {
    std::string all;
    std::vector<char> buffer(65536);
    while (all.find(text) == std::string::npos) {
      pollfd readable{ends_[0], POLLIN, 0};
      if (::poll(&readable, 1, 45'000) != 1) break;
      all.append(buffer.data(),
                 static_cast<std::size_t>(::read(ends_[0], buffer.data(), buffer.size())));
    }
    return all;
  }

 private:
  int ends_[2] = {-1, -1};
  std::optional<Redirected> redirected_;
};

/// In time, or a failed test that hangs: it cannot be given up.
template <class F>
void ends(const char* what, F f) {
  std::promise<void> done;
  auto future = done.get_future();
  std::thread thread([&] {
    f();
    done.set_value();
  });
  EXPECT_EQ(future.wait_for(kPatience), std::future_status::ready) << what << " hangs";
  thread.join();
}

TEST_F(OutputTest, AStdoutThatNobodyReadsHoldsUpNoCall) {
  const Stuck out(STDOUT_FILENO);
  Service service = talk({.num_replicas = 2});
  const auto print = service.endpoint<Print>("print");
  // More than all pipes and queues on the way hold.
  std::string lines;
  while (lines.size() < 4'000'000) lines += std::string(99, 'x') + "\n";
  for (auto& one : value_of(print.fanout(lines))) EXPECT_EQ(outcome(one), "ok");
  EXPECT_EQ(outcome(await(print.route("and this\n"))), "ok");
  kill_and_wait(service.replicas().at(1).pids.at(0));
  EXPECT_TRUE(wait_restarted(service, 1, 1));
  ends("shutdown of a service", [&] { service.shutdown(); });
  EXPECT_THAT(out.read_until("lines were dropped here"), HasSubstr("[talk/0.0] xxx"));
  service = talk();
  value_of(service.endpoint<Print>("print").route("it is read again\n"));
  out.read_until("[talk/0.0] it is read again");
}

TEST_F(OutputTest, AStandardErrorThatNobodyReadsHoldsUpNothing) {
  const Stuck err(STDERR_FILENO);
  ControllerOptions options;
  options.log_level = LogLevel::debug;
  Controller loud(options);
  const auto start = [&] {
    return loud.load(plugin_path("faulty"))
        .actor("Faulty")
        .options({.num_replicas = 2, .restart = restart_at_once()})
        .as_service();
  };
  using Echo = std::int64_t(std::int64_t);
  Service service = start();
  for (std::uint64_t life = 1; life <= 3; ++life) {
    kill_and_wait(service.replicas().at(0).pids.at(0));
    ASSERT_TRUE(wait_restarted(service, 0, life));
    EXPECT_EQ(outcome(await(service.endpoint<Echo>("echo").with({.timeout = 20s}).route(1))), "ok");
  }
  ends("shutdown of a service", [&] { service.shutdown(); });
  ends("shutdown of a controller", [&] { loud.shutdown(); });
  Controller second(options);  // the thread of the first one still waits
  ends("shutdown of a second controller", [&] { second.shutdown(); });
}

/// A program whose controller still lives when it ends, with threads that hang in their writes.
[[noreturn]] void end_with_a_full_standard_error() {
  static const Stuck err(STDERR_FILENO);
  ControllerOptions options;
  options.log_level = LogLevel::debug;
  static Controller loud(options);
  const Service service = loud.load(plugin_path("talker")).actor("Talker").as_service();
  value_of(service.endpoint<void(std::int64_t)>("burst").route(100));
  std::exit(0);  // NOLINT(concurrency-mt-unsafe): that is what is tested
}

TEST(OutputDeathTest, AProgramEndsThoughNobodyReadsItsStandardError) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(end_with_a_full_standard_error(), ::testing::ExitedWithCode(0), "");
}

TEST_F(OutputTest, ASlowReaderMissesNothing) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  std::size_t taken = 0;
  std::thread reader;
  {
    const Redirected out(STDOUT_FILENO, ends[1]);
    ::close(ends[1]);
    Service service = talk();
    auto printed = service.endpoint<Print>("print").route(std::string(3'000'000, 'x') + "\n");
    reader = std::thread([&] {
      std::vector<char> buffer(65536);
      for (ssize_t n; (n = ::read(ends[0], buffer.data(), buffer.size())) > 0;) {
        taken += static_cast<std::size_t>(std::count(buffer.begin(), buffer.begin() + n, 'x'));
        std::this_thread::sleep_for(10ms);
      }
    });
    EXPECT_EQ(outcome(await(std::move(printed))), "ok");
    service.shutdown();
  }
  reader.join();
  ::close(ends[0]);
  EXPECT_EQ(taken, 3'000'000U);
}

TEST_F(OutputTest, AClosedStdoutHarmsNobody) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const Redirected out(STDOUT_FILENO, ends[1]);
  ::close(ends[0]);  // writing would raise SIGPIPE
  ::close(ends[1]);
  Service service = talk();
  everywhere(service, STDOUT_FILENO, "nobody hears this\n");
  service.shutdown();
}

}  // namespace
}  // namespace forge::e2e
