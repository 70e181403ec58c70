// A FailTrigger from the test's side: memory that workers map by its path.
#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "shm/failpoint.h"
#include "shm/file_descriptor.h"

namespace forge::failpoints {

enum class When { setup, serving, coroutine, group, shutdown };

struct Point {
  shm::Failpoint point;
  const char* name;
  When when;
  bool throws;  ///< an exception may be thrown there

  friend std::ostream& operator<<(std::ostream& out, const Point& that) { return out << that.name; }
};
std::vector<Point> points();
std::vector<Point> points(When when);

class Trigger {
 public:
  /// Throws std::system_error if there is no memory.
  Trigger();
  Trigger(const Trigger&) = delete;
  Trigger& operator=(const Trigger&) = delete;
  ~Trigger();

  shm::FailTrigger* operator->() const { return trigger_; }
  /// What workers find it by, while this process lives.
  std::string path() const;

 private:
  shm::FileDescriptor fd_;
  shm::FailTrigger* trigger_;
};

}  // namespace forge::failpoints
