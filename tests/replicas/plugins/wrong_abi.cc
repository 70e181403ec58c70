// A plugin as a later forge might build it: only the first fields mean what they meant. Whoever
// goes on after reading them crashes.
#include <forge/module.h>

extern "C" {
extern const forge::detail::PluginEntry forge_plugin;
const forge::detail::PluginEntry forge_plugin{forge::detail::kPluginMagic,
                                              forge::detail::kPluginAbi + 41,
                                              sizeof(forge::detail::PluginEntry), nullptr, nullptr};
}
