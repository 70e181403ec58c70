#include "replicas/channel.h"

#include <algorithm>
#include <utility>

#include "replicas/rank_group.h"
#include "shm/prefetch.h"

namespace forge::replicas {
namespace {

/// How often a worker may say that it starves before it answers something: each time, it has been given
/// at least one block.
constexpr std::uint64_t kMostStarved = 100'000;

}  // namespace

Result<std::shared_ptr<Channel>> Channel::create(const ChannelSpec& spec) {
  auto requests = shm::Segment::create({.name = "forge:" + spec.name + ":requests",
                                        .size = shm::kRequestFileSize,
                                        .reserved = shm::kRequestFileSize,
                                        .writer = shm::Writer::creator});
  if (!requests) return requests.error().clone();
  const std::size_t response_size = shm::kAnswersOffset + shm::page_up(spec.answer_bytes);
  auto responses = shm::Segment::create({.name = "forge:" + spec.name + ":responses",
                                         .size = response_size,
                                         .reserved = shm::kAnswersOffset,
                                         .writer = shm::Writer::peer});
  if (!responses) return responses.error().clone();
  requests->prefault(shm::kRequestFileSize, shm::Access::read_write);
  responses->prefault(shm::kAnswersOffset, shm::Access::read_only);

  auto channel = over(std::move(*requests), std::move(*responses), spec);
  if (spec.procs > 1) {
    auto file = shm::Segment::create({.name = "forge:" + spec.name + ":group",
                                      .size = kGroupFileSize,
                                      .reserved = kGroupFileReserved,
                                      .writer = shm::Writer::peer});
    if (!file) return file.error().clone();
    channel->group_file_ = std::move(*file);
  }
  return channel;
}

std::shared_ptr<Channel> Channel::over(shm::Segment requests, shm::Segment responses,
                                       const ChannelSpec& spec) {
  auto& file = *reinterpret_cast<shm::RequestFile*>(requests.data());
  file.header = shm::make_header(requests.size(), spec.incarnation);
  file.identity = {spec.rank, spec.procs, static_cast<std::uint32_t>(spec.wait), spec.cpu,
                   spec.calls};
  auto memory = std::make_shared<AnswerMemory>(std::move(responses));
  auto channel = std::shared_ptr<Channel>(new Channel(std::move(requests), std::move(memory)));
  channel->assign(spec.replica, spec.incarnation);
  return channel;
}

void Channel::assign(std::uint32_t replica, std::uint64_t incarnation) {
  // Relaxed: the next request that is published takes it along.
  request_->assignment.replica.store(replica, std::memory_order_relaxed);
  request_->assignment.incarnation.store(incarnation, std::memory_order_relaxed);
}

Channel::Channel(shm::Segment request_segment, std::shared_ptr<AnswerMemory> answers)
    : request_segment_(std::move(request_segment)),
      answers_(std::move(answers)),
      request_(reinterpret_cast<shm::RequestFile*>(request_segment_.data())),
      // The cast drops const because the bells are waited on; the mapping itself is read-only.
      response_(reinterpret_cast<shm::ResponseFile*>(const_cast<std::byte*>(answers_->data()))),
      requests_(request_->requests, shm::kWindow, request_->requests_tail,
                response_->requests_head),
      responses_(response_->responses, shm::kWindow, response_->responses_tail,
                 request_->responses_head) {
  answers_->open({request_->releases, request_->releases_tail, response_->releases_head,
                  response_->parked, request_->worker_bell.word});
}

void Channel::close_fds() {
  request_segment_.close_fd();
  answers_->close_fd();
  group_file_ = shm::Segment();
}

std::uint64_t Channel::stage(const shm::RequestSlot& slot) {
  const std::uint64_t position = requests_.position();
  *requests_.try_claim() = slot;
  requests_.stage();
  ++outstanding_;
  return position;
}

void Channel::commit() {
  flush_releases();
  requests_.commit();
}

void Channel::wake_worker() {
  shm::handshake_fence();
  // Relaxed: the fence orders this against our publishing of the slot.
  if (response_->parked.load(std::memory_order_relaxed) != 0) {
    shm::ring(request_->worker_bell.word, shm::Scope::shared);
  }
  shm::prefetch_for_write(requests_.next_slot(), sizeof(shm::RequestSlot));
}

bool Channel::pop(shm::ResponseSlot& out) {
  do {
    if (violation_ != nullptr) return false;
    const shm::ResponseSlot* slot = responses_.front();
    if (slot == nullptr)
      return responses_.corrupt() && reject("response ring position out of range");
    out = *slot;  // copied before it is checked: what we check is what we use
    responses_.pop();
    if (outstanding_ == 0) return reject("more answers than requests");
  } while (out.kind == shm::ResponseKind::starved && feed(out.block_size));
  if (violation_ != nullptr) return false;
  --outstanding_;
  if (std::exchange(starved_now_, 0) != 0) answers_->fed();
  if (out.kind != shm::ResponseKind::value && out.kind != shm::ResponseKind::error &&
      out.kind != shm::ResponseKind::expired) {
    return reject("unknown kind of answer");
  }
  if (out.block == 0) {
    if (out.head_size > shm::kInlineAnswer) return reject("inline answer too long");
  } else if (!answers_->contains(out.block, out.block_size) || out.head_size > out.block_size) {
    return reject("answer block out of bounds");
  }
  return true;
}

/// The worker waits for room. Each time it has been given some, it may find that it is not enough.
bool Channel::feed(std::uint64_t wanted) {
  if (++starved_now_ > kMostStarved) return reject("it asks for room without end");
  ++starved_;
  // Release pairs with the worker's acquire: it sees what has been sent before.
  if (!answers_->make_room(wanted))
    request_->answers_held.store(starved_, std::memory_order_release);
  wake_worker();
  return true;
}

void Channel::leave_answers_alone() {
  request_->answers_held.store(~std::uint64_t{0}, std::memory_order_relaxed);
}

std::uint64_t Channel::started() const {
  // Relaxed: after the worker's death nothing changes any more. Positions we never pushed were not
  // started.
  return std::min(response_->started.position.load(std::memory_order_relaxed),
                  requests_.position());
}

shm::ExitReason Channel::exit_reason() const {
  return response_->exit_reason.load(std::memory_order_relaxed);  // as started()
}

}  // namespace forge::replicas
