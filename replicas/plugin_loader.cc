#include "replicas/plugin_loader.h"

#include <dlfcn.h>
#include <forge/plugin.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <mutex>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "replicas/actor_host.h"
#include "replicas/plugin_file.h"

namespace forge::replicas {

namespace {

using detail::PluginEntry;

constexpr const char* kRebuild = "; build it again with this forge's headers and library";

/// The objects that were part of the program when it started.
struct LinkedIn {
  std::mutex mutex;
  std::vector<const PluginEntry*> entries;
};
LinkedIn& linked_in() {
  static auto& list = *new LinkedIn;  // never destroyed: objects leave it during exit
  return list;
}
/// True while this thread opens a plugin: what is recorded meanwhile is not linked in.
thread_local bool opening = false;

Status plugin_error(const std::string& what) { return {ErrorCode::plugin_error, what, {}}; }

Status check_abi(const std::string& name, const PluginEntry& entry) {
  if (entry.magic != detail::kPluginMagic) {
    return plugin_error(name +
                        " has a symbol forge_plugin that FORGE_PLUGIN did not make; give "
                        "yours another name");
  }
  if (entry.abi != detail::kPluginAbi || entry.size != sizeof(PluginEntry)) {
    return plugin_error(name + " was built for plugin ABI " + std::to_string(entry.abi) +
                        ", this forge has " + std::to_string(detail::kPluginAbi) + kRebuild);
  }
  if (std::string_view(entry.tag) != detail::kAbiTag.c_str()) {
    return plugin_error(name + " was built with [" + entry.tag + "], this forge with [" +
                        detail::kAbiTag.c_str() + "]" + kRebuild);
  }
  return {};
}

Status register_actors(const std::string& name, const PluginEntry& entry, Module& module) {
  try {
    for (const detail::PluginPart* part = *entry.parts; part != nullptr; part = part->next) {
      part->register_actors(module);
    }
    return {};
  } catch (...) {
    return plugin_error(current_exception_status(name + ": FORGE_PLUGIN failed").message);
  }
}

LoadedPlugin load_linked_in() {
  LoadedPlugin loaded{{}, std::make_unique<Module>()};
  std::vector<const PluginEntry*> entries;
  {
    const std::lock_guard lock(linked_in().mutex);
    entries = linked_in().entries;
  }
  const std::string name = "this program";
  if (entries.empty()) {
    loaded.status = plugin_error(
        "this program has no actors of its own; link a source file with FORGE_PLUGIN into it, or "
        "load a plugin by its path");
  }
  for (const PluginEntry* entry : entries) {
    if (loaded.status.ok()) loaded.status = check_abi(name, *entry);
    if (loaded.status.ok()) loaded.status = register_actors(name, *entry, *loaded.module);
  }
  if (!loaded.status.ok()) loaded.module.reset();
  return loaded;
}

Status check_file(const std::string& name, const std::filesystem::path& path) {
  std::error_code error;
  const std::filesystem::file_status file = std::filesystem::status(path, error);
  if (!std::filesystem::exists(file)) {
    const std::string why = error && error != std::errc::no_such_file_or_directory
                                ? " cannot be reached: " + error.message()
                                : " does not exist";
    std::string remedy = "; check the path";
    if (path.is_relative()) {
      remedy += ", which starts at " + std::filesystem::current_path(error).string();
    }
    return plugin_error(name + why + remedy);
  }
  if (std::filesystem::is_directory(file)) {
    return plugin_error(name + " is a directory; give the path of the .so in it");
  }
  return {};
}

void* open(const std::filesystem::path& path) {
  // Without a slash dlopen would search the system's libraries.
  const std::string file = path.has_parent_path() ? path.string() : "./" + path.string();
  opening = true;
  void* const handle = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  opening = false;
  return handle;
}

}  // namespace

LoadedPlugin load_plugin(const std::string& path) {
  if (path.empty()) return load_linked_in();
  const std::string name = "plugin \"" + path + "\"";
  if (Status status = check_file(name, path); !status.ok()) return {std::move(status), nullptr};
  // Opened by its path, not by a descriptor of what was checked: $ORIGIN, debuggers and backtraces
  // need the path, and who could still swap the file is somebody we trust with it.
  if (!environment_trusts_plugins()) {
    if (Status status = check_plugin_file(path); !status.ok()) return {std::move(status), nullptr};
  }

  void* const handle = open(path);
  if (handle == nullptr) {
    const char* const why = ::dlerror();  // NOLINT(concurrency-mt-unsafe): per thread in glibc
    return {plugin_error(name + " cannot be opened: " + (why ? why : "unknown reason") +
                         "; it must be a shared object, linked with all it needs"),
            nullptr};
  }
  const auto* const entry = static_cast<const PluginEntry*>(::dlsym(handle, "forge_plugin"));
  Status status = entry == nullptr
                      ? plugin_error(name +
                                     " is a shared object but no plugin: it has no symbol "
                                     "forge_plugin; use FORGE_PLUGIN in one of its sources")
                      : check_abi(name, *entry);
  if (!status.ok()) {
    ::dlclose(handle);
    return {std::move(status), nullptr};
  }
  LoadedPlugin loaded{{}, std::make_unique<Module>()};
  loaded.status = register_actors(name, *entry, *loaded.module);
  if (!loaded.status.ok()) loaded.module.reset();
  return loaded;
}

}  // namespace forge::replicas

void forge_record_plugin(const forge::detail::PluginEntry* entry) {
  if (forge::replicas::opening) return;
  auto& list = forge::replicas::linked_in();
  const std::lock_guard lock(list.mutex);
  if (std::ranges::find(list.entries, entry) == list.entries.end()) list.entries.push_back(entry);
}

void forge_forget_plugin(const forge::detail::PluginEntry* entry) {
  auto& list = forge::replicas::linked_in();
  const std::lock_guard lock(list.mutex);
  std::erase(list.entries, entry);
}
