// What tests of the public face share on top of fixture.h: errors by type, and a controller with the
// plugin of payload_plugin.cc.
#pragma once

#include <forge/forge.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <utility>

#include "fixture.h"

namespace forge::e2e {

/// Runs `work`, which must throw an E, and gives what it says.
template <class E>
std::string message_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const E& error) {
    return error.what();
  } catch (const Error& error) {
    ADD_FAILURE() << "threw " << error.code() << " instead: " << error.what();
    return error.what();
  }
  ADD_FAILURE() << "threw nothing";
  return "";
}

/// Of a future that must fail with an E.
template <class E, class T>
std::string error_of(Future<T> future) {
  return message_of<E>([&] { (void)std::move(await(std::move(future))).value(); });
}

/// The value of a future that must have one, or a failed test instead of a hang.
template <class T>
T value_of(Future<T> future) {
  return await(std::move(future)).value();
}

class PayloadTest : public ::testing::Test {
 protected:
  Service serve(Options options = {}, const std::string& actor = "Payloads") {
    return payloads.actor(actor).options(std::move(options)).as_service();
  }

  Controller controller{quiet()};
  Plugin payloads = controller.load(plugin_path("payloads"));
};

}  // namespace forge::e2e
