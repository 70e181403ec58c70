// The engine thread: however it is told to end, it does.
#include "core/engine_thread.h"

#include <gtest/gtest.h>

namespace forge::core {
namespace {

TEST(EngineThread, EndsHoweverSoonItIsStopped) {
  for (int round = 0; round < 5000; ++round) {
    EngineThread thread({});
    // It is just going round, a few instructions further each time.
    for (volatile int i = round % 500 * 40; i != 0;) i = i - 1;
    thread.stop();
  }
}

TEST(EngineThread, EndsWhileItIsBeingWoken) {
  for (int round = 0; round < 5000; ++round) {
    EngineThread thread({});
    thread.wake();
    for (volatile int i = round % 50 * 4; i != 0;) i = i - 1;
    thread.stop();
    thread.stop();
  }
}

}  // namespace
}  // namespace forge::core
