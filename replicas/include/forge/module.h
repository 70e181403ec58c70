// Module: the actors of one plugin, and the form in which a shared object shows them to a worker.
//
// Two halves. Module, ActorInfo and EndpointInfo are C++ objects that plugin code fills and worker
// code reads, so both must have been built alike. PluginEntry is what makes sure of that: plain
// data with a fixed layout, read before any of the plugin's registering code runs.
#pragma once

#include <forge/actor.h>
#include <forge/options.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace forge {

enum class EndpointKind : std::uint8_t { plain = 0, service = 1, batched = 2 };

class Error;
class Module;
template <class Actor>
class ActorBuilder;

namespace detail {

class Reader;
class Writer;
struct TensorGate;

/// Takes the outcome of each element of a request, in order. A value comes encoded, while what it
/// refers to still lives: a Writer only remembers where large byte blocks are. May throw as long as
/// nothing of the answer is visible to others.
class ResultSink {
 public:
  virtual void value(Writer& out) = 0;
  /// Instead of a value: the error of this element alone. Only batched endpoints give it.
  virtual void error(const Error& error) = 0;
  /// The call is over; Invocation::failure says if it failed as a whole. Last, and once.
  virtual void ended() noexcept = 0;

 protected:
  ~ResultSink() = default;
};

/// One request on its way through an actor. Lives until ended().
struct Invocation {
  /// Says whose fault an exception is: the arguments', the actor's, or the answer's.
  enum class Phase : std::uint8_t { decoding, running, encoding };

  std::span<Reader> args;  ///< one array of arguments per element; several for batched endpoints
  Writer& out;
  ResultSink& sink;
  TensorGate* gate = nullptr;  ///< null: no device
  Phase phase = Phase::decoding;
  std::exception_ptr failure = nullptr;  ///< what it threw
};

/// Endpoints that no caller binds: they save and bring back what an actor keeps for a session
/// (snapshot.h). Names that begin like theirs are taken.
inline constexpr std::string_view kSaveEndpoint = "~save";
inline constexpr std::string_view kRestoreEndpoint = "~restore";
constexpr bool is_hidden(std::string_view endpoint) { return endpoint.starts_with('~'); }

struct EndpointInfo {
  using Invoke = void (*)(const EndpointInfo&, ForgeActor&, Invocation&);

  std::string name;
  std::string signature;  ///< of one element
  EndpointKind kind = EndpointKind::plain;
  EndpointOptions options{};
  /// A coroutine says itself when it has ended, which may be later, on the same thread; and throws
  /// only before it has begun.
  Invoke invoke = nullptr;
  bool coroutine = false;
  /// The pointer to the member function; only `invoke` knows its type.
  std::array<std::byte, 2 * sizeof(void*)> method{};
};

/// Throws InvalidArgument: `where` has such options; `remedy` says what to do.
void check_options(const std::string& where, const EndpointOptions& options,
                   std::string_view remedy);

struct ActorInfo {
  /// Sets `running` once the arguments are decoded and the constructor is entered.
  using Construct = std::unique_ptr<ForgeActor> (*)(const ActorInfo&, Reader& args, bool& running);

  std::string name;
  std::string doc;
  std::vector<std::string> constructor;  ///< type strings of the arguments
  Options defaults{};
  std::vector<EndpointInfo> endpoints{};
  Construct construct = nullptr;

  void add(EndpointInfo endpoint);
  void set_defaults(Options options);
};

/// Changes with every change to what plugin and worker exchange.
inline constexpr std::uint32_t kPluginAbi = 4;
inline constexpr std::uint64_t kPluginMagic = 0x4E'49'47'55'4C'50'46ULL;  // "FPLUGIN"

/// One FORGE_PLUGIN of a program or shared object; a list through all of them.
struct PluginPart {
  void (*register_actors)(Module&);
  PluginPart* next;
};

/// What the symbol `forge_plugin` of a shared object is. The first three fields never move.
struct PluginEntry {
  std::uint64_t magic;
  std::uint32_t abi;
  std::uint32_t size;        ///< of this struct
  const char* tag;           ///< standard library and object sizes the plugin was built with
  PluginPart* const* parts;  ///< head of the list of this shared object
};
static_assert(std::is_standard_layout_v<PluginEntry> && std::is_trivial_v<PluginEntry>);
static_assert(offsetof(PluginEntry, abi) == 8 && offsetof(PluginEntry, size) == 12);

/// The head of the list above. Hidden, so that every shared object has one of its own.
[[gnu::visibility("hidden")]] inline PluginPart* parts_of_this_object = nullptr;

}  // namespace detail

/// The actors that FORGE_PLUGIN functions have registered. Names are unique.
class Module {
 public:
  Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  /// Registers actor class A; CtorArgs are what its constructor is called with. Throws
  /// InvalidArgument if the name is empty or taken.
  template <class A, class... CtorArgs>
  ActorBuilder<A> actor(std::string name, std::string doc = {});

  const std::deque<detail::ActorInfo>& actors() const { return actors_; }
  const detail::ActorInfo* find(std::string_view name) const;

 private:
  detail::ActorInfo& add(detail::ActorInfo actor);

  std::deque<detail::ActorInfo> actors_;  // a deque: builders keep references
};

}  // namespace forge

extern "C" {
/// Tell the process about actors linked into it, and that they are gone. Plain C, so that objects
/// of every ABI can call them; ignored while load_plugin opens a shared object.
void forge_record_plugin(const forge::detail::PluginEntry* entry);
void forge_forget_plugin(const forge::detail::PluginEntry* entry);
}
