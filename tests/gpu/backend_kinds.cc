// The backends that must do what backend_test.cc and gather_test.cc say.
#include <memory>
#include <vector>

#include "gpu/backend_loader.h"
#include "gpu/devices.h"
#include "gpu/host_backend.h"
#include "tests/gpu/backend_fixture.h"

namespace forge::gpu {
namespace {

INSTANTIATE_TEST_SUITE_P(All, AnyBackend,
                         ::testing::Values(Kind{"host", [] { return make_host_backend(); }},
                                           Kind{"host_as_device",
                                                [] { return make_host_device({}).value(); }}),
                         [](const auto& test) { return test.param.name; });

#ifdef FORGE_CUDA_BACKEND
/// The CUDA backend where there is a device: the one this process was given, or else the first.
BackendSpec device_spec() {
  BackendSpec spec = BackendSpec::from_environment();
  const std::vector<Device> devices = visible_devices(list_devices());
  if (spec.device.empty() && !devices.empty()) spec.device = devices.front().uuid;
  return spec;
}

std::vector<Kind> devices() {
  if (device_spec().device.empty()) return {};
  return {Kind{"cuda", [] { return make_backend(device_spec()).value(); }}};
}

INSTANTIATE_TEST_SUITE_P(Device, AnyBackend, ::testing::ValuesIn(devices()),
                         [](const auto& test) { return test.param.name; });
#endif

}  // namespace
}  // namespace forge::gpu
