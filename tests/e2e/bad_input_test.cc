// Bad input: each piece gives one typed error that names the thing and the remedy, and leaves
// nothing behind. Whatever can be given to a controller, an actor or a call.
#include <fcntl.h>
#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <string>
#include <thread>

#include "payloads.h"
#include "shm/segment.h"
#include "support.h"

namespace forge::e2e {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

/// Every test starts with a controller that has loaded something once, and ends with that and
/// nothing else.
class BadInput : public ::testing::Test {
 protected:
  void SetUp() override { before_ = Footprint::now(); }
  void TearDown() override {
    EXPECT_TRUE(returns_to(before_));
    // And everything still works.
    const Service counter = counters.actor("Counter").as_service(3);
    EXPECT_EQ(value_of(counter.endpoint<std::int64_t()>("value").route()), 3);
  }

  /// Every way to start one refuses it, in the same words. How much memory is available is another
  /// number each time it is read, so numbers are not compared.
  template <class E>
  std::string refused(Options options) {
    const auto factory = counters.actor("Counter").options(std::move(options));
    const std::string text = message_of<E>([&] { factory.as_service(0); });
    EXPECT_EQ(words_of(message_of<E>([&] { factory.as_actor(0); })), words_of(text));
    EXPECT_EQ(words_of(error_of<E>(factory.as_service_async(0))), words_of(text));
    EXPECT_THAT(text, HasSubstr("Counter"));
    return text;
  }
  static std::string words_of(std::string text) {
    std::erase_if(text, [](unsigned char c) { return std::isdigit(c) != 0; });
    return text;
  }
  std::string not_loaded(const std::string& path) {
    const std::string text = message_of<PluginError>([&] { controller.load(path); });
    EXPECT_THAT(text, HasSubstr(std::filesystem::path(path).filename().string()));
    return text;
  }

  TemporaryFolder folder;
  Controller controller{quiet()};
  Plugin counters = controller.load(plugin_path("counter"));

 private:
  Footprint before_;
};
using Fault = BadInput;

// ---- plugins

TEST_F(Fault, PluginMissing) {
  EXPECT_THAT(not_loaded("/nowhere/libmissing.so"),
              AllOf(HasSubstr("does not exist"), HasSubstr("check the path")));
  EXPECT_THAT(not_loaded("libmissing.so"), HasSubstr("does not exist"));
  EXPECT_THAT(message_of<PluginError>([&] { controller.load(""); }), HasSubstr("self()"));
  std::ofstream(folder.file("text.so")) << "not a shared object";
  EXPECT_THAT(not_loaded(folder.file("text.so")),
              AllOf(HasSubstr("cannot be opened"), HasSubstr("shared object")));
  std::ofstream(folder.file("empty.so"));
  not_loaded(folder.file("empty.so"));
  std::filesystem::create_directory(folder.file("folder.so"));
  EXPECT_THAT(not_loaded(folder.file("folder.so")), HasSubstr("is a directory"));
  std::filesystem::create_symlink("/nowhere", folder.file("dangling.so"));
  not_loaded(folder.file("dangling.so"));
  not_loaded("/dev/null");
  not_loaded(std::string(250, 'x') + ".so");
  // Half of a good one.
  std::filesystem::copy_file(plugin_path("counter"), folder.file("half.so"));
  std::filesystem::resize_file(folder.file("half.so"), 5000);
  not_loaded(folder.file("half.so"));
}

TEST_F(Fault, PluginOfAWrongAbi) {
  EXPECT_THAT(not_loaded(plugin_path("wrong_abi")),
              AllOf(HasSubstr("ABI"), HasSubstr("build it again")));
  EXPECT_THAT(not_loaded(plugin_path("wrong_layout")), HasSubstr("build it again"));
  EXPECT_THAT(not_loaded(plugin_path("no_symbol")), HasSubstr("FORGE_PLUGIN"));
  not_loaded(plugin_path("register_throws"));
  EXPECT_THAT(not_loaded(plugin_path("unresolved")), HasSubstr("linked with all it needs"));
}

TEST_F(BadInput, UnreadablePlugins) {
  const std::string path = folder.file("secret.so");
  std::filesystem::copy_file(plugin_path("counter"), path);
  std::filesystem::permissions(path, std::filesystem::perms::none);
  if (::access(path.c_str(), R_OK) == 0) GTEST_SKIP() << "this user may read everything";
  EXPECT_THAT(not_loaded(path), HasSubstr("ermission"));
}

TEST_F(BadInput, PluginsThatOthersCouldChange) {
  const std::string path = folder.file("open.so");
  std::filesystem::copy_file(plugin_path("counter"), path);
  const Plugin before = controller.load(path);
  ASSERT_EQ(::chmod(path.c_str(), 0777), 0);
  const auto says_so = AllOf(HasSubstr("chmod go-w " + path), HasSubstr("trust_plugins"));
  EXPECT_THAT(not_loaded(path), says_so);
  // Nor does it serve any more.
  EXPECT_THAT(message_of<PluginError>([&] { before.actor("Counter").as_service(1); }), says_so);

  ControllerOptions options = quiet();
  options.trust_plugins = true;
  Controller trusting(options);
  const Service service = trusting.load(path).actor("Counter").as_service(7);
  EXPECT_EQ(value_of(service.endpoint<std::int64_t()>("value").route()), 7);
}

TEST_F(BadInput, UnknownActors) {
  EXPECT_THAT(message_of<UnknownActor>([&] { (void)counters.actor("Kounter"); }),
              AllOf(HasSubstr("'Kounter'"), HasSubstr("Counter"), HasSubstr("libcounter.so")));
  EXPECT_THROW((void)counters.actor(""), UnknownActor);
}

TEST_F(BadInput, ThisProgramsOwnActorsWithoutInit) {
  EXPECT_THAT(message_of<InvalidArgument>([&] { controller.self(); }), HasSubstr("forge::init"));
}

// ---- constructor arguments

TEST_F(BadInput, ConstructorArguments) {
  const auto counter = counters.actor("Counter");
  const auto mismatch = [&](const std::function<void()>& start) {
    const std::string text = message_of<SignatureMismatch>(start);
    EXPECT_THAT(text, AllOf(HasSubstr("'Counter'"), HasSubstr("(i64)")));
    return text;
  };
  EXPECT_THAT(mismatch([&] { counter.as_service(); }), HasSubstr("()"));
  EXPECT_THAT(mismatch([&] { counter.as_service(1, 2); }), HasSubstr("(i32, i32)"));
  EXPECT_THAT(mismatch([&] { counter.as_service("one"); }), HasSubstr("(str)"));
  EXPECT_THAT(mismatch([&] { counter.as_service(1.0); }), HasSubstr("(f64)"));
  EXPECT_THAT(mismatch([&] { counter.as_actor(std::vector<int>{1}); }), HasSubstr("([i32])"));
  EXPECT_THAT(error_of<SignatureMismatch>(counter.as_service_async()), HasSubstr("()"));
  EXPECT_THAT(message_of<InvalidArgument>([&] { counter.as_service(UINT64_MAX); }),
              HasSubstr("Counter"));
}

TEST_F(Fault, ConstructorThrows) {
  const Plugin faulty = controller.load(plugin_path("faulty"));
  for (const char* actor : {"FaultyConstructor", "FaultySetup"}) {
    const auto start = [&](const std::string& fault) {
      return [&, fault] { faulty.actor(actor).as_service(fault, 7, ""); };
    };
    EXPECT_THAT(message_of<ActorError>(start("throw")),
                AllOf(HasSubstr("faulty on demand"), HasSubstr(actor), HasSubstr("replica 0")));
    EXPECT_THAT(message_of<ActorError>(start("throw_int")), HasSubstr(actor));
    EXPECT_THAT(message_of<WorkerLost>(start("exit")), HasSubstr("7"));
    EXPECT_THAT(message_of<WorkerLost>(start("abort")), HasSubstr("signal 6"));
    EXPECT_THAT(message_of<WorkerLost>(start("kill")), HasSubstr("signal 9"));
    EXPECT_THROW(faulty.actor(actor).options({.procs = 3}).as_actor("throw", 7, ""), ActorError);
    EXPECT_THAT(
        message_of<DeadlineExceeded>([&] {
          faulty.actor(actor).options({.start_timeout = 100ms}).as_service("sleep", 60'000, "");
        }),
        AllOf(HasSubstr("start_timeout"), HasSubstr(actor)));
  }
}

// ---- options

TEST_F(BadInput, NumbersOfProcessesAndReplicas) {
  EXPECT_THAT(refused<InvalidArgument>({.procs = 0}), HasSubstr("procs is 0"));
  EXPECT_THAT(refused<InvalidArgument>({.procs = -3}), HasSubstr("procs is -3"));
  EXPECT_THAT(refused<InvalidArgument>({.num_replicas = 0}), HasSubstr("num_replicas is 0"));
  EXPECT_THAT(refused<InvalidArgument>({.name = "Counter\xFF"}),
              AllOf(HasSubstr("no UTF-8"), HasSubstr("Options::name")));
  EXPECT_THAT(refused<InvalidArgument>({.replica_max_concurrent_requests = 0}),
              HasSubstr("replica_max_concurrent_requests"));
  EXPECT_THAT(refused<InvalidArgument>({.max_queued_requests = 0}),
              HasSubstr("max_queued_requests"));
  EXPECT_THAT(refused<InvalidArgument>({.procs = 100'000}), HasSubstr("procs"));
  ASSERT_FALSE(HasFailure()) << "the next one could start thousands of processes";
  EXPECT_THAT(refused<InvalidArgument>({.num_replicas = 100'000}), HasSubstr("num_replicas"));
}

TEST_F(BadInput, MoreThanOneHost) {
  EXPECT_THAT(refused<NotSupported>({.hosts = 2}),
              AllOf(HasSubstr("one host"), HasSubstr("2 hosts"), HasSubstr("controller on each")));
  EXPECT_THAT(refused<InvalidArgument>({.hosts = 0}), HasSubstr("hosts is 0"));
  const Service one = counters.actor("Counter").options({.hosts = 1}).as_service(0);
  EXPECT_EQ(value_of(one.endpoint<std::int64_t()>("value").route()), 0);
}

TEST_F(BadInput, GpusThatAreNotThere) {
  EXPECT_THAT(refused<InsufficientGpus>({.procs = 8, .num_replicas = 8, .with_gpus = true}),
              AllOf(HasSubstr("64 devices"), HasSubstr("num_replicas")));
}

TEST_F(Fault, NotEnoughMemoryForSharedFiles) {
  EXPECT_THAT(refused<InvalidArgument>({.arena_bytes = 0}), HasSubstr("arena_bytes is 0"));
  EXPECT_THAT(refused<InvalidArgument>({.arena_bytes = 1000}), HasSubstr("262144"));
  const std::size_t memory = shm::available_memory();
  const std::size_t too_much = memory + (memory / 4);
  EXPECT_THAT(refused<Unavailable>({.arena_bytes = too_much}),
              AllOf(HasSubstr("bytes"), HasSubstr("available"), HasSubstr("arena_bytes")));
  refused<Unavailable>({.arena_bytes = std::size_t{1} << 60});
  EXPECT_THAT(message_of<Unavailable>([&] {
                counters.actor("Counter")
                    .options({.arena_bytes = std::numeric_limits<std::size_t>::max()})
                    .as_service(0);
              }),
              HasSubstr("arena"));
}

TEST_F(BadInput, CoresThatAreNotThere) {
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  EXPECT_THAT(refused<InvalidArgument>({.cpus = {0, cores}}),
              AllOf(HasSubstr("core " + std::to_string(cores)), HasSubstr("0 to")));
  EXPECT_THAT(refused<InvalidArgument>({.cpus = {-1}}), HasSubstr("core -1"));
  for (const int core : {-1, cores, 100'000}) {
    ControllerOptions options = quiet();
    options.cpus = {core};
    EXPECT_THAT(message_of<InvalidArgument>([&] { Controller{options}; }),
                HasSubstr(std::to_string(core)));
  }
}

TEST_F(BadInput, TimesThatAreNone) {
  EXPECT_THAT(refused<InvalidArgument>({.start_timeout = 0s}), HasSubstr("start_timeout"));
  EXPECT_THAT(refused<InvalidArgument>({.start_timeout = -1s}), HasSubstr("start_timeout"));
  EXPECT_THAT(refused<InvalidArgument>({.health_poll_rate = 0s}), HasSubstr("health_poll_rate"));
  EXPECT_THAT(refused<InvalidArgument>({.restart = {.backoff_initial = -1s}}),
              HasSubstr("restart"));
  EXPECT_THAT(refused<InvalidArgument>({.restart = {.max_deaths = -1}}), HasSubstr("restart"));
  const Service counter = counters.actor("Counter")
                              .options({.start_timeout = std::chrono::nanoseconds::max()})
                              .as_service(0);
  EXPECT_EQ(value_of(counter.endpoint<std::int64_t()>("value").route()), 0);
}

TEST_F(BadInput, ReplicasWithoutBounds) {
  EXPECT_THAT(refused<InvalidArgument>({.autoscaling = {.enabled = true}}),
              HasSubstr("max_replicas"));
  refused<InvalidArgument>({.spares = -1});
}

TEST_F(BadInput, RoutersThatNobodyKnows) {
  EXPECT_THAT(message_of<UnknownEndpoint>([&] {
                counters.actor("Counter")
                    .options({.routers = {{"valeu", std::make_shared<RoundRobinRouter>()}}})
                    .as_service(0);
              }),
              AllOf(HasSubstr("'valeu'"), HasSubstr("'Counter'")));
  EXPECT_THROW(counters.actor("Counter").options({.routers = {{"value", nullptr}}}).as_service(0),
               Error);
}

TEST_F(BadInput, RouterFactoriesThatGiveNone) {
  struct Strange {};
  const auto with = [&](const char* name, std::function<std::shared_ptr<Router>()> factory) {
    controller.register_router(name, std::move(factory));
    return refused<InvalidArgument>({.endpoints = {{"value", {.router = name}}}});
  };
  EXPECT_THAT(with("null", [] { return nullptr; }), AllOf(HasSubstr("'null'"), HasSubstr("none")));
  EXPECT_THAT(
      with("throws", []() -> std::shared_ptr<Router> { throw std::runtime_error("no map"); }),
      AllOf(HasSubstr("'throws'"), HasSubstr("no map")));
  EXPECT_THAT(with("strange", []() -> std::shared_ptr<Router> { throw Strange(); }),
              HasSubstr("'strange'"));
  controller.register_router("closed",
                             []() -> std::shared_ptr<Router> { throw Unavailable("on Sundays"); });
  EXPECT_THAT(refused<Unavailable>({.endpoints = {{"value", {.router = "closed"}}}}),
              HasSubstr("on Sundays"));
  // A factory may use its controller.
  controller.register_router("curious", [&] {
    (void)controller.metrics_address();
    controller.register_router("another", [] { return std::make_shared<RoundRobinRouter>(); });
    return std::make_shared<RoundRobinRouter>();
  });
  const Service service = counters.actor("Counter")
                              .options({.endpoints = {{"value", {.router = "curious"}}}})
                              .as_service(3);
  EXPECT_EQ(value_of(service.endpoint<std::int64_t()>("value").route()), 3);
}

/// Whatever a start is refused for, it leaves nothing behind, however often.
TEST_F(BadInput, RefusedStartsKeepNothing) {
  const Plugin large = controller.load(plugin_path("payloads"));
  const Plugin faulty = controller.load(plugin_path("faulty"));
  const std::shared_ptr<Router> none;
  const std::vector<std::function<void()>> starts{
      [&] {  // constructor arguments larger than the arena
        large.actor("Built")
            .options({.arena_bytes = 256 * 1024})
            .as_service(std::int8_t{1}, 1.0, "text", payloads::Everything{},
                        Tensor(DType::u8, {1 << 20}));
      },
      [&] {
        counters.actor("Counter").options({.routers = {{"valeu", none}}}).as_service(0);
      },
      [&] {
        counters.actor("Counter")
            .options({.endpoints = {{"add", {.batch_size = 257}}}})
            .as_service(0);
      },
      [&] { counters.actor("Counter").options({.with_gpus = true}).as_service(0); },
      [&] {
        faulty.actor("FaultySetup").options({.start_timeout = 1ms}).as_service("sleep", 60'000, "");
      },
      [&] {
        counters.actor("Counter").options({.arena_bytes = std::size_t{1} << 50}).as_service(0);
      },
      [&] { faulty.actor("FaultySetup").as_service("throw", 0, ""); },
      [&] { faulty.actor("FaultyConstructor").options({.procs = 2}).as_service("exit", 3, ""); },
      [&] { faulty.actor("FaultyConstructor").as_actor("throw_int", 3, ""); },
  };
  for (std::size_t i = 0; i < starts.size(); ++i) {
    const Footprint before = Footprint::now();
    for (int times = 0; times < 5; ++times) EXPECT_THROW(starts[i](), Error) << "start " << i;
    EXPECT_TRUE(returns_to(before)) << "start " << i;
  }
}

TEST_F(BadInput, EndpointOptionsThatDoNotFit) {
  EXPECT_THAT(refused<UnknownEndpoint>({.endpoints = {{"nowhere", {}}}}), HasSubstr("nowhere"));
  EXPECT_THAT(
      refused<InvalidArgument>({.endpoints = {{"add", {.batch_size = 0}}}}),
      AllOf(HasSubstr("'add'"), HasSubstr("batch_size is 0"), HasSubstr("options.endpoints")));
  EXPECT_THAT(refused<InvalidArgument>({.endpoints = {{"add", {.batch_size = 257}}}}),
              HasSubstr("256"));
}

TEST_F(BadInput, VariablesThatAreNone) {
  EXPECT_THAT(refused<InvalidArgument>({.env = {{"A=B", "x"}}}), HasSubstr("A=B"));
  EXPECT_THAT(refused<InvalidArgument>({.env = {{"", "x"}}}), HasSubstr("env"));
  EXPECT_THAT(refused<InvalidArgument>({.rank_env = {{7, {{"A", "x"}}}}}), HasSubstr("7"));
}

TEST_F(BadInput, NamesMayBeAnything) {
  for (const std::string& name :
       {std::string(300, 'n'), std::string("a/b %s\n"), std::string(" ")}) {
    const Service odd = counters.actor("Counter").options({.name = name}).as_service(1);
    EXPECT_EQ(odd.name(), name);
    EXPECT_EQ(value_of(odd.endpoint<std::int64_t()>("value").route()), 1);
  }
}

// ---- workers

TEST_F(BadInput, WorkersThatAreNone) {
  const auto with_worker = [&](const std::string& path) {
    ControllerOptions options = quiet();
    options.worker_path = path;
    const Footprint before = Footprint::now();
    std::string text;
    try {
      Controller other(options);
      other.load(plugin_path("counter"));
      ADD_FAILURE() << "a worker " << path << " was found";
    } catch (const Error& error) {
      text = error.what();
    }
    EXPECT_TRUE(returns_to(before));
    return text;
  };
  EXPECT_THAT(with_worker("/nowhere/forge-worker"),
              AllOf(HasSubstr("/nowhere/forge-worker"), HasSubstr("worker_path")));
  EXPECT_THAT(with_worker(folder.file("")), HasSubstr(folder.file("")));  // a folder
  std::ofstream(folder.file("script")) << "no program\n";
  EXPECT_THAT(with_worker(folder.file("script")), HasSubstr("script"));  // not executable
  ::chmod(folder.file("script").c_str(), 0700);
  EXPECT_THAT(with_worker(folder.file("script")), HasSubstr("script"));  // no program
  EXPECT_THAT(with_worker("/bin/true"), HasSubstr("exited"));            // another program
  EXPECT_THAT(with_worker("/bin/false"), HasSubstr("exited"));
}

TEST_F(BadInput, ThePluginGoneBeforeTheServiceStarts) {
  const std::string path = folder.file("libcounter.so");
  std::filesystem::copy_file(plugin_path("counter"), path);
  const Plugin plugin = controller.load(path);
  std::filesystem::remove(path);
  EXPECT_THAT(message_of<PluginError>([&] { plugin.actor("Counter").as_service(0); }),
              AllOf(HasSubstr(path), HasSubstr("does not exist")));
}

TEST_F(BadInput, NoDescriptorsLeft) {
  std::vector<int> used;
  for (int fd = 0; (fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0 && fd < 60'000;)
    used.push_back(fd);
  const auto release = [&](std::size_t count) {
    for (; count > 0 && !used.empty(); --count, used.pop_back()) ::close(used.back());
  };
  for (std::size_t left = 0; left < 8; ++left) {
    try {
      counters.actor("Counter").as_service(0).shutdown();
    } catch (const Error& error) {
      EXPECT_EQ(error.error_code(), ErrorCode::unavailable) << error.what();
    }
    release(1);
  }
  release(used.size());
}

}  // namespace
}  // namespace forge::e2e
