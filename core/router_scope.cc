#include "core/router_scope.h"

#include <forge/error.h>

namespace forge::core {
namespace {
thread_local int depth = 0;  // routers that this thread runs
}

RouterScope::RouterScope() : depth_(depth) { ++depth_; }
RouterScope::~RouterScope() { --depth_; }

bool in_router() { return depth != 0; }

void require_no_router() {
  if (!in_router()) return;
  throw InvalidArgument(
      "a router was asked for a replica and called forge: its service is locked meanwhile, so it "
      "must "
      "not use services, meshes, sessions, endpoints, futures, cancel sources or controllers; let "
      "it "
      "decide by the replicas and the context that it is given, and by what other threads have "
      "told it");
}

}  // namespace forge::core
