// What is UTF-8, and what is made of the rest.
#include "core/utf8.h"

#include <gtest/gtest.h>

namespace forge::core {
namespace {

TEST(Utf8, CharactersOfEachLengthAreWhole) {
  for (const char* text :
       {"", "plain", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80",
        "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF", "gr\xC3\xBC\xC3\x9F"}) {
    EXPECT_TRUE(is_utf8(text)) << text;
    EXPECT_EQ(valid_utf8(text), text);
  }
}

TEST(Utf8, BytesThatBelongToNoneAreReplacedOneByOne) {
  const std::string mark = "\xEF\xBF\xBD";
  EXPECT_EQ(valid_utf8("mod\xFF\xFE"), "mod" + mark + mark);
  EXPECT_EQ(valid_utf8("cut \xE2\x82"), "cut " + mark + mark);
  EXPECT_EQ(valid_utf8("\xC3(\x80"), mark + "(" + mark);
  // Longer than it must be, a surrogate, and beyond the last.
  for (const char* text : {"\xC0\x80", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF",
                           "\xF4\x90\x80\x80", "\xF5\x80\x80\x80"})
    EXPECT_FALSE(is_utf8(text));
}

}  // namespace
}  // namespace forge::core
