// A running controller seen from outside, over its socket: what it answers, what it refuses, that it
// waits for nobody, and that it leaves nothing behind.
#include <dirent.h>
#include <grp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <cstring>
#include <future>
#include <optional>
#include <utility>

#include "control_client.h"
#include "core/statistics_segment.h"
#include "support.h"

namespace forge::e2e {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class Observe : public ::testing::Test {
 protected:
  Service serve(Options options) {
    return controller->load(plugin_path("faulty"))
        .actor("Faulty")
        .options(std::move(options))
        .as_service();
  }
  fs::path path() const { return runtime.socket(); }

  Runtime runtime;
  std::optional<Controller> controller{std::in_place, quiet()};
};

TEST_F(Observe, SaysWhoItIsAndWhatItServes) {
  const Service service = serve({.num_replicas = 2, .name = "two"});
  Client client(path());
  const Json hello = client.ask({{"command", "hello"}, {"id", 7}});
  EXPECT_EQ(hello["id"], 7);
  EXPECT_EQ(hello["controller"]["pid"], ::getpid());
  const Json services = client.ask({{"command", "services"}})["services"];
  ASSERT_EQ(services.size(), 1U) << "plugins that are being described are none";
  EXPECT_EQ(services[0]["name"], "two");
  EXPECT_EQ(services[0]["state"], "serving");
  EXPECT_EQ(services[0]["healthy"], 2);
  const Json unknown = client.ask({{"command", "reboot"}});
  EXPECT_EQ(unknown["ok"], false);
  EXPECT_THAT(unknown["message"].get<std::string>(), HasSubstr("reboot"));
}

TEST_F(Observe, CountsAsTheServiceDoes) {
  const Service service = serve({.name = "counted"});
  const auto echo = service.endpoint<std::int64_t(std::int64_t)>("echo");
  for (int i = 0; i < 50; ++i) value_of(echo.route(i));
  Client client(path());
  ASSERT_EQ(client.ask({{"command", "stats"}})["segment"], true);
  const auto reader = std::move(core::StatisticsReader::open(client.take_fd())).value();
  EXPECT_EQ(reader.pid(), ::getpid());
  const Json statistics = Json::parse(std::move(reader.read()).value());
  const Json& seen = statistics["services"][0];
  EXPECT_EQ(seen["name"], "counted");
  const auto summary = service.get_metrics_summary();
  EXPECT_EQ(seen["replicas"][0]["total_requests"], summary.replicas.at(0).total_requests);
  EXPECT_EQ(seen["replicas"][0]["pids"][0], service.replicas().at(0).pids.at(0));
  EXPECT_EQ(seen["replicas"][0]["p99_s"], summary.replicas.at(0).time.total.quantile(0.99));
  EXPECT_EQ(seen["arena_bytes"].get<std::size_t>() > 1'000'000, true);
  // It goes on being written while somebody watches.
  const auto before = reader.snapshots();
  EXPECT_TRUE(wait_until([&] { return reader.snapshots() >= before + 2; }));
}

TEST_F(Observe, WritesOnceHoweverManyWatchAndNotWhenNobodyDoes) {
  const Service service = serve({});
  std::optional<Client> first(path());
  std::optional<Client> second(path());
  first->ask({{"command", "stats"}});
  second->ask({{"command", "stats"}});
  const auto mine = std::move(core::StatisticsReader::open(first->take_fd())).value();
  const auto theirs = std::move(core::StatisticsReader::open(second->take_fd())).value();
  const auto count = theirs.snapshots();
  EXPECT_TRUE(wait_until([&] { return theirs.snapshots() > count; }));
  EXPECT_EQ(first->ask({{"command", "stats"}})["ok"], false) << "it has them";
  first.reset();
  const auto later = theirs.snapshots();
  EXPECT_TRUE(wait_until([&] { return theirs.snapshots() > later; })) << "one still watches";
  EXPECT_GE(mine.snapshots(), theirs.snapshots()) << "they are the same";
  second.reset();
  // A new one gets a segment of its own: the old one was given up when nobody watched.
  EXPECT_TRUE(wait_until([&] {
    Client third(path());
    third.ask({{"command", "stats"}});
    const auto now = std::move(core::StatisticsReader::open(third.take_fd())).value();
    return now.snapshots() < later;
  }));
}

/// Of this process's thread of that name.
long switches_of(const std::string& name) {
  for (const auto& task : fs::directory_iterator("/proc/self/task")) {
    std::ifstream comm(task.path() / "comm");
    std::string found;
    std::getline(comm, found);
    if (found != name) continue;
    std::ifstream status(task.path() / "status");
    for (std::string line; std::getline(status, line);) {
      if (line.starts_with("voluntary_ctxt_switches:")) return std::stol(line.substr(24));
    }
  }
  return -1;
}

TEST_F(Observe, CostsNothingWhileNobodyLooks) {
  const Service service = serve({.num_replicas = 2});
  { Client(path()).ask({{"command", "hello"}}); }
  long before = -1;
  // It has noticed that the client is gone when it does not wake up any more.
  ASSERT_TRUE(wait_until([&] {
    const long now = switches_of("forge-control");
    std::this_thread::sleep_for(300ms);
    before = switches_of("forge-control");
    return now >= 0 && now == before;
  }));
  const auto echo = service.endpoint<std::int64_t(std::int64_t)>("echo");
  const int pid = service.replicas().at(0).pids.at(0);
  for (int i = 0; i < 500; ++i) value_of(echo.route(i));
  ::kill(pid, SIGKILL);  // events happen, too
  EXPECT_TRUE(wait_restarted(service, 0, 1));
  EXPECT_EQ(switches_of("forge-control"), before);
}

TEST_F(Observe, TellsWhatHappens) {
  const Service service = serve({.name = "mortal", .restart = restart_at_once()});
  Client client(path());
  client.send({{"command", "events"}, {"follow", true}, {"last", 1000}, {"id", 1}});
  const int pid = service.replicas().at(0).pids.at(0);
  ::kill(pid, SIGKILL);
  std::vector<std::string> kinds;
  while (std::count(kinds.begin(), kinds.end(), "up") < 2) {
    const auto answer = client.next();
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ((*answer)["done"], false);
    for (const Json& event : (*answer)["events"]) {
      EXPECT_EQ(event["service"], "mortal") << event.dump();
      kinds.push_back(event["kind"]);
      if (event["kind"] == "died") {
        EXPECT_THAT(event["text"].get<std::string>(), HasSubstr(std::to_string(pid)));
      }
    }
  }
  EXPECT_EQ(kinds, (std::vector<std::string>{"up", "started", "died", "restarting", "up"}));
}

TEST_F(Observe, ScalesAndDrains) {
  Service service = serve({.name = "elastic", .max_replicas = 3});
  Client client(path());
  EXPECT_EQ(client.finish({{"command", "scale"}, {"service", "elastic"}, {"count", 3}})["ok"],
            true);
  EXPECT_EQ(service.replicas().size(), 3U);
  Json refused = client.finish({{"command", "scale"}, {"service", "elastic"}, {"count", 4}});
  EXPECT_EQ(refused["ok"], false);
  EXPECT_THAT(refused["message"].get<std::string>(), HasSubstr("1 to 3"));
  for (const Json& count : {Json(nullptr), Json(-1), Json("3"), Json(1e18), Json(2.5)}) {
    refused = client.finish({{"command", "scale"}, {"service", "elastic"}, {"count", count}});
    EXPECT_EQ(refused["ok"], false) << count;
  }
  refused = client.finish({{"command", "drain"}, {"service", "rubber"}});
  EXPECT_THAT(refused["message"].get<std::string>(), HasSubstr("elastic"));

  const auto echo = service.endpoint<std::int64_t(std::int64_t)>("echo");
  auto running = service.endpoint<void(std::int64_t)>("sleep_ms").route(300);
  EXPECT_EQ(client.finish({{"command", "drain"}, {"service", "elastic"}})["ok"], true);
  value_of(std::move(running));  // it finished
  EXPECT_EQ(outcome(await(echo.route(1))), "stopped");
}

TEST_F(Observe, SaysGoodbyeAndLeavesNothingBehind) {
  controller.reset();
  const Footprint before = Footprint::now();
  controller.emplace(quiet());
  std::optional<Service> service(serve({.name = "last"}));
  {
    Client watching(path());
    watching.ask({{"command", "stats"}});
    Client draining(path());
    draining.send({{"command", "events"}, {"follow", true}, {"last", 0}});
    draining.ask({{"command", "hello"}});  // in order: it has heard both
    controller->shutdown();
    EXPECT_FALSE(fs::exists(path()));
    EXPECT_EQ(watching.next().value_or(Json::object())["bye"], true);
    EXPECT_TRUE(watching.closed());
    // What happened at the end is told before.
    std::string last;
    while (const auto answer = draining.next()) {
      if (answer->contains("events"))
        for (const Json& event : (*answer)["events"]) last = event["kind"];
    }
    EXPECT_EQ(last, "stopped");
  }
  service.reset();
  controller.reset();
  EXPECT_TRUE(returns_to(before));
}

TEST_F(Observe, ClosesOnGarbageAndGoesOn) {
  const Service service = serve({});
  const std::string garbage[] = {
      std::string("\xFF\xFF\xFF\xFF", 4), "GET / HTTP/1.1\r\n\r\n",
      std::string("\x04\0\0\0null", 8),   std::string("\x0b\0\0\0{\"forge\":2}", 15),
      std::string(100'000, '\0'),
  };
  for (const std::string& bytes : garbage) {
    Client client(path());
    client.send_bytes(bytes);
    EXPECT_TRUE(client.closed());
  }
  { Client(path()).send_bytes(std::string("\x40\0\0\0{\"for", 9)); }  // leaves in mid-sentence
  std::mt19937_64 random(test_seed());
  for (int run = 0; run < 200; ++run) {
    Client client(path());
    std::string bytes(random() % 300, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    if (bytes.size() > 4) bytes[1] = bytes[2] = bytes[3] = 0;
    client.send_bytes(bytes);
  }
  // Those before us may not have been let go yet, and there is room for so many only.
  std::optional<Client> client;
  ASSERT_TRUE(wait_until([&] {
    client.emplace(path());
    return client->ask({{"command", "hello"}}).contains("ok");
  }));
  for (const Json& odd : {Json{{"command", 3}}, Json{{"command", nullptr}}, Json::object(),
                          Json{{"command", "stats"}, {"id", "text"}}, Json{{"command", "drain"}},
                          Json{{"command", "scale"}, {"service", Json::array()}}}) {
    EXPECT_TRUE(client->ask(odd).contains("ok")) << odd;
  }
  EXPECT_EQ(value_of(service.endpoint<std::int64_t(std::int64_t)>("echo").route(5)), 5);
}

TEST_F(Observe, DropsWhoDoesNotRead) {
  const Service service = serve({});
  Client slow(path());
  core::FrameWriter out;
  // Answers of a megabyte and more, which nobody fetches.
  const fs::path where = path();
  shm::FileDescriptor socket = std::move(core::connect_to(where)).value();
  EXPECT_TRUE(wait_until([&] {
    out.push({{"command", "services"}});
    return out.flush(socket.get()) == core::FrameWriter::Sent::failed;
  })) << "it is dropped";
  EXPECT_EQ(slow.ask({{"command", "hello"}})["ok"], true) << "others are not";
}

TEST_F(Observe, HasRoomForSoManyOnly) {
  std::vector<std::unique_ptr<Client>> clients;
  bool refused = false;
  for (int i = 0; i < 64 && !refused; ++i) {
    clients.push_back(std::make_unique<Client>(path()));
    clients.back()->send({{"command", "hello"}});
    refused = clients.back()->closed();
  }
  EXPECT_TRUE(refused);
  EXPECT_EQ(clients.front()->ask({{"command", "hello"}})["ok"], true);
  clients.clear();
  EXPECT_TRUE(wait_until([&] {
    Client client(path());
    client.send({{"command", "hello"}});
    return !client.closed();
  }));
}

TEST_F(Observe, WhoSaysNothingMakesRoom) {
  std::vector<std::unique_ptr<Client>> silent;
  for (int i = 0; i < 64; ++i) silent.push_back(std::make_unique<Client>(path()));
  Client client(path());
  EXPECT_EQ(client.ask({{"command", "hello"}})["ok"], true);
}

TEST_F(Observe, RefusesAnotherUser) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can become somebody else";
  const std::string name = path();
  const auto as_nobody = [&] {
    const pid_t child = ::fork();
    if (child == 0) {
      constexpr uid_t kNobody = 65534;
      if (::setgroups(0, nullptr) != 0 || ::setresgid(kNobody, kNobody, kNobody) != 0 ||
          ::setresuid(kNobody, kNobody, kNobody) != 0)
        ::_exit(90);
      sockaddr_un address{};
      address.sun_family = AF_UNIX;
      std::memcpy(address.sun_path, name.c_str(), name.size() + 1);
      const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
      if (::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) ::_exit(1);
      const std::string text = R"({"forge":1,"command":"hello"})";
      const std::string hello =
          std::string(1, static_cast<char>(text.size())) + std::string(3, '\0') + text;
      (void)!::send(fd, hello.data(), hello.size(), MSG_NOSIGNAL);
      char byte = 0;
      ::_exit(::recv(fd, &byte, 1, 0) > 0 ? 0 : 2);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  };
  EXPECT_EQ(as_nobody(), 1) << "the folder keeps him out";
  for (const std::string& folder : {runtime.folder.file(""), runtime.folder.file("forge")})
    ASSERT_EQ(::chmod(folder.c_str(), 0711), 0);
  ASSERT_EQ(::chmod(name.c_str(), 0666), 0);
  EXPECT_EQ(as_nobody(), 2) << "and so does the controller";
}

TEST_F(Observe, IsOptional) {
  controller.reset();
  ControllerOptions options = quiet();
  options.observable = false;
  controller.emplace(std::move(options));
  EXPECT_FALSE(fs::exists(path()));
  EXPECT_EQ(switches_of("forge-control"), -1) << "there is no thread for it";
}

TEST_F(Observe, IsNoConditionForServing) {
  controller.reset();
  const std::string deep = runtime.folder.file(std::string(100, 'x'));
  ASSERT_EQ(::mkdir(deep.c_str(), 0700), 0);
  ::setenv("XDG_RUNTIME_DIR", deep.c_str(), 1);  // a socket's name cannot be so long
  ControllerOptions options;
  std::promise<std::string> first;
  options.on_log = [&, told = false](LogLevel, std::string_view text) mutable {
    if (!std::exchange(told, true)) first.set_value(std::string(text));
  };
  controller.emplace(std::move(options));
  EXPECT_THAT(first.get_future().get(), HasSubstr("forge command"));
  const Service service = serve({});
  EXPECT_EQ(value_of(service.endpoint<std::int64_t(std::int64_t)>("echo").route(5)), 5);
}

TEST_F(Observe, AForkedChildLeavesTheSocketToItsParent) {
  const pid_t child = ::fork();
  if (child == 0) {
    controller->shutdown();
    controller.reset();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(Client(path()).ask({{"command", "hello"}})["ok"], true);
}

}  // namespace
}  // namespace forge::e2e
