// For tests whose actors are linked in: the program is its own worker.
#include <forge/forge.h>
#include <gmock/gmock.h>

int main(int argc, char** argv) {
  forge::init(argc, argv);  // workers are this same program
  ::testing::InitGoogleMock(&argc, argv);
  return RUN_ALL_TESTS();
}
