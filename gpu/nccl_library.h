// NCCL, found at run time: nothing of forge is linked with it, and only a worker whose actor has a
// collective on device tensors ever opens it.
#pragma once

#include <forge/result.h>

#include <string>

#include "gpu/nccl_abi.h"

namespace forge::gpu {

struct NcclLibrary {
  std::string path;  ///< what was opened
  int version = 0;   ///< as nccl::version()
  nccl::Functions call{};
};

/// Names the file to open instead of libnccl.so.2.
inline constexpr const char* kNcclLibraryVariable = "FORGE_NCCL_LIBRARY";

/// The ranks of a replica are on one host: NCCL's sockets are to use the loopback device, unless
/// NCCL_SOCKET_IFNAME is set. Changes the environment, so it must be called before other threads
/// look at it, and before NCCL is used.
void keep_nccl_on_this_host();

/// Opens $FORGE_NCCL_LIBRARY or libnccl.so.2, for as long as the process lives.
/// Errors, each with what to do: Unavailable if there is no such library, NotSupported if it is too
/// old or lacks a function.
Result<NcclLibrary> load_nccl();

/// The same with a file, whatever the environment says.
Result<NcclLibrary> load_nccl(const std::string& path);

/// "2.28.9"
std::string nccl_version_text(int version);

}  // namespace forge::gpu
