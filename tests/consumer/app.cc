// The embedding program: the calls that the contract shows, with their answers checked.
#include <forge/forge.h>

#include <chrono>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <future>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

using namespace std::chrono_literals;

namespace {

void check(bool ok, const std::string& what) {
  if (ok) return;
  std::cerr << "FAILED: " << what << "\n";
  std::exit(1);
}

// The smallest coroutine that can await a future: it starts at once and owns itself.
struct Detached {
  struct promise_type {
    Detached get_return_object() { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }
  };
};

template <typename Endpoint>
Detached await_one(Endpoint& endpoint, std::promise<std::int64_t>& answer) {
  answer.set_value(co_await endpoint.with({.timeout = 5s}).route(2, 3));
}

void use_service(forge::Plugin& plugin) {
  forge::Service counter =
      plugin.actor("Counter").options({.procs = 1, .num_replicas = 2}).as_service(0);

  auto value = counter.endpoint<std::int64_t()>("value");
  auto add = counter.endpoint<std::int64_t(std::int64_t, std::int64_t)>("add");
  auto incr = counter.endpoint<void()>("incr");

  check(value.route().get() == 0, "a fresh counter holds 0");

  for (const auto& one : incr.fanout().get()) check(one.has_value(), "fanout of a void endpoint");
  std::vector<forge::Result<std::int64_t>> all = value.fanout().get();
  check(all.size() == 2, "fanout answers once per replica");
  for (const auto& one : all) check(one.has_value() && one.value() == 1, "incr reached everyone");

  // Round robin over two replicas: two calls visit both.
  const std::int64_t first = add.route(5, 2).get();
  forge::Future<std::int64_t> later = add.route(5, 2);
  check(later.wait_for(5s), "add answers");
  check(first == 11 && later.get() == 11, "add multiplies and adds");

  auto doubled = add.route(0, 0).then([](std::int64_t v) { return 2 * v; });
  check(doubled.get() == 22, "then continues with the value");

  std::promise<std::int64_t> answer;
  await_one(add, answer);
  check(answer.get_future().get() == 17, "co_await gives the value");

  forge::Result<void> failed = counter.endpoint<void()>("fail").route().result();
  check(!failed.has_value(), "a throwing endpoint gives an error");
  check(dynamic_cast<const forge::ActorError*>(&failed.error()) != nullptr, "of its own type");
  check(std::string(failed.error().what()).find("counted too far") != std::string::npos,
        "with the text that was thrown");

  bool refused = false;
  try {
    (void)counter.endpoint<std::string()>("value");
  } catch (const forge::SignatureMismatch&) {
    refused = true;
  }
  check(refused, "signatures are checked when an endpoint is bound");

  counter.shutdown();
  refused = false;
  try {
    (void)value.route().get();
  } catch (const forge::Stopped&) {
    refused = true;
  }
  check(refused, "a handle used after shutdown answers Stopped");
}

void use_async_start(forge::Plugin& plugin) {
  forge::Future<forge::Service> starting = plugin.actor("Counter").as_service_async(7);
  forge::Service counter = starting.get();
  check(counter.endpoint<std::int64_t()>("value").route().get() == 7, "as_service_async");
}

void use_mesh(forge::Plugin& plugin) {
  forge::ActorMesh mesh = plugin.actor("Counter").options({.procs = 2}).as_actor(5);
  auto value = mesh.endpoint<std::int64_t()>("value");
  check(value.choose().get() == 5, "choose asks one rank");

  mesh.endpoint<void()>("incr").broadcast();
  forge::ValueMesh<std::int64_t> values = value.call().get();
  check(values.size() == 2, "call asks every rank");
  check(values.at(0) == 6 && values.at(1) == 6, "broadcast reached every rank");
  std::size_t ranks = 0;
  for (const auto& [rank, v] : values) {
    check(static_cast<std::size_t>(rank) == ranks++ && v == 6, "iterates in rank order");
  }
  mesh.shutdown();

  forge::ActorMesh single = plugin.actor("Counter").as_actor(9);
  check(single.endpoint<std::int64_t()>("value").call_one().get() == 9, "call_one");
}

}  // namespace

int main() {
  try {
    forge::Controller controller;
    forge::Plugin plugin = controller.load("./libcounter.so");
    use_service(plugin);
    use_async_start(plugin);
    use_mesh(plugin);
  } catch (const forge::Error& error) {
    std::cerr << "FAILED: " << error.code() << ": " << error.what() << "\n";
    return 1;
  }
  std::cout << "the consumer's program works\n";
}
