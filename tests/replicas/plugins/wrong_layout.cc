// A plugin of this ABI version, built with another standard library.
#include <forge/module.h>

extern "C" {
extern const forge::detail::PluginEntry forge_plugin;
const forge::detail::PluginEntry forge_plugin{
    forge::detail::kPluginMagic, forge::detail::kPluginAbi, sizeof(forge::detail::PluginEntry),
    "libfoo string=99", nullptr};
}
