// Codecs: round trips of all payload kinds, type strings, range checks, damage and heap use.
#include <forge/error.h>
#include <forge/payload.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "tests/shm/count_allocations.h"
#include "tests/shm/message.h"

// --- Types under test, as users write them -------------------------------------------------------

struct Point {
  std::int32_t x = 0;
  double y = 0;
  FORGE_FIELDS(x, y);
  bool operator==(const Point&) const = default;
};
static_assert(std::is_aggregate_v<Point> && sizeof(Point) == 16);

struct Node {
  int value = 0;
  std::vector<Node> children;
  std::map<std::string, Node> named;
  FORGE_FIELDS(value, children, named);
  bool operator==(const Node&) const = default;
};
static_assert(std::is_aggregate_v<Node>);

enum class Colour : std::uint8_t { red = 1, blue = 200 };
enum Plain { kFirst, kSecond };

struct Scene {
  std::string title;
  std::optional<Point> origin;
  std::vector<Point> points;
  std::variant<std::int64_t, std::string, Point> tag;
  std::map<std::string, std::vector<float>> layers;
  std::unordered_map<std::string, std::pair<bool, Colour>> flags;
  std::array<std::uint16_t, 3> size{};
  forge::Bytes blob;
  std::tuple<std::int8_t, std::optional<std::optional<int>>> rest;
  FORGE_FIELDS(title, origin, points, tag, layers, flags, size, blob, rest);
  bool operator==(const Scene&) const = default;
};

class Secret {
 public:
  Secret() = default;
  explicit Secret(int code) : code_(code) {}
  int code() const { return code_; }
  FORGE_FIELDS(code_);

 private:
  int code_ = 0;
};

struct Nothing {
  FORGE_FIELDS();
  bool operator==(const Nothing&) const = default;
};

struct Many {
  int a0 = 0, a1 = 0, a2 = 0, a3 = 0, a4 = 0, a5 = 0, a6 = 0, a7 = 0, a8 = 0, a9 = 0, b0 = 0,
      b1 = 0, b2 = 0, b3 = 0, b4 = 0, b5 = 0, b6 = 0, b7 = 0, b8 = 0, b9 = 0, c0 = 0, c1 = 0,
      c2 = 0, c3 = 0, c4 = 0, c5 = 0, c6 = 0, c7 = 0, c8 = 0, c9 = 0, d0 = 0, d1 = 0;
  FORGE_FIELDS(a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, c0,
               c1, c2, c3, c4, c5, c6, c7, c8, c9, d0, d1);
  bool operator==(const Many&) const = default;
};

namespace theirs {
struct Pair {
  int left = 0;
  std::string right;
  bool operator==(const Pair&) const = default;
};
}  // namespace theirs
FORGE_FIELDS_OF(theirs::Pair, left, right)

namespace forge::detail {
namespace {

using tests::allocations;
using tests::MemorySource;
using tests::MemoryStorage;
using tests::Message;

static_assert(is_payload<const Point&> && is_payload<theirs::Pair> && is_payload<Secret>);
static_assert(is_payload<void> && is_payload<Result<void>> && is_payload<Result<Node>>);
static_assert(is_payload<std::vector<bool>> && is_payload<Plain> && is_payload<char>);
static_assert(!is_payload<int*> && !is_payload<const char*> && !is_payload<long double>);
static_assert(!is_payload<std::map<int, int>> && !is_payload<std::vector<int*>>);

template <class T>
T round_trip(const T& value, TensorSource* source = nullptr) {
  Writer writer;
  Codec<T>::encode(writer, value);
  const Message message(writer);
  Reader reader = message.reader(source);
  T back = Codec<T>::decode(reader);
  reader.finish();
  return back;
}

template <class T>
void expect_round_trip(const T& value) {
  EXPECT_EQ(round_trip(value), value) << type_of<T>();
}

/// Writes a From and reads it as a To, as constructor arguments do.
template <class To, class From>
To convert(const From& value) {
  Writer writer;
  encode(writer, value);
  const Message message(writer);
  Reader reader = message.reader();
  return Codec<To>::decode(reader);
}

Scene example_scene() {
  return {.title = "a scene",
          .origin = Point{.x = 1, .y = -2.5},
          .points = {{1, 2}, {3, 4}},
          .tag = std::string("tag"),
          .layers = {{"one", {1, 2, 3}}, {"none", {}}},
          .flags = {{"on", {true, Colour::blue}}},
          .size = {1, 2, 65535},
          .blob = Bytes(9, std::byte{9}),
          .rest = {-128, std::optional<int>()}};
}

TEST(Codec, RoundTripsNumbers) {
  const auto borders = []<class T>(T) {
    expect_round_trip(std::numeric_limits<T>::min());
    expect_round_trip(std::numeric_limits<T>::max());
    expect_round_trip(std::numeric_limits<T>::lowest());
    expect_round_trip(T{0});
    expect_round_trip(T{1});
  };
  std::apply(
      [&](auto... zero) { (borders(zero), ...); },
      std::tuple<bool, char, signed char, unsigned char, short, unsigned short, int, unsigned, long,
                 unsigned long, long long, unsigned long long, float, double, char16_t, wchar_t>());
  expect_round_trip(std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(round_trip(std::nanf(""))));
  EXPECT_TRUE(std::signbit(round_trip(-0.0)));
}

TEST(Codec, RoundTripsEnumsStringsAndBytes) {
  expect_round_trip(Colour::blue);
  expect_round_trip(kSecond);
  for (const std::size_t size : {0, 1, 31, 32, 255, 256, 257, 70000}) {
    expect_round_trip(std::string(size, 's'));
    expect_round_trip(Bytes(size, std::byte{5}));
  }
}

TEST(Codec, RoundTripsVectorsAndArrays) {
  for (const std::size_t size : {0, 1, 3, 64, 65, 1000}) {
    expect_round_trip(std::vector<float>(size, 1.5f));
    expect_round_trip(std::vector<std::int64_t>(size, -7));
    expect_round_trip(std::vector<Colour>(size, Colour::red));
    expect_round_trip(std::vector<bool>(size, true));
    expect_round_trip(std::vector<std::string>(size, "text"));
    expect_round_trip(std::vector<std::vector<std::uint8_t>>(size, {1, 2}));
  }
  expect_round_trip(std::array<double, 3>{1, 2, 3});
  expect_round_trip(std::array<double, 100>{1, 2, 3});
  expect_round_trip(std::array<int, 0>{});
  expect_round_trip(std::array<std::string, 2>{"a", "b"});
}

TEST(Codec, RoundTripsCompounds) {
  expect_round_trip(std::pair<int, std::string>(1, "one"));
  expect_round_trip(std::tuple<>());
  expect_round_trip(std::tuple<int>(4));
  expect_round_trip(std::tuple<int, std::tuple<std::string>, bool>(4, {"x"}, true));
  using Variant = std::variant<std::monostate, int, int, std::string>;
  expect_round_trip(Variant());
  expect_round_trip(Variant(std::in_place_index<2>, 5));
  expect_round_trip(Variant("text"));
  expect_round_trip(std::optional<int>());
  expect_round_trip(std::optional<int>(0));
  expect_round_trip(std::map<std::string, int>{{"", 0}, {"b", 2}});
  expect_round_trip(std::unordered_map<std::string, std::vector<int>>{{"a", {1}}, {"b", {}}});
}

TEST(Codec, TellsAnEmptyOptionalFromOneThatHoldsNothing) {
  using Twice = std::optional<std::optional<int>>;
  expect_round_trip(Twice());
  expect_round_trip(Twice(std::optional<int>()));
  expect_round_trip(Twice(5));
  expect_round_trip(std::optional<std::monostate>());
  expect_round_trip(std::optional(std::monostate()));
}

TEST(Codec, RoundTripsStructs) {
  expect_round_trip(Point{.x = 1, .y = 2.5});
  expect_round_trip(example_scene());
  expect_round_trip(theirs::Pair{3, "three"});
  expect_round_trip(Nothing());
  expect_round_trip(Many{.a0 = 1, .b5 = 2, .d1 = 32});
  EXPECT_EQ(round_trip(Secret(7)).code(), 7);

  struct Local {
    int x = 0;
    std::vector<Point> points;
    FORGE_FIELDS(x, points);
    bool operator==(const Local&) const = default;
  };
  expect_round_trip(Local{.x = 1, .points = {{1, 1}}});
}

TEST(Codec, RoundTripsRecursiveStructs) {
  Node tree{.value = 1, .children = {{2, {}, {}}, {3, {{4, {}, {}}}, {}}}, .named = {}};
  tree.named["five"] = {.value = 5, .children = {}, .named = {{"six", {}}}};
  expect_round_trip(tree);

  Node deep;
  for (int i = 0; i < 100; ++i) deep = Node{i, {deep}, {}};
  Writer writer;
  EXPECT_THROW(Codec<Node>::encode(writer, deep), InvalidArgument) << "deeper than the wire form";
}

TEST(Codec, TakesNothingForAnErrorThatIsNone) {
  const std::byte nothing[] = {std::byte{0x90}, std::byte{0}};  // no parts, code 0
  forge::detail::Reader reader(nothing);
  EXPECT_THROW((void)forge::detail::read_error(reader, 0), forge::InvalidArgument);
}

TEST(Codec, RoundTripsResults) {
  using Results = std::vector<Result<std::string>>;
  const Results results = {"fine", Backpressure("full"), ActorError("f", "std::bad_alloc", "oom"),
                           WorkerLost("gone", false)};
  const Results back = round_trip(results);
  ASSERT_EQ(back.size(), 4u);
  EXPECT_EQ(back[0].value(), "fine");
  EXPECT_THROW(back[1].value(), Backpressure);
  EXPECT_EQ(dynamic_cast<const ActorError&>(back[2].error()).type(), "std::bad_alloc");
  EXPECT_FALSE(dynamic_cast<const WorkerLost&>(back[3].error()).maybe_executed());

  EXPECT_TRUE(round_trip(Result<void>()).has_value());
  EXPECT_THROW(round_trip(Result<void>(Stopped("no"))).value(), Stopped);
}

TEST(Codec, OfVoidIsNil) {
  Writer writer;
  Codec<void>::encode(writer);
  const Message message(writer);
  Reader reader = message.reader();
  EXPECT_NO_THROW(Codec<void>::decode(reader));
  EXPECT_TRUE(reader.at_end());
}

struct Sample {
  std::string name;
  Tensor image;
  std::vector<Tensor> more;
  FORGE_FIELDS(name, image, more);
};

TEST(Codec, CarriesTensorsInAndOutOfHome) {
  const auto home = std::make_shared<MemoryStorage>(4096);
  home->home = home.get();
  constexpr std::int64_t kShape[] = {2, 8};
  Tensor outside(DType::f32, {300});
  outside.span<float>()[299] = 2.5f;
  const Sample sample{.name = "digit",
                      .image = Tensor::adopt(home, DType::u8, kShape, 128),
                      .more = {outside, Tensor(), outside}};
  Writer writer;
  writer.reset(home.get());
  Codec<Sample>::encode(writer, sample);
  EXPECT_EQ(writer.residents().size(), 1u);

  const Message message(writer);
  MemorySource source(message.blobs(), home);
  Reader reader = message.reader(&source);
  const Sample back = Codec<Sample>::decode(reader);
  EXPECT_EQ(back.image.bytes().data(), sample.image.bytes().data());
  ASSERT_EQ(back.more.size(), 3u);
  EXPECT_EQ(back.more[2].span<const float>()[299], 2.5f);
  EXPECT_EQ(back.more[1].size(), 0u);
}

// --- Types ---------------------------------------------------------------------------------------

TEST(TypeString, SpellsEveryKind) {
  EXPECT_EQ(type_of<bool>(), "bool");
  EXPECT_EQ(type_of<long>(), "i64");
  EXPECT_EQ(type_of<long long>(), "i64");
  EXPECT_EQ(type_of<unsigned char>(), "u8");
  EXPECT_EQ(type_of<const float&>(), "f32");
  EXPECT_EQ(type_of<Colour>(), "u8");
  EXPECT_EQ(type_of<std::string>(), "str");
  EXPECT_EQ(type_of<Bytes>(), "bytes");
  EXPECT_EQ(type_of<Tensor>(), "tensor");
  EXPECT_EQ(type_of<void>(), "void");
  EXPECT_EQ(type_of<std::vector<std::vector<float>>>(), "[[f32]]");
  EXPECT_EQ((type_of<std::array<std::string, 3>>()), "[str;3]");
  EXPECT_EQ((type_of<std::pair<int, bool>>()), "(i32,bool)");
  EXPECT_EQ((type_of<std::tuple<int>>()), "(i32)");
  EXPECT_EQ((type_of<std::variant<int, bool>>()), "(i32|bool)");
  EXPECT_EQ((type_of<std::variant<int>>()), "(i32|)");
  EXPECT_EQ(type_of<std::optional<int>>(), "i32?");
  EXPECT_EQ((type_of<std::map<std::string, int>>()), "{str:i32}");
  EXPECT_EQ((type_of<std::unordered_map<std::string, int>>()), "{str:i32}");
  EXPECT_EQ(type_of<Point>(), "{x:i32,y:f64}");
  EXPECT_EQ(type_of<Nothing>(), "{}");
  EXPECT_EQ(type_of<theirs::Pair>(), "{left:i32,right:str}");
  EXPECT_EQ(type_of<std::vector<Result<int>>>(), "[i32!]");
}

struct Outer {
  struct Inner {
    std::vector<Outer> outers;
    std::vector<Inner> inners;
    FORGE_FIELDS(outers, inners);
  };
  std::vector<Inner> parts;
  Point point;
  std::optional<Point> again;
  FORGE_FIELDS(parts, point, again);
};

TEST(TypeString, NamesTheStructAroundWhereItRecurs) {
  EXPECT_EQ(type_of<Node>(), "{value:i32,children:[^1],named:{str:^1}}");
  EXPECT_EQ(type_of<Outer>(),
            "{parts:[{outers:[^2],inners:[^1]}],point:{x:i32,y:f64},again:{x:i32,y:f64}?}");
}

TEST(TypeString, OfASignatureIgnoresConstAndReferences) {
  EXPECT_EQ((signature_of<std::int64_t()>()), "i64()");
  EXPECT_EQ((signature_of<void(const std::string&, std::vector<long long>&&, Point)>()),
            "void(str,[i64],{x:i32,y:f64})");
  EXPECT_EQ((signature_of<const int&(const Tensor)>()), "i32(tensor)");
}

// --- Conversions and refusals --------------------------------------------------------------------

TEST(Codec, ConvertsArgumentsThatFit) {
  EXPECT_EQ(convert<std::int64_t>(5), 5);
  EXPECT_EQ(convert<std::uint8_t>(std::int64_t{255}), 255);
  EXPECT_EQ(convert<double>(5), 5.0);
  EXPECT_EQ(convert<float>(0.1), 0.1f);
  EXPECT_EQ(convert<std::string>("literal"), "literal");
  EXPECT_EQ(convert<std::string>(std::string_view("view")), "view");
  EXPECT_EQ(convert<std::optional<std::int64_t>>(5), 5);
  EXPECT_THAT((convert<std::vector<std::int64_t>>(std::vector<int>{1, -2})),
              testing::ElementsAre(1, -2));
  EXPECT_THAT((convert<std::vector<float>>(std::vector<int>(100, 3))), testing::Each(3.0f));
  EXPECT_THAT((convert<std::array<double, 2>>(std::vector<float>{1, 2})),
              testing::ElementsAre(1, 2));
  static_assert(std::is_same_v<PayloadOf<const char(&)[4]>, std::string>);
  static_assert(std::is_same_v<PayloadOf<const Point&>, Point>);
}

TEST(Codec, ReadsPlainArraysOfNumbers) {
  Writer writer;
  writer.array(3);
  writer.integer(1);
  writer.integer(-2);
  writer.integer(3);
  const Message message(writer);
  Reader first = message.reader();
  EXPECT_THAT(Codec<std::vector<int>>::decode(first), testing::ElementsAre(1, -2, 3));
  Reader second = message.reader();
  EXPECT_THAT((Codec<std::array<float, 3>>::decode(second)), testing::ElementsAre(1, -2, 3));
  Reader third = message.reader();
  EXPECT_THROW(Codec<std::vector<unsigned>>::decode(third), InvalidArgument);
}

/// Expects InvalidArgument that names value and type.
template <class To, class From>
void expect_no_fit(const From& value, const std::string& text, const std::string& type) {
  try {
    convert<To>(value);
    FAIL() << text << " fit " << type;
  } catch (const InvalidArgument& error) {
    EXPECT_THAT(error.what(), testing::AllOf(testing::HasSubstr(text), testing::HasSubstr(type)));
  }
}

TEST(Codec, RefusesNumbersThatDoNotFit) {
  expect_no_fit<std::int8_t>(128, "128", "i8");
  expect_no_fit<std::int8_t>(-129, "-129", "i8");
  expect_no_fit<std::uint8_t>(-1, "-1", "u64");
  expect_no_fit<std::uint16_t>(65536, "65536", "u16");
  expect_no_fit<Colour>(256, "256", "u8");
  expect_no_fit<std::int64_t>(~std::uint64_t{0}, "18446744073709551615", "i64");
  expect_no_fit<float>(1e39, "1e+39", "f32");
  expect_no_fit<std::vector<std::int8_t>>(std::vector<int>{1, 200}, "200", "i8");
  expect_no_fit<std::vector<unsigned>>(std::vector<int>{-1}, "-1", "u32");
  expect_no_fit<std::vector<int>>(std::vector<double>{2.5}, "2.5", "i32");
  expect_no_fit<std::vector<float>>(std::vector<double>{1e39}, "1e+39", "f32");
  expect_no_fit<std::vector<std::int64_t>>(std::vector<std::uint64_t>{~0ull},
                                           "18446744073709551615", "i64");
}

TEST(Codec, RefusesOtherShapes) {
  EXPECT_THROW(convert<int>(2.5), InvalidArgument);
  EXPECT_THROW(convert<int>(std::string("5")), InvalidArgument);
  EXPECT_THROW(convert<bool>(1), InvalidArgument);
  EXPECT_THROW(convert<std::string>(Bytes(3)), InvalidArgument);
  EXPECT_THROW(convert<Bytes>(std::string("abc")), InvalidArgument);
  EXPECT_THROW(convert<Tensor>(std::vector<int>{1}), InvalidArgument);
  EXPECT_THROW((convert<std::array<int, 2>>(std::vector<int>{1, 2, 3})), InvalidArgument);
  EXPECT_THROW((convert<std::pair<int, int>>(std::tuple<int, int, int>())), InvalidArgument);
  EXPECT_THROW(convert<Point>(Nothing()), InvalidArgument);
  EXPECT_THROW((convert<std::variant<int>>(std::pair<int, int>(1, 1))), InvalidArgument);
  EXPECT_THROW((void)(convert<Result<int>>(std::pair<int, int>(3, 1))), InvalidArgument);
}

TEST(Codec, RefusesAKeyThatComesTwice) {
  Writer writer;
  writer.map(2);
  for (int i = 0; i < 2; ++i) {
    writer.string("key");
    writer.integer(i);
  }
  const Message message(writer);
  Reader reader = message.reader();
  EXPECT_THROW((Codec<std::map<std::string, int>>::decode(reader)), InvalidArgument);
}

template <class T>
void expect_survival(const T& value) {
  Writer writer;
  Codec<T>::encode(writer, value);
  const Message message(writer);
  MemorySource source(message.blobs());
  const auto decode = [&](const std::vector<std::byte>& head) {
    Reader reader = message.reader(head, &source);
    try {
      (void)Codec<T>::decode(reader);
    } catch (const InvalidArgument&) {
      return false;
    }
    return true;
  };
  ASSERT_TRUE(decode(message.head()));
  allocations().largest = 0;
  for (std::size_t size = 0; size < message.head().size(); ++size) {
    EXPECT_FALSE(decode({message.head().begin(), message.head().begin() + long(size)})) << size;
  }
  for (std::size_t at = 0; at < message.head().size(); ++at) {
    std::vector<std::byte> damaged = message.head();
    for (unsigned flip = 1; flip < 256; ++flip) {
      damaged[at] = message.head()[at] ^ static_cast<std::byte>(flip);
      decode(damaged);
    }
  }
  EXPECT_LT(allocations().largest, 16384 + 4 * writer.block_size()) << "believed a false count";
}

TEST(Codec, SurvivesEveryTruncationAndEveryDamagedByte) {
  expect_survival(example_scene());
  expect_survival(Node{.value = 1, .children = {{2, {}, {}}, {3, {{4, {}, {}}}, {}}}, .named = {}});
  expect_survival(std::vector<Result<int>>{1, Backpressure("full"), WorkerLost("gone")});
  expect_survival(Sample{.name = "n", .image = Tensor(DType::f32, {2, 3}), .more = {}});
  expect_survival(std::tuple(std::vector<float>(100), std::vector<std::vector<Scene>>(3)));
}

// --- Heap ----------------------------------------------------------------------------------------

/// Heap allocations of one encode and decode, once the writer has grown.
template <class T>
std::size_t allocations_of(const T& value) {
  Writer writer;
  std::vector<std::byte> block(4096);
  std::size_t count = 0;
  for (int i = 0; i < 3; ++i) {
    const std::size_t before = allocations().count;
    writer.reset();
    Codec<T>::encode(writer, value);
    writer.write_to(block.data());
    const auto head = std::span(block).first(writer.head().size());
    Reader reader(head, blobs_of(std::span(block).first(writer.block_size()), head.size()));
    [[maybe_unused]] const T back = Codec<T>::decode(reader);
    count = allocations().count - before;
  }
  return count;
}

TEST(Codec, UsesNoHeapBesidesTheDecodedValue) {
  EXPECT_EQ(allocations_of(std::int64_t{1} << 40), 0u);
  EXPECT_EQ(allocations_of(std::tuple(1, 2.5, true, std::string("short"))), 0u);
  EXPECT_EQ(allocations_of(Point{1, 2}), 0u);
  EXPECT_EQ(allocations_of(std::array<float, 16>()), 0u);
  EXPECT_EQ(allocations_of(Bytes(64)), 1u);
  EXPECT_EQ(allocations_of(Bytes(1000)), 1u);
  EXPECT_EQ(allocations_of(std::vector<float>(8)), 1u);
  EXPECT_EQ(allocations_of(std::vector<float>(800)), 1u);
  EXPECT_EQ(allocations_of(std::string(100, 's')), 1u);
}

}  // namespace
}  // namespace forge::detail
