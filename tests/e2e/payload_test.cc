// Every kind of payload through a real worker; tensors and where their bytes lie; full memory.
#include "payloads.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <tuple>
#include <unordered_map>

#include "support.h"

namespace forge::e2e {
namespace {

using namespace payloads;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::size_t kMiB = std::size_t{1} << 20;

class PayloadKinds : public PayloadTest {
 protected:
  template <class T>
  void comes_back(const std::string& endpoint, const std::vector<T>& values) {
    const auto same = service.endpoint<T(T)>(endpoint);
    for (const T& value : values) EXPECT_EQ(same.route(value).get(), value) << endpoint;
  }
  template <class T>
  void limits_come_back(const std::string& endpoint) {
    using Limits = std::numeric_limits<T>;
    comes_back<T>(endpoint, {T{0}, T{1}, Limits::lowest(), Limits::max(), Limits::min()});
  }

  Service service = serve();
};

Everything everything() {
  Everything all;
  all.yes = true;
  all.tiny = -128;
  all.huge = UINT64_MAX;
  all.ratio = 0.1F;
  all.color = Color::blue;
  all.text = std::string("with a \0 in it", 14);
  all.bytes = Bytes(1000, std::byte{0xAB});
  all.words = {"one", "", "three"};
  all.triple = {-1, 0, 1};
  all.pair = {"left", -5};
  all.choice = Point{4, 0.5};
  all.maybe = Point{1, -1.5};
  all.table = {{"empty", {}}, {"pi", {3.14, 3.14159}}};
  all.tree = {"root", {{"leaf", {}}, {"branch", {{"leaf", {}}}}}};
  all.plain = {"key", std::nullopt};
  return all;
}

TEST_F(PayloadKinds, NumbersComeBackAtTheirLimits) {
  comes_back<bool>("bool", {true, false});
  limits_come_back<std::int8_t>("i8");
  limits_come_back<std::uint8_t>("u8");
  limits_come_back<std::int16_t>("i16");
  limits_come_back<std::uint16_t>("u16");
  limits_come_back<std::int32_t>("i32");
  limits_come_back<std::uint32_t>("u32");
  limits_come_back<std::int64_t>("i64");
  limits_come_back<std::uint64_t>("u64");
  limits_come_back<float>("f32");
  limits_come_back<double>("f64");
  comes_back<double>("f64", {std::numeric_limits<double>::infinity(), 0.1, 5e-324});
  EXPECT_TRUE(std::isnan(service.endpoint<double(double)>("f64").route(std::nan("")).get()));
  EXPECT_TRUE(std::signbit(service.endpoint<float(float)>("f32").route(-0.0F).get()));
  comes_back<Color>("color", {Color::red, Color::green, Color::blue});
  comes_back<Depth>("depth", {kAbyss, kSurface});
}

TEST_F(PayloadKinds, ContainersComeBack) {
  comes_back<std::vector<double>>("doubles", {{}, {0.5}, std::vector<double>(100'000, 1.25)});
  comes_back<std::vector<bool>>("bools", {{}, {true, false, true}});
  comes_back<std::vector<std::string>>("strings", {{}, {"", "a", std::string(100'000, 'x')}});
  comes_back<std::array<std::int16_t, 3>>("array", {{-1, 0, 32767}});
  comes_back<std::pair<std::string, double>>("pair", {{"a", 1.5}, {"", 0}});
  comes_back<std::tuple<bool, std::string, Point>>("tuple", {{true, "t", {1, 2}}});
  comes_back<Choice>("variant", {Choice(std::int64_t{-1}), Choice("text"), Choice(Point{1, 2})});
  comes_back<std::optional<std::string>>("optional", {std::nullopt, "", "there"});
  comes_back<std::map<std::string, std::vector<double>>>("map", {{}, {{"a", {1, 2}}, {"", {}}}});
  comes_back<std::unordered_map<std::string, Point>>("unordered_map", {{}, {{"k", {3, 4}}}});
}

TEST_F(PayloadKinds, StructsComeBack) {
  comes_back<Point>("point", {{}, {-7, 0.25}});
  comes_back<Plain>("plain", {{}, {"k", 5}});
  comes_back<Tree>("tree", {{}, {"a", {{"b", {{"c", {}}}}, {"d", {}}}}});
  comes_back<Everything>("everything", {Everything{}, everything()});
}

TEST_F(PayloadKinds, TextAndBytesOfEverySizeComeBack) {
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{64}, std::size_t{96},
                                 std::size_t{255}, std::size_t{256}, std::size_t{257},
                                 std::size_t{4096}, std::size_t{32'769}, kMiB, 8 * kMiB}) {
    Bytes bytes(size);
    for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 7 + i / 251);
    EXPECT_TRUE(service.endpoint<Bytes(Bytes)>("bytes").route(bytes).get() == bytes) << size;
    const std::string text(size, 't');
    EXPECT_TRUE(service.endpoint<std::string(std::string)>("string").route(text).get() == text)
        << size;
  }
}

TEST_F(PayloadKinds, NothingResultsTasksAndOverloadsAnswer) {
  service.endpoint<void()>("nothing").route().get();
  const auto half = service.endpoint<Result<std::int64_t>(std::int64_t)>("half");
  EXPECT_EQ(half.route(8).get().value(), 4);
  const auto odd = half.route(7).get();
  ASSERT_FALSE(odd);
  EXPECT_EQ(odd.error().error_code(), ErrorCode::invalid_argument);
  EXPECT_THAT(odd.error().what(), HasSubstr("7 is odd"));
  EXPECT_EQ(service.endpoint<std::int64_t(std::int64_t)>("later").route(21).get(), 42);
  EXPECT_EQ(service.endpoint<std::int64_t(std::int64_t)>("overloaded_integer").route(0).get(), 1);
  EXPECT_EQ(service.endpoint<std::int64_t(std::string)>("overloaded_text").route("").get(), 2);
}

TEST_F(PayloadKinds, ConstructorsTakeThemToo) {
  Tensor weights(DType::f32, {1000, 3});
  std::ranges::fill(weights.span<float>(), 0.5F);
  // The literals are an int and a const char*: they become what the constructor takes.
  const Service built = payloads.actor("Built").as_service(-128, 1, "text", everything(), weights);
  EXPECT_EQ(built.endpoint<std::string()>("text").route().get(), "-128 1.000000 text");
  EXPECT_EQ(built.endpoint<Everything()>("everything").route().get(), everything());
  const Tensor back = built.endpoint<Tensor()>("weights").route().get();
  EXPECT_THAT(back.shape(), ElementsAre(1000, 3));
  EXPECT_TRUE(std::ranges::equal(back.bytes(), weights.bytes()));
}

TEST_F(PayloadKinds, TensorsOfEveryTypeAndSizeComeBack) {
  const auto same = service.endpoint<Tensor(Tensor)>("tensor");
  for (unsigned type = 0; type < kDTypeCount; ++type) {
    Tensor tensor(static_cast<DType>(type), {2, 3});
    std::ranges::fill(tensor.span<std::byte>(), std::byte{1});
    const Tensor back = same.route(tensor).get();
    EXPECT_EQ(back.dtype(), tensor.dtype());
    EXPECT_THAT(back.shape(), ElementsAre(2, 3));
    EXPECT_TRUE(std::ranges::equal(back.bytes(), tensor.bytes())) << type;
  }
  for (const std::int64_t size : {16L, 1L << 18, 1L << 21}) {  // of f32: up to 8 MiB
    Tensor tensor(DType::f32, {size});
    std::iota(tensor.span<float>().begin(), tensor.span<float>().end(), 0.0F);
    const Tensor back = same.route(tensor).get();
    EXPECT_EQ(back.size(), tensor.size());
    EXPECT_TRUE(std::ranges::equal(back.bytes(), tensor.bytes())) << size;
  }
  const Tensor scalar = same.route(Tensor(DType::i64, {})).get();
  EXPECT_TRUE(scalar.shape().empty());
  EXPECT_EQ(scalar.size(), 1U);
  const Tensor deep = same.route(Tensor(DType::u8, {1, 2, 1, 2, 1, 2, 1, 2})).get();
  EXPECT_THAT(deep.shape(), ElementsAre(1, 2, 1, 2, 1, 2, 1, 2));
}

TEST_F(PayloadKinds, TensorsWithoutElementsComeBack) {
  const auto same = service.endpoint<Tensor(Tensor)>("tensor");
  EXPECT_EQ(same.route(Tensor()).get().size(), 0U);
  const Tensor none = same.route(Tensor(DType::i16, {4, 0, 2})).get();
  EXPECT_EQ(none.dtype(), DType::i16);
  EXPECT_THAT(none.shape(), ElementsAre(4, 0, 2));
  EXPECT_EQ(same.route(service.allocate(DType::f32, {0})).get().size(), 0U);
  EXPECT_EQ(service.endpoint<double(Tensor)>("sum").route(Tensor(DType::f32, {0})).get(), 0);
}

TEST_F(PayloadKinds, SeveralTensorsTravelInOneCall) {
  std::vector<Tensor> tensors{service.allocate(DType::i32, {4}), Tensor(DType::u8, {3}), Tensor()};
  tensors.push_back(tensors.front());  // twice the same
  std::iota(tensors[0].span<std::int32_t>().begin(), tensors[0].span<std::int32_t>().end(), 10);
  const auto back =
      service.endpoint<std::vector<Tensor>(std::vector<Tensor>)>("tensors").route(tensors).get();
  ASSERT_EQ(back.size(), 4U);
  EXPECT_THAT(back[0].span<const std::int32_t>(), ElementsAre(10, 11, 12, 13));
  EXPECT_THAT(back[3].span<const std::int32_t>(), ElementsAre(10, 11, 12, 13));
  EXPECT_THAT(back[1].shape(), ElementsAre(3));
}

// ---- where tensors lie

TEST_F(PayloadKinds, AnAllocatedTensorIsNotCopiedOnItsWayToTheWorker) {
  Tensor tensor = service.allocate(DType::f32, {8, 1024});
  std::ranges::fill(tensor.span<float>(), 1.0F);
  const Location here = locate(tensor.bytes().data());
  EXPECT_THAT(here.mapping, HasSubstr("memfd:forge:Payloads:arena"));
  EXPECT_EQ(service.endpoint<Location(Tensor)>("where").route(tensor).get(), here);
  EXPECT_EQ(service.endpoint<double(Tensor)>("sum").route(tensor).get(), 8 * 1024);
  EXPECT_TRUE(tensor.frozen());
  EXPECT_THROW(tensor.span<float>(), InvalidArgument);

  Tensor heap(DType::f32, {8, 1024});  // for comparison: copied once, into the same arena
  const Location copied = service.endpoint<Location(Tensor)>("where").route(heap).get();
  EXPECT_EQ(copied.mapping, here.mapping);
  EXPECT_NE(copied.offset, here.offset);
  EXPECT_FALSE(heap.frozen());
}

TEST_F(PayloadKinds, AnAnswerIsReadWhereTheWorkerWroteIt) {
  const Tensor answer =
      service.endpoint<Tensor(std::int64_t, std::uint8_t)>("make_tensor").route(100'000, 3).get();
  EXPECT_THAT(locate(answer.bytes().data()).mapping, HasSubstr(":responses"));
  EXPECT_TRUE(answer.frozen());
  const auto [one, other] =
      service.endpoint<std::pair<Tensor, Tensor>(std::int64_t)>("twins").route(5000).get();
  EXPECT_EQ(one.bytes().data(), other.bytes().data());
}

TEST_F(PayloadKinds, ATensorOfAnotherServiceIsCopied) {
  const Service other = serve({.name = "other"});
  Tensor tensor = other.allocate(DType::f32, {1000});
  std::ranges::fill(tensor.span<float>(), 2.0F);
  EXPECT_EQ(service.endpoint<double(Tensor)>("sum").route(tensor).get(), 2000);
}

TEST_F(PayloadKinds, AnActorMayNotWriteToItsArgument) {
  const auto scribble = service.endpoint<void(Tensor)>("scribble");
  EXPECT_THAT(error_of<ActorError>(scribble.route(Tensor(DType::f32, {4}))),
              HasSubstr("forge::InvalidArgument"));
  service.endpoint<void()>("nothing").route().get();
}

TEST_F(PayloadKinds, AnActorMayKeepItsArgument) {
  const auto keep = service.endpoint<void(Tensor)>("keep");
  for (const bool resident : {true, false}) {
    {
      Tensor tensor =
          resident ? service.allocate(DType::u8, {70'000}) : Tensor(DType::u8, {70'000});
      std::ranges::fill(tensor.span<std::uint8_t>(), 5);
      keep.route(tensor).get();
    }
    // Its place in the arena is used by others now.
    for (int i = 0; i < 50; ++i) {
      Tensor other = service.allocate(DType::u8, {70'000});
      std::ranges::fill(other.span<std::uint8_t>(), 6);
      service.endpoint<Tensor(Tensor)>("tensor").route(other).get();
    }
    const Tensor kept = service.endpoint<Tensor()>("kept").route().get();
    EXPECT_EQ(std::ranges::count(kept.span<const std::uint8_t>(), 5), 70'000);
  }
}

TEST_F(PayloadTest, TensorsOutliveTheirServiceAndController) {
  const Footprint before = Footprint::now();
  Tensor answer;
  Tensor mine;
  {
    Controller other;
    Service service = other.load(plugin_path("payloads")).actor("Payloads").as_service();
    answer =
        service.endpoint<Tensor(std::int64_t, std::uint8_t)>("make_tensor").route(99'999, 3).get();
    mine = service.allocate(DType::u8, {50'000});
    std::ranges::fill(mine.span<std::uint8_t>(), 4);
  }
  EXPECT_EQ(std::ranges::count(answer.span<const std::uint8_t>(), 3), 99'999);
  EXPECT_EQ(std::ranges::count(mine.span<std::uint8_t>(), 4), 50'000);
  answer = Tensor();
  mine = Tensor();
  EXPECT_TRUE(returns_to(before));
}

// ---- an answer stays what it was

[[nodiscard]] bool all_are(const Tensor& tensor, std::uint8_t value) {
  const auto values = tensor.span<const std::uint8_t>();
  return !values.empty() && std::ranges::count(values, value) == std::ssize(values);
}

TEST_F(PayloadTest, AnActorCannotWriteToATensorThatItHasReturned) {
  const Service service = serve();
  const auto repaint = service.endpoint<Tensor(std::uint8_t)>("repaint");
  const Tensor first = value_of(repaint.route(1));
  EXPECT_TRUE(all_are(first, 1));
  EXPECT_THAT(error_of<ActorError>(repaint.route(2)), HasSubstr("frozen"));
  EXPECT_TRUE(all_are(first, 1));
  const Tensor second =
      value_of(service.endpoint<Tensor(std::uint8_t)>("repaint_copy").route(std::uint8_t{3}));
  EXPECT_TRUE(all_are(second, 3));
  EXPECT_TRUE(all_are(first, 1));
}

TEST_F(PayloadTest, ATensorThatIsReturnedAgainLivesAsLongAsAllItsAnswers) {
  const Service service = serve({.arena_bytes = 2 * kMiB});
  const auto painted = service.endpoint<Tensor()>("painted");
  Tensor first = value_of(service.endpoint<Tensor(std::uint8_t)>("repaint").route(std::uint8_t{1}));
  const Tensor again = value_of(painted.route());
  first = Tensor();
  service.endpoint<void()>("forget_painted").route().get();
  const auto make = service.endpoint<Tensor(std::int64_t, std::uint8_t)>("make_tensor");
  for (int i = 0; i < 40; ++i) EXPECT_TRUE(all_are(value_of(make.route(200'000, 2)), 2));
  EXPECT_TRUE(all_are(again, 1));
}

// ---- full memory

class FullMemory : public PayloadTest {
 protected:
  static constexpr std::size_t kArena = 4 * kMiB;
  Service service = serve({.arena_bytes = kArena});
};
using Fault = FullMemory;

TEST_F(Fault, PayloadTooLarge) {
  const auto bytes = service.endpoint<Bytes(Bytes)>("bytes");
  const std::string text = error_of<PayloadTooLarge>(bytes.route(Bytes(kArena + 1)));
  EXPECT_THAT(text, HasSubstr("arena_bytes"));
  EXPECT_THAT(text, HasSubstr(std::to_string(kArena)));
  EXPECT_THAT(message_of<PayloadTooLarge>(
                  [&] { service.allocate(DType::u8, {static_cast<std::int64_t>(kArena + 1)}); }),
              HasSubstr("arena_bytes"));
  EXPECT_THROW(service.allocate(DType::u8, {-1}), InvalidArgument);
  EXPECT_THROW(service.allocate(DType::f64, {INT64_MAX, 2}), InvalidArgument);
  EXPECT_EQ(bytes.route(Bytes(1000)).get().size(), 1000U);
}

TEST_F(Fault, ArenaFull) {
  const auto nothing = service.endpoint<Bytes(Bytes)>("bytes");
  std::vector<Tensor> held;
  const std::string text = message_of<Backpressure>([&] {
    for (;;) held.push_back(service.allocate(DType::u8, {100'000}));
  });
  EXPECT_THAT(text, HasSubstr("drop tensors"));
  EXPECT_GT(held.size(), kArena / 100'000 / 2);
  EXPECT_THAT(error_of<Backpressure>(nothing.route(Bytes(100'000))), HasSubstr("arena"));
  held.clear();
  EXPECT_EQ(nothing.route(Bytes(100'000)).get().size(), 100'000U);
  EXPECT_NO_THROW(service.allocate(DType::u8, {3'000'000}));
}

TEST_F(Fault, AnswerTooLarge) {
  const auto make = service.endpoint<Bytes(std::uint64_t, std::uint8_t)>("make_bytes");
  const std::string text = error_of<PayloadTooLarge>(make.route(2 * kArena, 1));
  EXPECT_THAT(text, HasSubstr("Payloads.make_bytes"));
  EXPECT_THAT(text, HasSubstr("arena_bytes"));
  EXPECT_EQ(make.route(kMiB, 1).get().size(), kMiB);
  // A tensor that does not fit there lies on the worker's heap and is refused like bytes.
  const auto tensor = service.endpoint<Tensor(std::int64_t, std::uint8_t)>("make_tensor");
  EXPECT_THAT(error_of<PayloadTooLarge>(tensor.route(2 * kArena, 1)), HasSubstr("arena_bytes"));
  EXPECT_EQ(tensor.route(kMiB, 1).get().size(), kMiB);
}

TEST_F(FullMemory, AnswersThatAreKeptFillItAndItRecovers) {
  // Each kept answer holds memory of the worker, until there is none left.
  for (const char* endpoint : {"make_tensor", "make_heap_tensor"}) {
    const auto make = service.endpoint<Tensor(std::int64_t, std::uint8_t)>(endpoint);
    std::vector<Tensor> kept;
    std::size_t refused = 0;
    for (int i = 0; i < 40; ++i) {
      auto answer = make.route(300'000, i).result();
      if (answer) {
        kept.push_back(std::move(*answer));
      } else {
        ++refused;
        EXPECT_EQ(answer.error().error_code(), ErrorCode::backpressure) << answer.error().what();
      }
    }
    for (std::size_t i = 0; i < kept.size(); ++i) {
      const auto values = kept[i].span<const std::uint8_t>();
      EXPECT_EQ(std::ranges::count(values, values.front()), 300'000) << endpoint;
    }
    EXPECT_GT(kept.size(), 5U);
    kept.clear();
    // What was dropped goes back with the next request or two.
    EXPECT_TRUE(wait_until([&] { return make.route(1'000'000, 1).result().has_value(); }));
    // Bytes that the worker copied in can be copied out again; what was born there cannot.
    EXPECT_EQ(refused != 0, std::string(endpoint) == "make_tensor");
  }
}

TEST_F(FullMemory, ErrorsGetThroughWhenItIsFull) {
  const auto make = service.endpoint<Tensor(std::int64_t, std::uint8_t)>("make_tensor");
  std::vector<Tensor> kept;
  for (const std::int64_t size : {500'000, 50'000, 5'000, 500, 50}) {
    for (;;) {
      auto answer = make.route(size, 1).result();
      if (!answer) {
        EXPECT_EQ(answer.error().error_code(), ErrorCode::backpressure);
        break;
      }
      if (locate(answer->bytes().data()).mapping.find(":responses") == std::string::npos) break;
      kept.push_back(std::move(*answer));
    }
  }
  const auto fail = service.endpoint<void(std::string, std::string)>("fail");
  const auto outcome = fail.route("range", std::string(10'000, 'x')).result();
  ASSERT_FALSE(outcome);
  // Its text may not have fitted; then at least that is said.
  EXPECT_THAT(outcome.error().error_code(),
              ::testing::AnyOf(ErrorCode::actor_error, ErrorCode::backpressure));
  EXPECT_EQ(service.replicas().front().incarnation, 1U);
  kept.clear();
  EXPECT_EQ(make.route(1'000'000, 1).get().size(), 1'000'000U);
}

TEST_F(FullMemory, ManyLargeAnswersOutstandingAllCompleteAndItRecovers) {
  const auto make = service.endpoint<Bytes(std::uint64_t, std::uint8_t)>("make_bytes");
  std::vector<Future<Bytes>> futures;
  for (int i = 0; i < 100; ++i) futures.push_back(make.route(200'000, i));
  for (std::size_t i = 0; i < futures.size(); ++i)
    EXPECT_TRUE(value_of(std::move(futures[i])) == Bytes(200'000, static_cast<std::byte>(i)));
  EXPECT_EQ(make.route(1'500'000, 1).get().size(), 1'500'000U);
}

/// Eight answers of 3 MiB, more than fits, each asked for before the first is fetched.
class Crowded : public PayloadTest {
 protected:
  static constexpr std::size_t kArena = 8 * kMiB;
  static constexpr std::uint64_t kSize = 3 * kMiB;
  static constexpr int kCalls = 8;

  /// Fetches the last one first: nobody waits for an answer to be fetched.
  template <class T>
  static std::vector<T> backwards(std::vector<Future<T>> futures) {
    std::vector<T> answers;
    for (auto next = futures.rbegin(); next != futures.rend(); ++next)
      answers.push_back(value_of(std::move(*next)));
    std::ranges::reverse(answers);
    return answers;
  }
  void answers_bytes(const Service& service, const char* name) {
    const auto make = service.endpoint<Bytes(std::uint64_t, std::uint8_t)>(name);
    for (int round = 0; round < 2; ++round) {
      std::vector<Future<Bytes>> futures;
      for (std::uint8_t i = 0; i < kCalls; ++i) futures.push_back(make.route(kSize, i));
      for (std::uint8_t i = 0; const Bytes& answer : backwards(std::move(futures)))
        EXPECT_TRUE(answer == Bytes(kSize, std::byte{i++})) << name;
    }
  }
};

TEST_F(Crowded, AnswersWaitForRoomInsteadOfBeingLost) {
  const Service service = serve({.arena_bytes = kArena});
  answers_bytes(service, "make_bytes_counted");
  EXPECT_EQ(value_of(service.endpoint<std::int64_t()>("executions").route()), 2 * kCalls);
}

TEST_F(Crowded, SoDoThoseOfCoroutines) {
  answers_bytes(serve({.arena_bytes = kArena}), "make_bytes_later");
}

TEST_F(Crowded, SoDoThoseOfRanksInLockstep) {
  answers_bytes(serve({.procs = 2, .arena_bytes = kArena}), "make_bytes");
}

TEST_F(Crowded, SoDoThoseOfOneBatch) {
  const Service service = serve({.arena_bytes = kArena});
  const auto make = service.endpoint<Bytes(std::uint64_t)>("make_bytes_batch");
  std::vector<Future<Bytes>> futures;
  for (int i = 0; i < kCalls; ++i) futures.push_back(make.route(kSize));
  for (const Bytes& answer : backwards(std::move(futures))) EXPECT_EQ(answer.size(), kSize);
  EXPECT_EQ(value_of(service.endpoint<std::int64_t()>("executions").route()), kCalls);
}

TEST_F(Crowded, TensorsThatNobodyHasFetchedMakeRoom) {
  const Service service = serve({.arena_bytes = kArena});
  for (const char* name : {"make_tensor", "make_heap_tensor"}) {
    const auto make = service.endpoint<Tensor(std::int64_t, std::uint8_t)>(name);
    std::vector<Future<Tensor>> futures;
    for (std::uint8_t i = 1; i <= kCalls; ++i) futures.push_back(make.route(kSize / 2, i));
    // The last one does not fit beside the others, which fit beside each other.
    auto large = make.route(4 * kMiB, 99);
    EXPECT_TRUE(all_are(value_of(std::move(large)), 99)) << name;
    for (std::uint8_t i = 1; auto& future : futures)
      EXPECT_TRUE(all_are(value_of(std::move(future)), i++)) << name;
    // Two views of one, which is one again where it is moved out.
    const auto twins = service.endpoint<std::pair<Tensor, Tensor>(std::int64_t)>("twins");
    auto two = twins.route(kMiB);
    value_of(make.route(7 * kMiB, 3));
    const auto [one, other] = value_of(std::move(two));
    EXPECT_TRUE(all_are(one, 9));
    EXPECT_TRUE(all_are(other, 9));
  }
}

TEST_F(Crowded, WhatIsFetchedAndHeldIsAnErrorUntilItIsDropped) {
  const Service service = serve({.arena_bytes = kArena});
  const auto make = service.endpoint<Tensor(std::int64_t, std::uint8_t)>("make_tensor");
  std::vector<Tensor> held;
  held.push_back(value_of(make.route(kSize, 1)));
  held.push_back(value_of(make.route(kSize, 2)));
  EXPECT_THAT(error_of<Backpressure>(make.route(kSize, 3)), HasSubstr("still holds"));
  EXPECT_TRUE(all_are(held[0], 1));
  EXPECT_TRUE(all_are(held[1], 2));
  held.clear();
  EXPECT_TRUE(all_are(value_of(make.route(kSize, 4)), 4));
  const std::string text = error_of<PayloadTooLarge>(make.route(kArena + 1, 1));
  EXPECT_THAT(text, HasSubstr("does not fit"));
  service.endpoint<void()>("nothing").route().get();
}

TEST_F(Crowded, SoIsWhatTheActorKeeps) {
  const Service service = serve({.arena_bytes = kArena});
  const auto hoard = service.endpoint<void(std::int64_t)>("hoard");
  for (int i = 0; i < 2; ++i) hoard.route(kSize).get();
  const auto make = service.endpoint<Bytes(std::uint64_t, std::uint8_t)>("make_bytes");
  EXPECT_THAT(error_of<Backpressure>(make.route(kSize, 3)), HasSubstr("the actor keeps"));
  EXPECT_EQ(value_of(make.route(kMiB, 3)).size(), kMiB);
}

TEST_F(FullMemory, DroppedAnswersDoNotFillIt) {
  const auto make = service.endpoint<Tensor(std::int64_t, std::uint8_t)>("make_tensor");
  for (int i = 0; i < 200; ++i) make.route(400'000, i).get();
  for (int i = 0; i < 200; ++i) {
    auto dropped = make.route(400'000, i);
    if (i % 4 == 3) dropped.wait_for(1h);
  }
  EXPECT_TRUE(wait_until([&] { return make.route(1'000'000, 1).result().has_value(); }));
}

}  // namespace
}  // namespace forge::e2e
