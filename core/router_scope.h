// A user's router runs under its service's lock: what it must not ask for meanwhile is refused, instead
// of waiting for that lock for ever.
#pragma once

namespace forge::core {

/// While it lives, this thread runs a router.
class RouterScope {
 public:
  RouterScope();
  ~RouterScope();
  RouterScope(const RouterScope&) = delete;
  RouterScope& operator=(const RouterScope&) = delete;

 private:
  int& depth_;
};

/// Does this thread run a router?
bool in_router();
/// Throws InvalidArgument in a router. For whatever may take a service's lock, or wait: also another
/// service's, whose router might ask this one.
void require_no_router();

}  // namespace forge::core
