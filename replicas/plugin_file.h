// Who may have written a plugin: whoever can change the file can run code as us.
#pragma once

#include <forge/error.h>

#include <string>

namespace forge::replicas {

/// In the environment of a worker or controller: its plugins are not looked at.
inline constexpr const char* kTrustPlugins = "FORGE_TRUST_PLUGINS";

/// Is the plugin safe from other users? It and the folder it lies in belong to this user or to root,
/// and nobody else may write to them; a sticky folder (/tmp) may be writable, if it is root's. The
/// same for a symbolic link to it. PluginError that names the file, what is wrong and what to do.
/// Says nothing against what is not there or no file: that is for whoever opens it.
Status check_plugin_file(const std::string& path);
/// Does the environment say kTrustPlugins?
bool environment_trusts_plugins();

}  // namespace forge::replicas
