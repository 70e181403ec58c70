// A program whose own actors are served: forge::init first in main, then controller.self(). Has its
// own main, as such programs do.
#include <forge/plugin.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <string>
#include <vector>

#include "support.h"

namespace {

/// main() sets it after init: no worker may come that far.
bool came_past_init = false;

class Greeter : public forge::ForgeActor {
 public:
  explicit Greeter(std::string greeting) : greeting_(std::move(greeting)) {}
  void setup() override { greeting_ += ","; }
  std::string greet(const std::string& name) const { return greeting_ + " " + name; }
  bool past_init() const { return came_past_init; }
  std::int64_t pid() const { return ::getpid(); }
  std::vector<double> squares(std::vector<double> values) const {
    for (double& value : values) value *= value;
    return values;
  }
  void abort() const { std::abort(); }

 private:
  std::string greeting_;
};

class Silent : public forge::ForgeActor {};

}  // namespace

FORGE_PLUGIN(m) {
  m.actor<Greeter, std::string>("Greeter", "Greets.")
      .endpoint("greet", &Greeter::greet)
      .endpoint("past_init", &Greeter::past_init)
      .endpoint("pid", &Greeter::pid)
      .endpoint("abort", &Greeter::abort)
      .batched_endpoint("square", &Greeter::squares, {.batch_size = 4});
  m.actor<Silent>("Silent");
}

namespace forge::e2e {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class LinkedIn : public ::testing::Test {
 protected:
  Controller controller{quiet()};
  Plugin self = controller.self();
};

TEST_F(LinkedIn, ThisProgramsActorsAreServed) {
  EXPECT_THAT(self.actors(), ElementsAre("Greeter", "Silent"));
  EXPECT_EQ(self.path(), "");
  const Service service = self.actor("Greeter").options({.num_replicas = 2}).as_service("Hello");
  const auto greet = service.endpoint<std::string(std::string)>("greet");
  EXPECT_EQ(value_of(greet.route("world")), "Hello, world");
  EXPECT_EQ(value_of(service.endpoint<double(double)>("square").route(1.5)), 2.25);
  EXPECT_FALSE(value_of(service.endpoint<bool()>("past_init").route()));
  EXPECT_NE(value_of(service.endpoint<std::int64_t()>("pid").route()), ::getpid());
  const ActorMesh mesh = self.actor("Greeter").options({.procs = 2}).as_actor("Hi");
  for (const auto& [rank, text] :
       value_of(mesh.endpoint<std::string(std::string)>("greet").call("you")))
    EXPECT_EQ(text, "Hi, you") << rank;
}

TEST_F(LinkedIn, WorkersOfThisProgramAreReplacedToo) {
  const Footprint before = Footprint::now();
  {
    const Service service =
        self.actor("Greeter").options({.restart = restart_at_once()}).as_service("Hello");
    EXPECT_EQ(outcome(await(service.endpoint<void()>("abort").route())), "worker_lost");
    EXPECT_EQ(value_of(service.endpoint<std::string(std::string)>("greet").route("again")),
              "Hello, again");
    EXPECT_EQ(service.replicas()[0].incarnation, 2U);
  }
  EXPECT_TRUE(returns_to(before));
}

TEST_F(LinkedIn, PluginsAreServedBesideThem) {
  const Service counter = controller.load(plugin_path("counter")).actor("Counter").as_service(41);
  const Service greeter = self.actor("Greeter").as_service("Hello");
  EXPECT_EQ(value_of(counter.endpoint<std::int64_t()>("value").route()), 41);
  EXPECT_EQ(value_of(greeter.endpoint<std::string(std::string)>("greet").route("x")), "Hello, x");
  EXPECT_THAT(message_of<UnknownActor>([&] { (void)self.actor("Counter"); }),
              HasSubstr("this program"));
  EXPECT_THAT(controller.load(plugin_path("counter")).actors(), ElementsAre("Counter"));
}

}  // namespace
}  // namespace forge::e2e

int main(int argc, char** argv) {
  forge::init(argc, argv);
  came_past_init = true;
  ::testing::InitGoogleMock(&argc, argv);
  return RUN_ALL_TESTS();
}
