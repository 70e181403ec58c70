// A shared object whose symbol has the right name by accident.
#include <cstdint>

extern "C" {
extern const std::uint64_t forge_plugin[8];
const std::uint64_t forge_plugin[8] = {42};
}
