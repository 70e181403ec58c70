#include "two_sources.h"

FORGE_PLUGIN(m) { m.actor<FirstHalf>("FirstHalf", "One.").endpoint("one", &FirstHalf::one); }
