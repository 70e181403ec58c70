// State of sessions: how what an actor keeps for a session survives the death of its replica.
//
//   class Chat : public forge::ForgeActor {
//     History save() const { return histories_.at(forge::context().sess_id()); }
//     void restore(History history) { histories_[forge::context().sess_id()] = std::move(history); }
//   };
//
// An actor that has both, public and fitting, needs no registration. save() answers a payload: all
// that its session's calls have made of it on this rank; restore() takes it, on the same rank of
// another replica, before any other call of that session runs there. context().sess_id() says
// whose. The controller keeps the last answer of save() and the calls since, and runs those again
// after restore(); so calls of a session should change nothing else that matters. Where either
// throws, the session's next call hears SessionLost once the replica is gone.
#pragma once

#include <forge/invoke.h>
#include <forge/module.h>
#include <forge/payload.h>

#include <concepts>
#include <cstddef>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

namespace forge::detail {

/// What its save() answers.
template <class A>
using SavedBy = std::remove_cvref_t<decltype(std::declval<A&>().save())>;

template <class A>
concept KeepsSessions = requires(A& actor) {
  actor.save();
  requires !std::is_void_v<SavedBy<A>>;
  actor.restore(std::declval<SavedBy<A>>());
}
&&is_payload<SavedBy<A>>;

/// Answers with a copy of everything `state` refers to, as bytes that any process can read.
void answer_snapshot(const Writer& state, Invocation& call);

/// Gives a reader of this rank's snapshot to `restore`; tensors it reads own their bytes. Throws
/// InvalidArgument.
class SnapshotReader final : TensorSource {
 public:
  explicit SnapshotReader(Invocation& call);
  Reader& reader() { return reader_; }

 private:
  Tensor in_block(std::uint64_t offset, std::uint64_t size, DType dtype,
                  std::span<const std::int64_t> shape) override;
  Tensor in_home(std::uint64_t offset, std::uint64_t size, DType dtype,
                 std::span<const std::int64_t> shape) override;

  std::span<const std::byte> blobs_;
  Reader reader_;
};

/// The hidden endpoints of actor class A.
template <class A>
struct StateInvoker {
  using State = SavedBy<A>;

  static void add_to(ActorInfo& info) {
    const auto add = [&](std::string_view name, std::string signature,
                         EndpointInfo::Invoke invoke) {
      info.endpoints.push_back(
          {std::string(name), std::move(signature), EndpointKind::plain, {}, invoke});
    };
    add(kSaveEndpoint, signature_of<State()>(), &save);
    add(kRestoreEndpoint, signature_of<void(State)>(), &restore);
  }

 private:
  static void save(const EndpointInfo& info, ForgeActor& actor, Invocation& call) {
    check_argument_count(info.name, 0, call.args.front().array());
    call.phase = Invocation::Phase::running;
    auto&& state = static_cast<A&>(actor).save();
    call.phase = Invocation::Phase::encoding;
    Writer writer;
    Codec<State>::encode(writer, state);
    answer_snapshot(writer, call);
  }

  static void restore(const EndpointInfo& info, ForgeActor& actor, Invocation& call) {
    check_argument_count(info.name, 1, call.args.front().array());
    SnapshotReader snapshot(call);
    State state = Codec<State>::decode(snapshot.reader());
    call.phase = Invocation::Phase::running;
    static_cast<A&>(actor).restore(std::move(state));
    call.phase = Invocation::Phase::encoding;
    call.out.restart();
    call.out.nil();
    call.sink.value(call.out);
  }
};

}  // namespace forge::detail
