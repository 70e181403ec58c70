// Mistakes that must not compile, and the message that each must give. CMakeLists.txt compiles this
// file once per FORGE_MISTAKE and looks for the message; without one it compiles.
#include <forge/plugin.h>

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#ifndef FORGE_MISTAKE
#define FORGE_MISTAKE 0
#endif

class NoActor {
 public:
  int f() { return 1; }
};

class Actor : public forge::ForgeActor {
 public:
  int plain(int x) { return x; }
  int overloaded(int x) { return x; }
  int overloaded(double x) { return static_cast<int>(x); }
  void out(int& x) { ++x; }
  void pointer(const char*) {}
  std::mutex* result() { return nullptr; }
  std::vector<int> scalar_batch(int) { return {}; }
  int scalar_answer(std::vector<int>) { return 1; }
  forge::Bytes bytes_batch(std::vector<int>) { return {}; }
  std::vector<int> no_arguments() { return {}; }
};

FORGE_PLUGIN(m) {
#if FORGE_MISTAKE == 0
  m.actor<Actor>("A").endpoint("f", &Actor::plain);
#elif FORGE_MISTAKE == 1
  m.actor<NoActor>("A");
#elif FORGE_MISTAKE == 2
  m.actor<Actor, std::string>("A");
#elif FORGE_MISTAKE == 3
  m.actor<Actor>("A").endpoint("f", 42);
#elif FORGE_MISTAKE == 4
  m.actor<Actor>("A").endpoint("f", &NoActor::f);
#elif FORGE_MISTAKE == 5
  m.actor<Actor>("A").endpoint("f", &Actor::out);
#elif FORGE_MISTAKE == 6
  m.actor<Actor>("A").endpoint("f", &Actor::pointer);
#elif FORGE_MISTAKE == 7
  m.actor<Actor>("A").endpoint("f", &Actor::result);
#elif FORGE_MISTAKE == 8
  m.actor<Actor>("A").batched_endpoint("f", &Actor::scalar_batch, {.batch_size = 2});
#elif FORGE_MISTAKE == 9
  m.actor<Actor>("A").batched_endpoint("f", &Actor::scalar_answer, {.batch_size = 2});
#elif FORGE_MISTAKE == 10
  m.actor<Actor>("A").batched_endpoint("f", &Actor::bytes_batch, {.batch_size = 2});
#elif FORGE_MISTAKE == 11
  m.actor<Actor>("A").batched_endpoint("f", &Actor::no_arguments, {.batch_size = 2});
#endif
}
