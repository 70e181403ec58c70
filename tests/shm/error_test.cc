// Errors, statuses and results.
#include <forge/error.h>
#include <forge/result.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <type_traits>
#include <vector>

namespace {

using forge::ErrorCode;
using forge::Result;
using forge::Status;

constexpr unsigned kCodes = static_cast<unsigned>(ErrorCode::invalid_argument) + 1;

template <class E>
void expect_class(ErrorCode code, const char* name) {
  const E error("what happened");
  EXPECT_EQ(error.error_code(), code);
  EXPECT_EQ(error.code(), name);
  EXPECT_STREQ(error.what(), "what happened");
  EXPECT_THROW(error.raise(), E);
  EXPECT_NE(dynamic_cast<const E*>(error.clone().get()), nullptr);

  const std::shared_ptr<const forge::Error> made = forge::make_error({code, "made"});
  EXPECT_NE(dynamic_cast<const E*>(made.get()), nullptr) << name;
  EXPECT_THROW(forge::throw_status({code, "thrown"}), E);
  static_assert(std::is_final_v<E> && std::is_base_of_v<std::runtime_error, E>);
}

TEST(Error, HasOneFinalClassPerCode) {
  using enum ErrorCode;
  expect_class<forge::ActorError>(actor_error, "actor_error");
  expect_class<forge::WorkerLost>(worker_lost, "worker_lost");
  expect_class<forge::PoisonRequest>(poison_request, "poison_request");
  expect_class<forge::NoHealthyReplicas>(no_healthy_replicas, "no_healthy_replicas");
  expect_class<forge::Unavailable>(unavailable, "unavailable");
  expect_class<forge::Backpressure>(backpressure, "backpressure");
  expect_class<forge::DeadlineExceeded>(deadline_exceeded, "deadline_exceeded");
  expect_class<forge::Cancelled>(cancelled, "cancelled");
  expect_class<forge::PayloadTooLarge>(payload_too_large, "payload_too_large");
  expect_class<forge::UnknownActor>(unknown_actor, "unknown_actor");
  expect_class<forge::UnknownEndpoint>(unknown_endpoint, "unknown_endpoint");
  expect_class<forge::SignatureMismatch>(signature_mismatch, "signature_mismatch");
  expect_class<forge::SessionLost>(session_lost, "session_lost");
  expect_class<forge::PluginError>(plugin_error, "plugin_error");
  expect_class<forge::InsufficientGpus>(insufficient_gpus, "insufficient_gpus");
  expect_class<forge::NotSupported>(not_supported, "not_supported");
  expect_class<forge::Stopped>(stopped, "stopped");
  expect_class<forge::InvalidArgument>(invalid_argument, "invalid_argument");
}

TEST(Error, SurvivesTheTripThroughAStatus) {
  for (unsigned code = 1; code < kCodes; ++code) {
    const Status status{static_cast<ErrorCode>(code), "message"};
    const Status back = forge::to_status(*forge::make_error(status));
    EXPECT_EQ(back.code, status.code);
    EXPECT_EQ(back.message, status.message);
  }
}

TEST(Error, OfAnActorKeepsTypeAndText) {
  const forge::ActorError error("add of counter/1", "std::out_of_range", "no: such index");
  EXPECT_STREQ(error.what(), "add of counter/1: std::out_of_range: no: such index");

  const auto back = forge::make_error(forge::to_status(error));
  const auto& actor = dynamic_cast<const forge::ActorError&>(*back);
  EXPECT_EQ(actor.type(), "std::out_of_range");
  EXPECT_EQ(actor.text(), "no: such index");
  EXPECT_STREQ(actor.what(), error.what());
}

TEST(Error, OfAnActorWithoutPlaceOrTypeKeepsItsText) {
  const auto placeless = forge::make_error(forge::to_status(forge::ActorError("", "T", "text")));
  EXPECT_STREQ(placeless->what(), "T: text");
  EXPECT_EQ(dynamic_cast<const forge::ActorError&>(*placeless).text(), "text");

  const auto typeless = forge::make_error({ErrorCode::actor_error, "just text"});
  EXPECT_EQ(dynamic_cast<const forge::ActorError&>(*typeless).text(), "just text");
  EXPECT_EQ(dynamic_cast<const forge::ActorError&>(*typeless).type(), "");
}

TEST(Error, OfALostWorkerSaysWhetherItMayHaveRun) {
  for (const bool maybe : {false, true}) {
    const auto back = forge::make_error(forge::to_status(forge::WorkerLost("gone", maybe)));
    EXPECT_EQ(dynamic_cast<const forge::WorkerLost&>(*back).maybe_executed(), maybe);
  }
}

TEST(Error, OfNoKnownCodeIsStillAnError) {
  for (const int number : {0, 19, 65535}) {
    const auto error = forge::make_error({static_cast<ErrorCode>(number), "from elsewhere"});
    ASSERT_NE(error, nullptr);
    EXPECT_EQ(error->error_code(), ErrorCode::invalid_argument);
    EXPECT_NE(std::string(error->what()).find("from elsewhere"), std::string::npos);
  }
  EXPECT_EQ(forge::to_string(static_cast<ErrorCode>(19)), "unknown");
}

TEST(Result, HoldsAValue) {
  Result<std::string> result = "text";
  EXPECT_TRUE(result.has_value());
  EXPECT_TRUE(static_cast<bool>(result));
  EXPECT_EQ(result.value(), "text");
  EXPECT_EQ(*result, "text");
  EXPECT_EQ(result->size(), 4u);
  EXPECT_EQ(result.value_or("other"), "text");
  EXPECT_THROW(result.error(), forge::InvalidArgument);
}

TEST(Result, ThrowsItsErrorWithTheDynamicType) {
  const Result<int> result = forge::make_error({ErrorCode::backpressure, "queue full"});
  EXPECT_FALSE(result.has_value());
  EXPECT_THROW(result.value(), forge::Backpressure);
  EXPECT_THROW(*result, forge::Backpressure);
  EXPECT_EQ(result.error().code(), "backpressure");
  EXPECT_EQ(result.value_or(7), 7);
}

TEST(Result, TakesAnErrorByValue) {
  const Result<int> result = forge::WorkerLost("gone", false);
  const auto& lost = dynamic_cast<const forge::WorkerLost&>(result.error());
  EXPECT_FALSE(lost.maybe_executed());
}

TEST(Result, RefusesANullError) {
  EXPECT_THROW((void)Result<int>(std::shared_ptr<const forge::Error>()), forge::InvalidArgument);
  EXPECT_THROW((void)Result<void>(std::shared_ptr<const forge::Error>()), forge::InvalidArgument);
}

TEST(Result, MovesWhatCannotBeCopied) {
  Result<std::unique_ptr<int>> result = std::make_unique<int>(5);
  const std::unique_ptr<int> value = std::move(result).value();
  EXPECT_EQ(*value, 5);
}

TEST(Result, ConvertsLikeItsValue) {
  static_assert(std::is_convertible_v<const char*, Result<std::string>>);
  static_assert(!std::is_convertible_v<std::size_t, Result<std::vector<int>>>);
  static_assert(!std::is_constructible_v<Result<int>, std::string>);
  const Result<std::vector<int>> result(std::vector<int>{1, 2});
  EXPECT_EQ(result->size(), 2u);
}

TEST(Result, OfVoidSucceedsOrThrows) {
  const Result<void> fine;
  EXPECT_TRUE(fine.has_value());
  EXPECT_NO_THROW(fine.value());
  EXPECT_THROW(fine.error(), forge::InvalidArgument);

  const Result<void> failed = forge::Stopped("service stopped");
  EXPECT_FALSE(failed);
  EXPECT_THROW(failed.value(), forge::Stopped);
}

}  // namespace
