// What a forked child of the host program must know: our threads and memory did not come along.
#pragma once

#include <memory>

namespace forge::core {

/// True in a forked child of the process that uses forge: our threads and memory did not come
/// along.
bool in_forked_child();
/// In a forked child: leaks a reference, so that nothing of the parent's is ever destroyed there, and says so.
template <class T>
bool leaked_in_fork(const std::shared_ptr<T>& object) {
  if (!in_forked_child()) return false;
  (void)new std::shared_ptr<T>(object);
  return true;
}
/// Throws Stopped in a forked child.
void require_no_fork();
/// Call once per controller; from then on in_forked_child() tells.
void watch_forks();

}  // namespace forge::core
