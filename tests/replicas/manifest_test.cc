// The manifest: what a worker reports must arrive as it was, and bytes that are no manifest must
// not.
#include "replicas/manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "host_fixture.h"

namespace forge::replicas {
namespace {

using ::testing::ElementsAre;
using namespace std::chrono_literals;

class Adder : public ForgeActor {
 public:
  explicit Adder(int) {}
  std::int64_t add(std::int64_t a, std::int64_t b) { return a + b; }
  void twice(std::vector<std::string>) {}
};

Options unusual_options() {
  return {.procs = 3,
          .num_replicas = 5,
          .with_gpus = true,
          .hosts = 1,
          .health_poll_rate = 17ms,
          .replica_max_concurrent_requests = 2,
          .return_first_rank_result = false,
          .name = "unusual",
          .min_replicas = 1,
          .max_replicas = 9,
          .autoscaling = {.enabled = true,
                          .scale_up_queue_depth = 6,
                          .scale_up_capacity = 0.75,
                          .scale_up_request_rate = 11,
                          .emergency_queue_depth = 21,
                          .scale_down_capacity = 0.25,
                          .scale_down_queue_depth = 0.5,
                          .scale_down_delay = 301s,
                          .min_time_between_events = 61s,
                          .scale_up_cooldown = 31s,
                          .scale_down_cooldown = 121s,
                          .scale_up_step = 2,
                          .scale_down_step = 3,
                          .min_healthy_ratio = 0.4,
                          .target_ongoing_requests = 1.5,
                          .look_back = 20s,
                          .upscale_smoothing = 0.9,
                          .downscale_smoothing = 0.6},
          .restart = {.backoff_initial = 1ms, .backoff_max = 2s, .max_deaths = 7, .window = 3s},
          .max_queued_requests = 11,
          .session_idle_timeout = 1h,
          .env = {{"A", "1"}, {"B", ""}},
          .rank_env = {{0, {{"C", "2"}}}, {2, {}}},
          .arena_bytes = 12345,
          .wait = Wait::block,
          .cpus = {1, 0},
          .start_timeout = 5ns,
          .spares = 4,
          .gpu_share = true};
}

std::vector<std::byte> encoded(const Manifest& manifest) {
  detail::Writer writer;
  encode(manifest, writer);
  std::vector<std::byte> bytes(writer.block_size());
  writer.write_to(bytes.data());
  return bytes;
}

Manifest sample() {
  Module m;
  m.actor<Adder, int>("Adder", "Adds.")
      .defaults(unusual_options())
      .endpoint("add", &Adder::add)
      .batched_endpoint("twice", &Adder::twice,
                        {.router = "hash",
                         .batch_size = 32,
                         .batch_timeout = 3ms,
                         .idempotent = true,
                         .exec_timeout = 2s,
                         .restart_on_error = true});
  m.actor<Adder, int>("Plain");
  return describe(m, "./libadder.so");
}

void expect_equal(const Options& a, const Options& b) {
  EXPECT_EQ(a.procs, b.procs);
  EXPECT_EQ(a.num_replicas, b.num_replicas);
  EXPECT_EQ(a.with_gpus, b.with_gpus);
  EXPECT_EQ(a.hosts, b.hosts);
  EXPECT_EQ(a.health_poll_rate, b.health_poll_rate);
  EXPECT_EQ(a.replica_max_concurrent_requests, b.replica_max_concurrent_requests);
  EXPECT_EQ(a.return_first_rank_result, b.return_first_rank_result);
  EXPECT_EQ(a.name, b.name);
  EXPECT_EQ(a.min_replicas, b.min_replicas);
  EXPECT_EQ(a.max_replicas, b.max_replicas);
  EXPECT_EQ(a.autoscaling.enabled, b.autoscaling.enabled);
  EXPECT_EQ(a.autoscaling.scale_up_queue_depth, b.autoscaling.scale_up_queue_depth);
  EXPECT_EQ(a.autoscaling.scale_up_capacity, b.autoscaling.scale_up_capacity);
  EXPECT_EQ(a.autoscaling.scale_up_request_rate, b.autoscaling.scale_up_request_rate);
  EXPECT_EQ(a.autoscaling.emergency_queue_depth, b.autoscaling.emergency_queue_depth);
  EXPECT_EQ(a.autoscaling.scale_down_capacity, b.autoscaling.scale_down_capacity);
  EXPECT_EQ(a.autoscaling.scale_down_queue_depth, b.autoscaling.scale_down_queue_depth);
  EXPECT_EQ(a.autoscaling.scale_down_delay, b.autoscaling.scale_down_delay);
  EXPECT_EQ(a.autoscaling.min_time_between_events, b.autoscaling.min_time_between_events);
  EXPECT_EQ(a.autoscaling.scale_up_cooldown, b.autoscaling.scale_up_cooldown);
  EXPECT_EQ(a.autoscaling.scale_down_cooldown, b.autoscaling.scale_down_cooldown);
  EXPECT_EQ(a.autoscaling.scale_up_step, b.autoscaling.scale_up_step);
  EXPECT_EQ(a.autoscaling.scale_down_step, b.autoscaling.scale_down_step);
  EXPECT_EQ(a.autoscaling.min_healthy_ratio, b.autoscaling.min_healthy_ratio);
  EXPECT_EQ(a.autoscaling.target_ongoing_requests, b.autoscaling.target_ongoing_requests);
  EXPECT_EQ(a.autoscaling.look_back, b.autoscaling.look_back);
  EXPECT_EQ(a.autoscaling.upscale_smoothing, b.autoscaling.upscale_smoothing);
  EXPECT_EQ(a.autoscaling.downscale_smoothing, b.autoscaling.downscale_smoothing);
  EXPECT_EQ(a.restart.backoff_initial, b.restart.backoff_initial);
  EXPECT_EQ(a.restart.backoff_max, b.restart.backoff_max);
  EXPECT_EQ(a.restart.max_deaths, b.restart.max_deaths);
  EXPECT_EQ(a.restart.window, b.restart.window);
  EXPECT_EQ(a.max_queued_requests, b.max_queued_requests);
  EXPECT_EQ(a.session_idle_timeout, b.session_idle_timeout);
  EXPECT_EQ(a.env, b.env);
  EXPECT_EQ(a.rank_env, b.rank_env);
  EXPECT_EQ(a.arena_bytes, b.arena_bytes);
  EXPECT_EQ(a.wait, b.wait);
  EXPECT_EQ(a.cpus, b.cpus);
  EXPECT_EQ(a.start_timeout, b.start_timeout);
  EXPECT_EQ(a.spares, b.spares);
  EXPECT_EQ(a.gpu_share, b.gpu_share);
}

TEST(Manifest, ArrivesAsItWasSent) {
  const std::vector<std::byte> bytes = encoded(sample());
  detail::Reader reader(bytes);
  const Manifest manifest = decode_manifest(reader);
  reader.finish();

  EXPECT_EQ(manifest.plugin, "./libadder.so");
  ASSERT_EQ(manifest.actors.size(), 2u);
  const ActorManifest* const adder = manifest.find("Adder");
  ASSERT_NE(adder, nullptr);
  EXPECT_EQ(adder->doc, "Adds.");
  EXPECT_THAT(adder->constructor, ElementsAre("i32"));
  expect_equal(adder->defaults, unusual_options());
  expect_equal(manifest.find("Plain")->defaults, Options{});

  ASSERT_EQ(adder->endpoints.size(), 2u);
  EXPECT_EQ(adder->endpoints[0].signature, "i64(i64,i64)");
  EXPECT_EQ(adder->endpoints[0].kind, EndpointKind::plain);
  EXPECT_EQ(adder->endpoints[0].options.exec_timeout, std::nullopt);
  const EndpointManifest& twice = adder->endpoints[1];
  EXPECT_EQ(twice.name, "twice");
  EXPECT_EQ(twice.signature, "void(str)");
  EXPECT_EQ(twice.kind, EndpointKind::batched);
  EXPECT_EQ(twice.options.router, "hash");
  EXPECT_EQ(twice.options.batch_size, 32);
  EXPECT_EQ(twice.options.batch_timeout, 3ms);
  EXPECT_TRUE(twice.options.idempotent);
  EXPECT_EQ(twice.options.exec_timeout, 2s);
  EXPECT_TRUE(twice.options.restart_on_error);
}

TEST(Manifest, FindsActorsAndEndpointsByName) {
  const Manifest manifest = sample();
  EXPECT_EQ(manifest.find("adder"), nullptr);
  EXPECT_EQ(manifest.find("Adder")->index_of("twice"), 1u);
  EXPECT_EQ(manifest.find("Adder")->index_of("thrice"), std::nullopt);
}

TEST(Manifest, IsRefusedWhereverItIsCutShort) {
  const std::vector<std::byte> bytes = encoded(sample());
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    detail::Reader reader({bytes.data(), size});
    EXPECT_THROW((void)decode_manifest(reader), InvalidArgument) << size << " bytes";
  }
}

TEST(Manifest, IsRefusedIfNoPluginCouldHaveRegisteredIt) {
  const auto refused = [](auto&& spoil) {
    Manifest manifest = sample();
    spoil(manifest);
    const std::vector<std::byte> bytes = encoded(manifest);
    detail::Reader reader(bytes);
    EXPECT_THROW((void)decode_manifest(reader), InvalidArgument);
  };
  refused([](Manifest& m) { m.actors[1].name = m.actors[0].name; });
  refused([](Manifest& m) { m.actors[0].endpoints[1].name = "add"; });
  refused([](Manifest& m) { m.actors[0].endpoints[0].options.batch_size = 0; });
  refused([](Manifest& m) { m.actors[0].endpoints[0].options.batch_timeout = -1ns; });
  refused([](Manifest& m) { m.actors[0].endpoints[0].options.router = ""; });
}

TEST(Manifest, IsAllHeadHoweverManyCoresItNames) {
  Manifest manifest = sample();
  manifest.actors[0].defaults.cpus.assign(1000, 3);
  detail::Writer writer;
  encode(manifest, writer);
  EXPECT_FALSE(writer.has_blobs());
  detail::Reader reader(writer.head());
  EXPECT_EQ(decode_manifest(reader).actors[0].defaults.cpus, std::vector<int>(1000, 3));
}

TEST(Manifest, SurvivesAnyBytes) {
  const char* const given = std::getenv("FORGE_TEST_SEED");
  const auto seed = given ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  std::cout << "FORGE_TEST_SEED=" << seed << "\n";
  std::mt19937_64 random(seed);
  const std::vector<std::byte> good = encoded(sample());
  int accepted = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::vector<std::byte> bytes = good;
    for (auto flips = 1 + random() % 3; flips != 0; --flips) {
      bytes[random() % bytes.size()] = static_cast<std::byte>(random());
    }
    detail::Reader reader(bytes);
    try {
      const Manifest manifest = decode_manifest(reader);
      ++accepted;
      for (const ActorManifest& actor : manifest.actors) {
        ASSERT_LE(static_cast<int>(actor.defaults.wait), 2);
        for (const EndpointManifest& endpoint : actor.endpoints) {
          ASSERT_LE(static_cast<int>(endpoint.kind), 2);
        }
      }
    } catch (const InvalidArgument&) {  // any other exception fails the test
    }
  }
  EXPECT_GT(accepted, 0) << "a changed letter of a name is still a manifest";
}

}  // namespace
}  // namespace forge::replicas
