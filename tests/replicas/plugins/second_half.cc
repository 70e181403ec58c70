#include "two_sources.h"

FORGE_PLUGIN(m) { m.actor<SecondHalf>("SecondHalf", "Two.").endpoint("two", &SecondHalf::two); }
