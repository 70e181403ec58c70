// Registering and loading: what FORGE_PLUGIN records, and what load_plugin says about files that
// are no plugins. This program has actors of its own, in plugins/first_half.cc and second_half.cc.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "host_fixture.h"
#include "replicas/plugin_loader.h"

namespace forge::replicas {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using namespace std::chrono_literals;

struct Base {
  int inherited(int x) { return x; }
};

class Shapes : public ForgeActor, public Base {
 public:
  Shapes() = default;
  explicit Shapes(const std::string&, std::vector<float>) {}

  void plain() {}
  int constant(int x) const { return x; }
  double nothrow(const float& x) noexcept { return x; }
  std::string lvalue(std::string text) & { return text; }
  std::string rvalue(std::string&& text) && { return std::move(text); }
  const std::string& reference() const& noexcept { return text_; }
  Task<std::int64_t> coroutine(std::int64_t x) { co_return x; }
  Task<> quiet() { co_return; }
  int many(int x) { return x; }
  std::string many(const std::string& x) { return x; }
  std::uint8_t many() const { return 1; }

  std::vector<std::int64_t> batch(std::vector<int> a, const std::vector<std::string>&) {
    return std::vector<std::int64_t>(a.size());
  }
  Tensor stacked(Tensor images) const { return images; }
  std::vector<Result<int>> picky(std::vector<Bytes> blocks) {
    return std::vector<Result<int>>(blocks.size());
  }
  void counted(std::size_t) {}
  Task<std::vector<bool>> batch_coroutine(std::vector<bool> x) { co_return x; }

 private:
  std::string text_;
};

std::string signature(const Module& module, const std::string& endpoint) {
  for (const detail::EndpointInfo& info : module.actors().front().endpoints) {
    if (info.name == endpoint) return info.signature;
  }
  return "(no such endpoint)";
}

/// What `define` throws, or "" if nothing.
template <class Define>
std::string complaint(Define&& define) {
  Module module;
  try {
    define(module);
  } catch (const InvalidArgument& error) {
    return error.what();
  }
  return "";
}

TEST(Registering, SpellsSignaturesOfEveryKindOfMethod) {
  Module m;
  m.actor<Shapes>("Shapes")
      .endpoint("plain", &Shapes::plain)
      .endpoint("constant", &Shapes::constant)
      .endpoint("nothrow", &Shapes::nothrow)
      .endpoint("lvalue", &Shapes::lvalue)
      .endpoint("rvalue", &Shapes::rvalue)
      .endpoint("reference", &Shapes::reference)
      .endpoint("inherited", &Shapes::inherited)
      .endpoint("coroutine", &Shapes::coroutine)
      .endpoint("quiet", &Shapes::quiet)
      .endpoint("many_int", overload<int>(&Shapes::many))
      .endpoint("many_string", overload<const std::string&>(&Shapes::many))
      .endpoint("many_none", overload<>(&Shapes::many));
  EXPECT_EQ(signature(m, "plain"), "void()");
  EXPECT_EQ(signature(m, "constant"), "i32(i32)");
  EXPECT_EQ(signature(m, "nothrow"), "f64(f32)");
  EXPECT_EQ(signature(m, "lvalue"), "str(str)");
  EXPECT_EQ(signature(m, "rvalue"), "str(str)");
  EXPECT_EQ(signature(m, "reference"), "str()");
  EXPECT_EQ(signature(m, "inherited"), "i32(i32)");
  EXPECT_EQ(signature(m, "coroutine"), "i64(i64)");
  EXPECT_EQ(signature(m, "quiet"), "void()");
  EXPECT_EQ(signature(m, "many_int"), "i32(i32)");
  EXPECT_EQ(signature(m, "many_string"), "str(str)");
  EXPECT_EQ(signature(m, "many_none"), "u8()");
}

TEST(Registering, RecordsTheSignatureOfOneElementOfABatch) {
  Module m;
  m.actor<Shapes>("Shapes")
      .batched_endpoint("batch", &Shapes::batch, {.batch_size = 8})
      .batched_endpoint("stacked", &Shapes::stacked, {.batch_size = 8})
      .batched_endpoint("picky", &Shapes::picky, {.batch_size = 8})
      .batched_endpoint("counted", &Shapes::counted, {.batch_size = 8})
      .batched_endpoint("batch_coroutine", &Shapes::batch_coroutine, {});
  EXPECT_EQ(signature(m, "batch"), "i64(i32,str)");
  EXPECT_EQ(signature(m, "stacked"), "tensor(tensor)");
  EXPECT_EQ(signature(m, "picky"), "i32(bytes)");
  EXPECT_EQ(signature(m, "counted"), "void()");
  EXPECT_EQ(signature(m, "batch_coroutine"), "bool(bool)");
}

TEST(Registering, RecordsConstructorTypesOptionsAndKinds) {
  Module m;
  m.actor<Shapes, std::string, std::vector<float>>("Shapes", "All shapes.")
      .defaults({.procs = 2, .name = "shapes"})
      .endpoint("a", &Shapes::plain)
      .service_endpoint("b", &Shapes::plain, {.router = "hash", .exec_timeout = 50ms})
      .batched_endpoint("c", &Shapes::counted, {.batch_size = 4, .batch_timeout = 3ms});
  const detail::ActorInfo& info = *m.find("Shapes");
  EXPECT_EQ(info.doc, "All shapes.");
  EXPECT_THAT(info.constructor, ElementsAre("str", "[f32]"));
  EXPECT_EQ(info.defaults.procs, 2);
  EXPECT_EQ(info.defaults.name, "shapes");
  EXPECT_EQ(info.endpoints[0].kind, EndpointKind::plain);
  EXPECT_EQ(info.endpoints[0].options.router, "round_robin");
  EXPECT_EQ(info.endpoints[1].kind, EndpointKind::service);
  EXPECT_EQ(info.endpoints[1].options.exec_timeout, 50ms);
  EXPECT_EQ(info.endpoints[2].kind, EndpointKind::batched);
  EXPECT_EQ(info.endpoints[2].options.batch_timeout, 3ms);
}

TEST(Registering, RefusesNamesThatAreTakenOrMissing) {
  EXPECT_THAT(complaint([](Module& m) {
                m.actor<Shapes>("A");
                m.actor<Shapes>("A");
              }),
              AllOf(HasSubstr("\"A\" is registered twice"), HasSubstr("another name")));
  EXPECT_THAT(complaint([](Module& m) {
                m.actor<Shapes>("A").endpoint("e", &Shapes::plain).endpoint("e", &Shapes::constant);
              }),
              HasSubstr("endpoint \"e\" of actor \"A\" is registered twice"));
  EXPECT_THAT(complaint([](Module& m) { m.actor<Shapes>(""); }), HasSubstr("without a name"));
  EXPECT_THAT(complaint([](Module& m) { m.actor<Shapes>("A").endpoint("", &Shapes::plain); }),
              HasSubstr("has no name"));
  EXPECT_THAT(complaint([](Module& m) { m.actor<Shapes>("A").endpoint("~e", &Shapes::plain); }),
              HasSubstr("begins with '~'"));
}

TEST(Registering, RefusesOptionsThatMakeNoSense) {
  const auto with = [](EndpointOptions options) {
    return complaint(
        [&](Module& m) { m.actor<Shapes>("A").service_endpoint("e", &Shapes::plain, options); });
  };
  EXPECT_THAT(with({.batch_size = 0}), HasSubstr("batch_size is 0"));
  EXPECT_THAT(with({.batch_timeout = -1ms}), HasSubstr("batch_timeout is negative"));
  EXPECT_THAT(with({.router = ""}), HasSubstr("router is empty"));
  EXPECT_THAT(with({.exec_timeout = 0ms}), HasSubstr("exec_timeout"));
  EXPECT_EQ(with({}), "");
  EXPECT_THAT(complaint([](Module& m) {
                m.actor<Shapes>("A").defaults({.routers = {{"e", nullptr}}});
              }),
              AllOf(HasSubstr("routers"), HasSubstr("options()")));
}

class LoadPlugin : public ::testing::Test {
 protected:
  LoadPlugin() : folder_(::testing::TempDir() + "forge_load_" + std::to_string(::getpid())) {
    std::filesystem::create_directory(folder_);
  }
  ~LoadPlugin() override { std::filesystem::remove_all(folder_); }

  static std::string built(const std::string& name) {
    const char* const folder = std::getenv("FORGE_PLUGIN_DIR");
    EXPECT_NE(folder, nullptr) << "FORGE_PLUGIN_DIR says where the plugins were built";
    return std::string(folder ? folder : ".") + "/lib" + name + ".so";
  }

  /// The message with which loading fails; it must be a PluginError.
  static std::string refusal(const std::string& path) {
    const LoadedPlugin loaded = load_plugin(path);
    EXPECT_EQ(loaded.status.code, ErrorCode::plugin_error) << path;
    EXPECT_EQ(loaded.module, nullptr);
    EXPECT_THAT(loaded.status.message, HasSubstr(path));
    return loaded.status.message;
  }

  std::filesystem::path folder_;
};

TEST_F(LoadPlugin, FindsTheActorsOfShippedPlugins) {
  for (const auto& [plugin, actor] : {std::pair{"echo", "Echo"}, std::pair{"counter", "Counter"},
                                      std::pair{"faulty", "FaultySetup"}}) {
    const LoadedPlugin loaded = load_plugin(built(plugin));
    ASSERT_TRUE(loaded.status.ok()) << loaded.status.message;
    EXPECT_NE(loaded.module->find(actor), nullptr) << plugin;
    EXPECT_EQ(loaded.module->find("FirstHalf"), nullptr) << "of this program, not of " << plugin;
  }
}

TEST_F(LoadPlugin, LoadsTheSamePluginTwice) {
  for (int i = 0; i < 2; ++i) {
    const LoadedPlugin loaded = load_plugin(built("counter"));
    ASSERT_TRUE(loaded.status.ok()) << loaded.status.message;
    EXPECT_EQ(loaded.module->actors().size(), 1u);
  }
}

TEST_F(LoadPlugin, FindsActorsOfAllSourceFilesOfAPlugin) {
  const LoadedPlugin loaded = load_plugin(built("two_sources"));
  ASSERT_TRUE(loaded.status.ok()) << loaded.status.message;
  EXPECT_NE(loaded.module->find("FirstHalf"), nullptr);
  EXPECT_NE(loaded.module->find("SecondHalf"), nullptr);
}

TEST_F(LoadPlugin, TakesLinkedInActorsForAnEmptyPath) {
  ASSERT_TRUE(load_plugin(built("counter")).status.ok());
  const LoadedPlugin loaded = load_plugin("");
  ASSERT_TRUE(loaded.status.ok()) << loaded.status.message;
  EXPECT_NE(loaded.module->find("FirstHalf"), nullptr);
  EXPECT_NE(loaded.module->find("SecondHalf"), nullptr);
  EXPECT_EQ(loaded.module->find("Counter"), nullptr) << "a loaded plugin is not linked in";
}

TEST_F(LoadPlugin, FindsAFileInTheCurrentFolderWithoutASlash) {
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::copy_file(built("counter"), folder_ / "libcopy.so");
  std::filesystem::current_path(folder_);
  const LoadedPlugin loaded = load_plugin("libcopy.so");
  std::filesystem::current_path(before);
  EXPECT_TRUE(loaded.status.ok()) << loaded.status.message;
}

TEST_F(LoadPlugin, SaysWhatIsWrongWithTheFile) {
  EXPECT_THAT(refusal((folder_ / "missing.so").string()),
              AllOf(HasSubstr("does not exist"), HasSubstr("check the path")));
  EXPECT_THAT(refusal("missing.so"), HasSubstr(std::filesystem::current_path().string()));
  EXPECT_THAT(refusal(folder_.string()), HasSubstr("is a directory"));
  std::ofstream(folder_ / "text.so") << "this is not a shared object\n";
  EXPECT_THAT(refusal((folder_ / "text.so").string()),
              AllOf(HasSubstr("cannot be opened"), HasSubstr("must be a shared object")));
  std::ofstream(folder_ / "empty.so").flush();
  EXPECT_THAT(refusal((folder_ / "empty.so").string()), HasSubstr("cannot be opened"));
  EXPECT_THAT(refusal((folder_ / "text.so" / "below").string()), HasSubstr("text.so/below"));
}

TEST_F(LoadPlugin, SaysWhatIsWrongWithTheSharedObject) {
  EXPECT_THAT(refusal(built("no_symbol")),
              AllOf(HasSubstr("no plugin"), HasSubstr("use FORGE_PLUGIN")));
  EXPECT_THAT(refusal(built("unresolved")), HasSubstr("forge_test_defined_nowhere"));
  EXPECT_THAT(refusal(built("wrong_magic")), HasSubstr("FORGE_PLUGIN did not make"));
}

TEST_F(LoadPlugin, RefusesAnotherAbiBeforeCallingAnything) {
  EXPECT_THAT(refusal(built("wrong_abi")),
              AllOf(HasSubstr("plugin ABI " + std::to_string(detail::kPluginAbi + 41)),
                    HasSubstr("this forge has " + std::to_string(detail::kPluginAbi)),
                    HasSubstr("build it again")));
  EXPECT_THAT(refusal(built("wrong_layout")),
              AllOf(HasSubstr("libfoo string=99"), HasSubstr(detail::kAbiTag.c_str()),
                    HasSubstr("build it again")));
}

TEST_F(LoadPlugin, ReportsWhatRegisteringThrew) {
  EXPECT_THAT(refusal(built("register_throws")),
              AllOf(HasSubstr("FORGE_PLUGIN"), HasSubstr("forge::InvalidArgument"),
                    HasSubstr("\"Twin\" is registered twice")));
}

}  // namespace
}  // namespace forge::replicas
