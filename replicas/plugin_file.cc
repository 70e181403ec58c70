#include "replicas/plugin_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <system_error>

namespace forge::replicas {
namespace {

namespace fs = std::filesystem;

constexpr const char* kOverride =
    ", or set ControllerOptions::trust_plugins if you know who can write there";

Status refuse(const std::string& plugin, const fs::path& what, const std::string& why,
              const std::string& remedy) {
  return {ErrorCode::plugin_error,
          "plugin \"" + plugin + "\" is not loaded: " + what.string() + " " + why +
              ", who could make it run anything as you; " + remedy + " " + what.string() +
              kOverride,
          {}};
}

bool ours(const struct stat& status) { return status.st_uid == ::geteuid() || status.st_uid == 0; }

Status check_owner(const std::string& plugin, const fs::path& what, const struct stat& status) {
  if (ours(status)) return {};
  return refuse(plugin, what, "belongs to user " + std::to_string(status.st_uid), "chown");
}

Status check_mode(const std::string& plugin, const fs::path& what, const struct stat& status) {
  if ((status.st_mode & (S_IWGRP | S_IWOTH)) == 0) return {};
  const bool all = (status.st_mode & S_IWOTH) != 0;
  return refuse(plugin, what,
                all ? "can be written by everybody"
                    : "can be written by group " + std::to_string(status.st_gid),
                "chmod go-w");
}

/// In a sticky folder only its owner, and that of the file, can put another file in its place.
Status check_folder(const std::string& plugin, const fs::path& file) {
  const fs::path folder = file.has_parent_path() ? file.parent_path() : fs::path(".");
  struct stat status {};
  if (::stat(folder.c_str(), &status) != 0) return {};
  if (Status owner = check_owner(plugin, folder, status); !owner.ok()) return owner;
  if ((status.st_mode & S_ISVTX) != 0 && status.st_uid == 0) return {};
  return check_mode(plugin, folder, status);
}

}  // namespace

bool environment_trusts_plugins() {
  return std::getenv(kTrustPlugins) != nullptr;  // NOLINT(concurrency-mt-unsafe)
}

Status check_plugin_file(const std::string& path) {
  struct stat status {};
  std::error_code error;
  const fs::path real = fs::canonical(path, error);
  if (error || ::stat(real.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return {};
  if (Status owner = check_owner(path, real, status); !owner.ok()) return owner;
  if (Status mode = check_mode(path, real, status); !mode.ok()) return mode;
  if (Status folder = check_folder(path, real); !folder.ok()) return folder;
  if (::lstat(path.c_str(), &status) != 0) return {};
  if (Status owner = check_owner(path, path, status); !owner.ok()) return owner;
  return check_folder(path, path);
}

}  // namespace forge::replicas
