// Opens plugins, in workers only: a plugin that crashes here takes a process with it that nobody
// misses.
#pragma once

#include <forge/error.h>
#include <forge/module.h>

#include <memory>
#include <string>

namespace forge::replicas {

struct LoadedPlugin {
  Status status;
  std::unique_ptr<Module> module;  ///< null unless status.ok()
};

/// Opens the shared object and runs its FORGE_PLUGIN functions; an empty path takes the actors that
/// are linked into this program. Nothing of the plugin that forge knows of is called before its ABI
/// has been checked (its static objects are constructed by the dynamic loader). A plugin that has
/// registered stays open for the life of the process. Failures are PluginError.
LoadedPlugin load_plugin(const std::string& path);

}  // namespace forge::replicas
