// The border around an actor: calls through the encoded form, and where exceptions end up.
#include "replicas/actor_host.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "host_fixture.h"
#include "replicas/plugin_loader.h"
#include "tests/shm/count_allocations.h"
#include "tools/plugins/digits/data.h"

namespace forge::replicas {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

struct Point {
  int x = 0;
  double y = 0;
  FORGE_FIELDS(x, y);
  friend bool operator==(const Point&, const Point&) = default;
};

struct Mixin {
  std::string mixed_in() { return name; }
  std::string name = "mixin";
};

class Sample : public ForgeActor, public Mixin {
 public:
  explicit Sample(std::uint8_t small, std::string text) : small_(small), text_(std::move(text)) {
    if (text_ == "throw") throw std::out_of_range("not today");
    if (text_ == "throw 7") throw 7;
    if (text_ == "context") text_ = std::to_string(context().replica());
  }
  void setup() override {
    if (text_ == "bad setup") throw std::runtime_error("no model there");
    text_ += "!";
  }

  std::pair<int, std::string> state() const { return {small_, text_}; }
  Point move(Point p, std::optional<double> by) { return {p.x + 1, p.y + by.value_or(1)}; }
  std::map<std::string, std::vector<int>> merge(const std::map<std::string, std::vector<int>>& a,
                                                std::vector<std::pair<std::string, int>>&& b) {
    auto merged = a;
    for (auto& [key, value] : b) merged[key].push_back(value);
    return merged;
  }
  std::string temporary(std::string&& text) && { return std::move(text); }
  const std::string& kept() const& noexcept { return text_; }
  std::int16_t small(std::int8_t a, float b) { return static_cast<std::int16_t>(a * b); }
  Bytes blob(Bytes bytes) { return bytes; }
  Tensor doubled(Tensor tensor) {
    Tensor answer(tensor.dtype(), {tensor.shape().begin(), tensor.shape().end()});
    std::ranges::transform(std::as_const(tensor).span<float>(), answer.span<float>().begin(),
                           [](float x) { return 2 * x; });
    return answer;
  }
  void write_to(Tensor tensor) { tensor.span<float>()[0] = 1; }

  Task<int> later(int x) { co_return 2 * co_await child(x); }
  Task<> later_throws() {
    co_await child(-1);
    ADD_FAILURE() << "went on after an exception";
  }

  void throws(const std::string& text) { throw std::length_error(text); }
  void throws_int() { throw 42; }
  void throws_other(const std::string& kind) {
    if (kind == "text") throw "plain text";
    if (kind == "string") throw std::string("a string");
    if (kind == "view") throw std::string_view("a view");
    if (kind == "double") throw 0.5;
    if (kind == "bool") throw true;
    if (kind == "class") throw Unnamed();
    if (kind == "strings") throw std::vector<std::string>();
  }
  void throws_nested() {
    try {
      try {
        throw std::string("the innermost");
      } catch (...) {
        std::throw_with_nested(std::domain_error("between"));
      }
    } catch (...) {
      std::throw_with_nested(std::runtime_error("outer"));
    }
  }
  struct Unnamed {};
  void throws_actor_error() { throw ActorError("below", "their::Error", "deep down"); }

 private:
  Task<int> child(int x) {
    if (x < 0) throw std::domain_error("negative");
    co_return x;
  }

  std::uint8_t small_;
  std::string text_;
};

class Batcher : public ForgeActor {
 public:
  std::vector<std::string> label(std::vector<int> a, std::vector<std::string> b) {
    std::vector<std::string> answers;
    for (std::size_t i = 0; i < a.size(); ++i) answers.push_back(b[i] + std::to_string(a[i]));
    return answers;
  }
  std::vector<Result<int>> picky(const std::vector<int>& values) {
    std::vector<Result<int>> answers;
    for (const int value : values) {
      if (value >= 0) {
        answers.emplace_back(value * 10);
      } else {
        answers.emplace_back(NotSupported("negative numbers; pass others"));
      }
    }
    return answers;
  }
  Tensor stacked(Tensor rows) {
    shape.assign(rows.shape().begin(), rows.shape().end());
    return rows;
  }
  void count(std::size_t n) { counted += n; }
  std::vector<int> too_few(std::vector<int>) { return {}; }
  std::vector<std::int64_t> seen() { return shape; }
  std::uint64_t total() { return counted; }
  std::vector<bool> flip(std::vector<bool> bits) {
    bits.flip();
    return bits;
  }

  std::vector<std::int64_t> shape;
  std::uint64_t counted = 0;
};

std::unique_ptr<Module> sample_module() {
  return module_of([](Module& m) {
    m.actor<Sample, std::uint8_t, std::string>("Sample", "For tests.")
        .endpoint("state", &Sample::state)
        .endpoint("move", &Sample::move)
        .endpoint("merge", &Sample::merge)
        .endpoint("temporary", &Sample::temporary)
        .endpoint("kept", &Sample::kept)
        .endpoint("small", &Sample::small)
        .endpoint("blob", &Sample::blob)
        .endpoint("doubled", &Sample::doubled)
        .endpoint("write_to", &Sample::write_to)
        .endpoint("mixed_in", &Sample::mixed_in)
        .endpoint("later", &Sample::later)
        .endpoint("later_throws", &Sample::later_throws)
        .endpoint("throws", &Sample::throws)
        .endpoint("throws_int", &Sample::throws_int)
        .endpoint("throws_other", &Sample::throws_other)
        .endpoint("throws_nested", &Sample::throws_nested)
        .endpoint("throws_actor_error", &Sample::throws_actor_error);
    m.actor<Batcher>("Batcher")
        .batched_endpoint("label", &Batcher::label, {.batch_size = 8})
        .batched_endpoint("picky", &Batcher::picky, {.batch_size = 8})
        .batched_endpoint("stacked", &Batcher::stacked, {.batch_size = 8})
        .batched_endpoint("count", &Batcher::count, {.batch_size = 8})
        .batched_endpoint("too_few", &Batcher::too_few, {.batch_size = 8})
        .batched_endpoint("flip", &Batcher::flip, {.batch_size = 8})
        .endpoint("seen", &Batcher::seen)
        .endpoint("total", &Batcher::total);
  });
}

std::string plugin(const std::string& name) {
  const char* const folder = std::getenv("FORGE_PLUGIN_DIR");
  return std::string(folder ? folder : ".") + "/lib" + name + ".so";
}

struct SampleActor : LocalActor {
  SampleActor() : LocalActor(sample_module()) { EXPECT_TRUE(create("Sample", 1, "text").ok()); }
};

TEST(ActorHost, ConstructsAndSetsUp) {
  LocalActor actor(sample_module());
  ASSERT_TRUE(actor.create("Sample", 200, "text").ok());  // an int for a std::uint8_t
  ASSERT_TRUE(actor.host().setup().ok());
  EXPECT_EQ((actor.call<std::pair<int, std::string>>("state")),
            std::pair(200, std::string("text!")));
}

TEST(ActorHost, GivesConstructorsAContext) {
  LocalActor actor(sample_module());
  ASSERT_TRUE(actor.create("Sample", 1, "context").ok());
  EXPECT_EQ(actor.call<std::string>("kept"), "3");
}

TEST(ActorHost, SaysWhichActorsThereAre) {
  LocalActor actor(sample_module());
  const Status status = actor.create("Simple");
  EXPECT_EQ(status.code, ErrorCode::unknown_actor);
  EXPECT_THAT(status.message, AllOf(HasSubstr("\"Simple\""), HasSubstr("\"Sample\", \"Batcher\"")));
}

TEST(ActorHost, SaysWhatIsWrongWithConstructorArguments) {
  LocalActor actor(sample_module());
  Status status = actor.create("Sample", 1);
  EXPECT_EQ(status.code, ErrorCode::signature_mismatch);
  EXPECT_THAT(status.message, HasSubstr("the constructor of Sample takes 2 arguments, got 1"));
  status = actor.create("Sample", 256, "text");
  EXPECT_EQ(status.code, ErrorCode::invalid_argument);
  EXPECT_THAT(status.message,
              AllOf(HasSubstr("argument 1 of the constructor of Sample is u8"), HasSubstr("256")));
  status = actor.create("Sample", 1, 2);
  EXPECT_EQ(status.code, ErrorCode::invalid_argument);
  EXPECT_THAT(status.message, HasSubstr("argument 2 of the constructor of Sample is str"));
}

TEST(ActorHost, ReportsWhatConstructorAndSetupThrow) {
  LocalActor actor(sample_module());
  Status status = actor.create("Sample", 1, "throw");
  EXPECT_EQ(status.code, ErrorCode::actor_error);
  EXPECT_EQ(status.type, "std::out_of_range");
  EXPECT_EQ(status.message, "the constructor of Sample: std::out_of_range: not today");
  status = actor.create("Sample", 1, "throw 7");
  EXPECT_EQ(status.message, "the constructor of Sample: int: 7");

  ASSERT_TRUE(actor.create("Sample", 1, "bad setup").ok());
  status = actor.host().setup();
  EXPECT_EQ(status.code, ErrorCode::actor_error);
  EXPECT_EQ(status.message, "setup() of Sample: std::runtime_error: no model there");
}

TEST(ActorHost, CallsMethodsOfAllShapes) {
  SampleActor actor;
  EXPECT_EQ((actor.call<Point>("move", Point{1, 2}, std::optional<double>(0.5))), (Point{2, 2.5}));
  EXPECT_EQ((actor.call<Point>("move", Point{1, 2}, std::optional<double>())), (Point{2, 3}));
  using Map = std::map<std::string, std::vector<int>>;
  EXPECT_EQ((actor.call<Map>("merge", Map{{"a", {1}}},
                             std::vector<std::pair<std::string, int>>{{"a", 2}, {"b", 3}})),
            (Map{{"a", {1, 2}}, {"b", {3}}}));
  EXPECT_EQ(actor.call<std::string>("temporary", "moved"), "moved");
  EXPECT_EQ(actor.call<std::string>("kept"), "text");
  EXPECT_EQ(actor.call<std::string>("mixed_in"), "mixin");
  EXPECT_EQ(actor.call<int>("later", 21), 42);
}

TEST(ActorHost, LetsTheSinkTakeLargeResultsWhileTheyLive) {
  SampleActor actor;
  Bytes bytes(100'000);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 7);
  EXPECT_EQ(actor.call<Bytes>("blob", bytes), bytes);

  Tensor tensor(DType::f32, {50, 20});
  std::ranges::fill(tensor.span<float>(), 1.5f);
  const Tensor doubled = actor.call<Tensor>("doubled", tensor);
  EXPECT_THAT(doubled.shape(), ElementsAre(50, 20));
  EXPECT_TRUE(std::ranges::all_of(doubled.span<float>(), [](float x) { return x == 3.0f; }));
}

TEST(ActorHost, ConvertsArgumentsThatFit) {
  SampleActor actor;
  EXPECT_EQ((actor.call<int>("small", std::int64_t{-100}, 2)), -200);
  const auto refused = actor.result<int>("small", std::int64_t{1000}, 2);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().error_code(), ErrorCode::invalid_argument);
  EXPECT_THAT(refused.error().what(),
              AllOf(HasSubstr("argument 1 of small is i8"), HasSubstr("1000")));
}

TEST(ActorHost, AllocatesNothingForCallsOfNumbers) {
  struct Sink final : detail::ResultSink {
    void value(detail::Writer& out) override { bytes += out.head().size(); }
    void error(const Error&) override {}
    void ended() noexcept override {}
    std::size_t bytes = 0;
  } sink;
  SampleActor actor;
  detail::Writer arguments;
  encode_arguments(arguments, 3, 2.0f);
  Block block(arguments);
  detail::Writer out;
  const std::size_t endpoint = actor.index("small");
  const auto call = [&] {
    detail::Reader reader = block.reader();
    out.reset();
    return run_endpoint(actor.host(), endpoint, {&reader, 1}, out, sink);
  };
  ASSERT_EQ(call(), ErrorCode::ok);
  const std::size_t before = tests::allocations().count;
  for (int i = 0; i < 100; ++i) ASSERT_EQ(call(), ErrorCode::ok);
  EXPECT_EQ(tests::allocations().count, before);
  EXPECT_EQ(sink.bytes, 101u);
}

TEST(ActorHost, ChecksTheNumberOfArguments) {
  SampleActor actor;
  for (const auto& refused : {actor.result<int>("small", 1), actor.result<int>("small", 1, 2, 3)}) {
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().error_code(), ErrorCode::signature_mismatch);
    EXPECT_THAT(refused.error().what(), HasSubstr("small takes 2 arguments"));
  }
}

TEST(ActorHost, TurnsExceptionsIntoErrorsWithTypeAndText) {
  SampleActor actor;
  const auto caught = [&](const auto& result) {
    const auto* error = dynamic_cast<const ActorError*>(&result.error());
    EXPECT_NE(error, nullptr) << result.error().what();
    return error ? std::pair(error->type(), error->text()) : std::pair<std::string, std::string>();
  };
  using Pair = std::pair<std::string, std::string>;
  EXPECT_EQ(caught(actor.result<void>("throws", "too long")),
            Pair("std::length_error", "too long"));
  EXPECT_EQ(caught(actor.result<void>("throws", "")), Pair("std::length_error", ""));
  EXPECT_EQ(caught(actor.result<void>("throws_int")), Pair("int", "42"));
  const auto other = [&](const char* kind) {
    return caught(actor.result<void>("throws_other", kind));
  };
  EXPECT_EQ(other("text"), Pair("char const*", "plain text"));
  EXPECT_EQ(other("string"), Pair("std::string", "a string"));
  EXPECT_EQ(other("view"), Pair("std::string_view", "a view"));
  EXPECT_EQ(other("double"), Pair("double", "0.500000"));
  EXPECT_EQ(other("bool"), Pair("bool", "true"));
  EXPECT_EQ(other("class").second, "unknown exception");
  EXPECT_EQ(other("strings").first, "std::vector<std::string, std::allocator<std::string > >");
  EXPECT_EQ(caught(actor.result<void>("throws_nested")),
            Pair("std::runtime_error",
                 "outer; caused by std::domain_error: between; caused by std::string: the "
                 "innermost"));
  EXPECT_EQ(caught(actor.result<void>("later_throws")), Pair("std::domain_error", "negative"));
  EXPECT_EQ(caught(actor.result<void>("throws_actor_error")), Pair("their::Error", "deep down"));
  // A forge error that the actor's own code ran into is still the actor's.
  const auto frozen = actor.result<void>("write_to", Tensor(DType::f32, {1}));
  EXPECT_EQ(caught(frozen).first, "forge::InvalidArgument");
  EXPECT_THAT(frozen.error().what(), StartsWith("Sample.write_to: forge::InvalidArgument: "));
  EXPECT_EQ(actor.call<std::string>("kept"), "text") << "the actor lives";
}

TEST(ActorHost, ShortensEndlessMessages) {
  SampleActor actor;
  const auto result = actor.result<void>("throws", std::string(10'000'000, 'x'));
  const std::string text = dynamic_cast<const ActorError&>(result.error()).text();
  EXPECT_LT(text.size(), 100'000u);
  EXPECT_THAT(text, HasSubstr("10000000 bytes"));
}

TEST(ActorHost, ReportsASinkThatRefuses) {
  SampleActor actor;
  detail::Writer arguments;
  const Bytes bytes(1000);  // the Writer only remembers where they are
  encode_arguments(arguments, bytes);
  CopyingSink sink;
  sink.refuse = true;
  EXPECT_EQ(actor.invoke("blob", arguments, sink), ErrorCode::payload_too_large);
  EXPECT_EQ(sink.values, 1);
  EXPECT_EQ(sink.ends, 1);
  EXPECT_EQ(actor.error()->error_code(), ErrorCode::payload_too_large);
}

TEST(ActorHost, RefusesEndpointsThatDoNotExist) {
  SampleActor actor;
  detail::Reader nothing({});
  detail::Writer out;
  CopyingSink sink;
  EXPECT_EQ(run_endpoint(actor.host(), 999, {&nothing, 1}, out, sink), ErrorCode::unknown_endpoint);
  EXPECT_EQ(sink.values, 0);
  EXPECT_THAT(Block(out).reader().array(), 4u) << "an encoded error";
}

TEST(ActorHost, SurvivesArgumentsThatAreNoMessage) {
  SampleActor actor;
  CopyingSink sink;
  for (int first = 0; first < 256; ++first) {
    const std::vector<std::byte> bytes(3, static_cast<std::byte>(first));
    for (std::size_t endpoint = 0; endpoint < actor.host().info()->endpoints.size(); ++endpoint) {
      detail::Reader reader(bytes);
      detail::Writer out;
      (void)run_endpoint(actor.host(), endpoint, {&reader, 1}, out, sink);
    }
  }
  EXPECT_EQ(actor.call<int>("later", 1), 2);
}

TEST(BatchedEndpoint, AnswersABatchOfOneWithItsElement) {
  LocalActor actor(sample_module());
  ASSERT_TRUE(actor.create("Batcher").ok());
  EXPECT_EQ((actor.call<std::string>("label", 7, "n")), "n7");
  EXPECT_EQ(actor.call<int>("picky", 4), 40);
  EXPECT_EQ(actor.call<bool>("flip", true), false);
  actor.call<void>("count");
  EXPECT_EQ(actor.call<std::uint64_t>("total"), 1u);

  Tensor image(DType::f32, {2, 3});
  image.span<float>()[5] = 9;
  const Tensor answer = actor.call<Tensor>("stacked", image);
  EXPECT_THAT(answer.shape(), ElementsAre(2, 3));
  EXPECT_EQ(answer.span<float>()[5], 9);
  EXPECT_THAT(actor.call<std::vector<std::int64_t>>("seen"), ElementsAre(1, 2, 3));
}

TEST(BatchedEndpoint, RaisesTheErrorOfASingleElement) {
  LocalActor actor(sample_module());
  ASSERT_TRUE(actor.create("Batcher").ok());
  const auto result = actor.result<int>("picky", -1);
  ASSERT_FALSE(result.has_value());
  const auto& error = dynamic_cast<const ActorError&>(result.error());
  EXPECT_EQ(error.type(), "forge::NotSupported");
  EXPECT_THAT(error.text(), HasSubstr("negative numbers"));
}

TEST(BatchedEndpoint, RefusesAnswersOfAnotherLength) {
  LocalActor actor(sample_module());
  ASSERT_TRUE(actor.create("Batcher").ok());
  const auto result = actor.result<int>("too_few", 1);
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().error_code(), ErrorCode::actor_error);
  EXPECT_THAT(result.error().what(), HasSubstr("too_few answered 0 elements to a batch of 1"));
}

TEST(BatchedEndpoint, AnswersEachElementOfALargerBatch) {
  LocalActor actor(sample_module());
  ASSERT_TRUE(actor.create("Batcher").ok());
  std::vector<Block> elements{arguments_of(1), arguments_of(-2), arguments_of(3)};
  CopyingSink sink;
  ASSERT_EQ(actor.invoke("picky", elements, sink), ErrorCode::ok);
  ASSERT_EQ(sink.answers.size(), 2u);
  EXPECT_EQ(value_in<int>(sink.answers[0]), 10);
  EXPECT_EQ(value_in<int>(sink.answers[1]), 30);
  ASSERT_EQ(sink.errors.size(), 1u);
  EXPECT_EQ(sink.errors[0]->error_code(), ErrorCode::actor_error);

  std::vector<Block> none(5, arguments_of());
  ASSERT_EQ(actor.invoke("count", none, sink), ErrorCode::ok);
  EXPECT_EQ(actor.call<std::uint64_t>("total"), 5u);
  EXPECT_EQ(actor.invoke("total", none, sink), ErrorCode::invalid_argument) << "not batched";
}

TEST(BatchedEndpoint, StacksTensorsOfALargerBatch) {
  LocalActor actor(sample_module());
  ASSERT_TRUE(actor.create("Batcher").ok());
  const auto image = [](float value, std::int64_t width) {
    Tensor tensor(DType::f32, {2, width});
    std::ranges::fill(tensor.span<float>(), value);
    return tensor;
  };
  std::vector<Block> images{arguments_of(image(1, 3)), arguments_of(image(2, 3))};
  CopyingSink sink;
  ASSERT_EQ(actor.invoke("stacked", images, sink), ErrorCode::ok);
  ASSERT_EQ(sink.answers.size(), 2u);
  for (const int value : {1, 2}) {
    const Tensor one = value_in<Tensor>(sink.answers[static_cast<std::size_t>(value - 1)]);
    EXPECT_THAT(one.shape(), ElementsAre(2, 3));
    EXPECT_TRUE(std::ranges::all_of(one.span<float>(),
                                    [&](float x) { return x == static_cast<float>(value); }));
  }
  EXPECT_THAT(actor.call<std::vector<std::int64_t>>("seen"), ElementsAre(2, 2, 3));

  std::vector<Block> uneven{arguments_of(image(1, 3)), arguments_of(image(2, 4))};
  EXPECT_EQ(actor.invoke("stacked", uneven, sink), ErrorCode::invalid_argument);
  EXPECT_THAT(actor.error()->what(), HasSubstr("differ in dtype or shape"));
}

class ShippedPlugins : public ::testing::Test {
 protected:
  static LocalActor load(const std::string& name) {
    LoadedPlugin loaded = load_plugin(plugin(name));
    EXPECT_TRUE(loaded.status.ok()) << loaded.status.message;
    return LocalActor(std::move(loaded.module));
  }
};

TEST_F(ShippedPlugins, EchoGivesBackWhatItGets) {
  LocalActor echo = load("echo");
  ASSERT_TRUE(echo.create("Echo").ok());
  EXPECT_EQ(echo.call<std::int64_t>("scalar", -5), -5);
  EXPECT_EQ(echo.call<std::string>("text", "\xC3\xA4"), "\xC3\xA4");
  for (const std::size_t size : {0, 1, 256, 257, 1 << 20}) {
    const Bytes bytes(size, std::byte{0x5A});
    EXPECT_EQ(echo.call<Bytes>("bytes", bytes), bytes) << size;
    EXPECT_EQ(echo.call<Bytes>("bytes_idempotent", bytes), bytes) << size;
  }
  for (const std::int64_t rows : {0, 1, 1000}) {
    Tensor tensor(DType::f64, {rows, 3});
    std::ranges::fill(tensor.span<double>(), 0.25);
    const Tensor answer = echo.call<Tensor>("tensor", tensor);
    EXPECT_THAT(answer.shape(), ElementsAre(rows, 3));
    EXPECT_TRUE(std::ranges::equal(answer.bytes(), tensor.bytes()));
  }
}

TEST_F(ShippedPlugins, CounterCounts) {
  LocalActor counter = load("counter");
  ASSERT_TRUE(counter.create("Counter", 5).ok());
  counter.call<void>("incr");
  EXPECT_EQ(counter.call<std::int64_t>("value"), 6);
  EXPECT_EQ((counter.call<std::int64_t>("add", 3, 2)), 12);
  EXPECT_EQ(counter.call<std::int64_t>("add_many", 8), 20);
}

TEST_F(ShippedPlugins, DigitsReadsHeldOutImages) {
  LocalActor digits = load("digits");
  ASSERT_TRUE(digits.create("Digits").ok());
  ASSERT_TRUE(digits.host().setup().ok());
  const digits::ImageSet& set = digits::held_out_images();
  std::size_t right = 0;
  for (std::size_t i = 0; i < set.size(); ++i) {
    const std::vector<float> image(set.image(i).begin(), set.image(i).end());
    const int label = digits.call<int>("classify", image);
    right += label == set.labels[i];
    if (i % 100 != 0) continue;
    Tensor tensor(DType::f32, {8, 8});
    std::ranges::copy(image, tensor.span<float>().begin());
    EXPECT_EQ(digits.call<int>("classify_tensor", tensor), label);
  }
  EXPECT_GE(static_cast<double>(right), 0.96 * static_cast<double>(set.size()));
  EXPECT_THAT(digits.result<int>("classify", std::vector<float>(63)).error().what(),
              HasSubstr("63 pixels; send 64"));
  EXPECT_FALSE(digits.result<int>("classify_tensor", Tensor(DType::f32, {63})).has_value());
}

TEST_F(ShippedPlugins, FaultyFailsAndLivesOn) {
  LocalActor faulty = load("faulty");
  ASSERT_TRUE(faulty.create("Faulty").ok());
  EXPECT_THAT(faulty.result<void>("throw_error", "why").error().what(),
              HasSubstr("std::runtime_error: why"));
  EXPECT_THAT(faulty.result<void>("throw_int", 3).error().what(), HasSubstr("long: 3"));
  EXPECT_THAT(faulty.result<void>("throw_forge", "why").error().what(),
              HasSubstr("forge::InvalidArgument: why"));
  EXPECT_EQ(faulty.call<Bytes>("make_bytes", 300u).size(), 300u);
  const auto leaked = faulty.call<std::uint64_t>("leak", 1000u);
  EXPECT_EQ(faulty.call<std::uint64_t>("leak", 1000u), leaked + 1000);
  EXPECT_EQ(faulty.call<std::int64_t>("calls"), 0);
  EXPECT_EQ(faulty.call<std::int64_t>("calls"), 1);
  EXPECT_EQ(faulty.call<std::int64_t>("pid"), ::getpid());
}

TEST_F(ShippedPlugins, FaultyCommitsItsFaultWhereItIsAskedTo) {
  LocalActor faulty = load("faulty");
  EXPECT_THAT(faulty.create("FaultyConstructor", "throw", 0, "").message,
              HasSubstr("the constructor of FaultyConstructor: std::runtime_error"));
  EXPECT_TRUE(faulty.create("FaultyConstructor", "none", 0, "").ok());
  EXPECT_EQ(faulty.call<std::int64_t>("echo", 1), 1);
  ASSERT_TRUE(faulty.create("FaultySetup", "throw", 0, "").ok());
  EXPECT_THAT(faulty.host().setup().message, HasSubstr("setup() of FaultySetup"));
  ASSERT_TRUE(faulty.create("FaultySetup", "", 0, "").ok());
  EXPECT_TRUE(faulty.host().setup().ok());
  EXPECT_THAT(faulty.create("FaultyConstructor", "hiccup", 0, "").message,
              HasSubstr("no fault \"hiccup\""));
}

TEST_F(ShippedPlugins, FaultyCommitsAMarkedFaultOnce) {
  const std::string marker = ::testing::TempDir() + "forge_marker_" + std::to_string(::getpid());
  LocalActor faulty = load("faulty");
  EXPECT_FALSE(faulty.create("FaultyConstructor", "throw", 0, marker).ok());
  EXPECT_TRUE(faulty.create("FaultyConstructor", "throw", 0, marker).ok());
  faulty.call<void>("kill_once", marker);  // does not: the marker exists
  EXPECT_EQ(::unlink(marker.c_str()), 0);
}

using FaultyDeathTest = ShippedPlugins;

TEST_F(FaultyDeathTest, EndsTheProcessInEveryWay) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto end = [](const std::string& endpoint) {
    LocalActor faulty = load("faulty");
    (void)faulty.create("Faulty");
    if (endpoint == "exit") return faulty.call<void>(endpoint, 7);
    if (endpoint == "kill_once") return faulty.call<void>(endpoint, "/dev/null/none");
    faulty.call<void>(endpoint);
  };
  EXPECT_EXIT(end("exit"), ::testing::ExitedWithCode(7), "");
  EXPECT_EXIT(end("kill"), ::testing::KilledBySignal(SIGKILL), "");
  EXPECT_DEATH(end("abort"), "");
  EXPECT_DEATH(end("segfault"), "");
  EXPECT_THROW(end("kill_once"), ActorError) << "a marker that cannot be made is an error";
}

}  // namespace
}  // namespace forge::replicas
