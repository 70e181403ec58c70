// Errors that nobody receives: all are counted, few are told.
#include "core/unheard.h"

#include <gmock/gmock.h>

namespace forge::core {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::StartsWith;

class Unheard : public ::testing::Test {
 protected:
  /// What is told; empty: nothing.
  std::string add(const std::string& who, const Error& error, std::chrono::milliseconds at) {
    return errors.add(who, error, UnheardErrors::Time(1h) + at).value_or("");
  }
  UnheardErrors errors;
};

TEST_F(Unheard, TheFirstIsToldAtOnceAndTheOthersWithACount) {
  EXPECT_THAT(add("f", Cancelled("one"), 0ms), StartsWith("1 error of f that nobody received"));
  EXPECT_EQ(add("f", Cancelled("two"), 1ms), "");
  EXPECT_EQ(add("f", Cancelled("three"), 9'999ms), "");
  const std::string told = add("f", Cancelled("four"), 10'000ms);
  EXPECT_THAT(told, StartsWith("3 errors of f"));
  EXPECT_THAT(told, HasSubstr("cancelled, 4 in all"));
  EXPECT_THAT(told, HasSubstr("the last: four"));
  EXPECT_EQ(add("f", Cancelled("five"), 10'001ms), "");
}

TEST_F(Unheard, EachKindOfEachOriginIsToldByItself) {
  EXPECT_NE(add("f", Cancelled("x"), 0ms), "");
  EXPECT_NE(add("g", Cancelled("x"), 0ms), "");
  EXPECT_NE(add("f", DeadlineExceeded("x"), 0ms), "");
  EXPECT_EQ(add("g", Cancelled("x"), 0ms), "");
  EXPECT_THAT(errors.counts("f"), ElementsAre(Pair("cancelled", 1), Pair("deadline_exceeded", 1)));
  EXPECT_THAT(errors.counts("g"), ElementsAre(Pair("cancelled", 2)));
  EXPECT_THAT(errors.counts("h"), IsEmpty());
}

TEST_F(Unheard, TheRestIsToldOnce) {
  EXPECT_THAT(errors.rest(), IsEmpty());
  for (int i = 0; i < 5; ++i) add("f", Cancelled("x"), 0ms);
  add("g", Cancelled("x"), 0ms);
  EXPECT_THAT(errors.rest(), ElementsAre(StartsWith("4 errors of f")));
  EXPECT_THAT(errors.rest(), IsEmpty());
}

}  // namespace
}  // namespace forge::core
