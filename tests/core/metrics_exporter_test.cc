// Where metrics are served: addresses as people write them, and what comes of bad ones.
#include "core/metrics_exporter.h"

#include <gmock/gmock.h>

#include <string>

namespace forge::core {
namespace {

using ::testing::HasSubstr;

TEST(ListenAddresses, AreThisMachinesUnlessAnotherIsNamed) {
  const struct {
    const char* text;
    const char* means;
  } cases[] = {
      {"9464", "127.0.0.1:9464"},
      {":9464", "127.0.0.1:9464"},
      {"0", "127.0.0.1:0"},
      {"localhost:80", "127.0.0.1:80"},
      {"127.0.0.1:65535", "127.0.0.1:65535"},
      {"0.0.0.0:1", "0.0.0.0:1"},
      {"[::1]:9464", "[::1]:9464"},
      {"[::]:1", "[::]:1"},
  };
  for (const auto& c : cases) {
    const auto address = parse_listen_address(c.text);
    ASSERT_TRUE(address) << c.text << ": " << address.error().what();
    EXPECT_EQ(address->to_string(), c.means);
  }
}

TEST(ListenAddresses, SayWhatIsWrongWithThem) {
  for (const char* text :
       {"", ":", "port", "65536", "-1", "+1", "9464 ", " 9464", "1.2.3:9464", "host:9464",
        "::1:9464", "[::1:9464", "[]:1", "[127.0.0.1]:1", "1.2.3.4", "1.2.3.4:", "1:2:3"}) {
    const auto address = parse_listen_address(text);
    ASSERT_FALSE(address) << text;
    EXPECT_EQ(to_status(address.error()).code, ErrorCode::invalid_argument) << text;
    EXPECT_THAT(address.error().what(), HasSubstr("metrics_address '" + std::string(text) + "'"));
  }
}

}  // namespace
}  // namespace forge::core
