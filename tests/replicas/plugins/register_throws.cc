// A plugin that registers two actors of one name.
#include <forge/plugin.h>

namespace {
class Twin : public forge::ForgeActor {};
}  // namespace

FORGE_PLUGIN(m) {
  m.actor<Twin>("Twin");
  m.actor<Twin>("Twin");
}
