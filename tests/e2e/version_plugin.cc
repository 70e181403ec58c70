// The same actor, as several versions of one plugin would have it; VERSION says which.
#include <forge/plugin.h>

#include <cstdlib>
#include <stdexcept>

namespace {

enum : int {
  kFirst = 1,
  kNext,
  kThrowing,
  kAborting,
  kOtherSignature,
  kOtherConstructor,
  kOtherState
};

using Number = std::conditional_t<VERSION == kOtherSignature, double, std::int64_t>;

using State = std::conditional_t<VERSION == kOtherState, double, std::int64_t>;

class Versioned : public forge::ForgeActor {
 public:
  explicit Versioned(std::int64_t base) : base_(base) {}
  explicit Versioned(const std::string& base) : base_(std::ssize(base)) {}
  void setup() override {
    if (VERSION == kThrowing) throw std::runtime_error("this version does not work");
    if (VERSION == kAborting) std::abort();
  }
  std::int64_t version() const { return VERSION; }
  Number plus(Number value) const { return static_cast<Number>(base_) + value; }
  std::int64_t forgotten() const { return 0; }
  State save() const { return 0; }
  void restore(State) {}

 private:
  std::int64_t base_;
};

}  // namespace

FORGE_PLUGIN(m) {
  using Base = std::conditional_t<VERSION == kOtherConstructor, std::string, std::int64_t>;
  auto actor = m.actor<Versioned, Base>("Versioned");
  if (VERSION == kFirst) actor.endpoint("forgotten", &Versioned::forgotten);
  if (VERSION == kNext) actor.endpoint("plus", &Versioned::plus);
  actor.endpoint("version", &Versioned::version);
  if (VERSION != kNext) actor.endpoint("plus", &Versioned::plus);
}
