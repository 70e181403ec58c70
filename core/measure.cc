// What the engine counts and times, and how it is read. See meter.h for the arithmetic.
#include <algorithm>

#include "core/engine.h"
#include "core/host.h"
#include "shm/clock.h"

namespace forge::core {
namespace {

/// Beyond this many requests a second, only every kStride-th is timed.
constexpr double kTimeAll = 20'000;
constexpr std::uint32_t kStride = 16;

}  // namespace

// ---- the pulse

void Engine::begin_pulse() {
  const auto now = SteadyClock::now();
  timeline_.resume(now);
  stride_ = until_timed_ = 1;
  next_pulse_ = now + pulse_period_;
  arm(next_pulse_);
}

void Engine::pulse(SteadyTime now) {
  if (next_pulse_ == SteadyTime::max()) return;
  if (now >= next_pulse_) {
    // Our own pauses are nobody's execution time, and nobody's silence.
    const auto elapsed =
        std::min<std::chrono::nanoseconds>(now - next_pulse_ + pulse_period_, 2 * pulse_period_);
    watch_executions(elapsed);
    watch_silence(elapsed);
    watch_lives(elapsed);
    const std::uint64_t requests = roll(now);
    const double seconds = std::chrono::duration<double>(pulse_period_).count();
    stride_ = static_cast<double>(requests) > kTimeAll * seconds && !recorder_ ? kStride : 1;
    const bool quiet = requests == 0 && ledger_.open_entries() == 0 &&
                       std::ranges::none_of(
                           everyone(), [](const Unit* unit) { return unit->life->asked_to_stop; });
    next_pulse_ = quiet ? SteadyTime::max() : now + pulse_period_;
  }
  if (next_pulse_ != SteadyTime::max()) arm(next_pulse_);
}

std::uint64_t Engine::roll(SteadyTime now) {
  std::vector<Timeline::Level> levels;
  levels.reserve(units_.size());
  for (const auto& unit : units_) {
    levels.push_back({unit->meter.total(), static_cast<double>(queued(*unit)), utilization(*unit),
                      unit->state == ReplicaState::healthy, static_cast<double>(unit->load())});
  }
  return timeline_.roll(now, levels, unplaced());
}

// ---- counting

void Engine::count(Unit& unit, bool success) {
  ++(success ? unit.meter.succeeded : unit.meter.failed);
}

void Engine::count_failure(std::uint16_t endpoint, ErrorCode code) {
  const auto number = static_cast<std::size_t>(code);
  if (endpoint < failures_.size() && number < kErrorCodes) ++failures_[endpoint][number];
}

/// Of the lowest rank that failed.
ErrorCode Engine::failure_of(const replicas::Entry& entry, Call& call) const {
  for (std::uint32_t rank = 0; rank < procs_; ++rank) {
    if (entry.rank != replicas::kAllRanks && rank != 0) break;
    if (const auto& error = call.answer(entry.part + rank).error) return error->error_code();
  }
  return ErrorCode::actor_error;
}

void Engine::time_begins(replicas::Entry& entry) {
  entry.called_ns = shm::now_ns();
  entry.slot.flags |= shm::kTimed;
}

void Engine::time_ends(Unit& unit, const replicas::Entry& entry, const shm::ResponseSlot& slot) {
  using std::chrono::nanoseconds;
  if (drained_at_ns_ == 0) drained_at_ns_ = shm::now_ns();
  const std::int64_t now = drained_at_ns_;
  const std::int64_t left = entry.left_ns == 0 ? entry.called_ns : entry.left_ns;
  const auto record = [&](Histogram TimeSplit::*part, std::int64_t ns) {
    (endpoint_metrics_[entry.slot.endpoint].time.*part).record(nanoseconds(ns));
    (unit.meter.time.*part).record(nanoseconds(ns));
  };
  record(&TimeSplit::total, now - entry.called_ns);
  if (entry.left_ns != 0) record(&TimeSplit::batch_wait, left - entry.called_ns);
  record(&TimeSplit::queue, entry.sent_ns - left);
  if ((slot.flags & shm::kStamped) == 0) return;
  const shm::Stamp stamp = shm::read_stamp(slot);  // a worker's word: it may say anything
  const std::int64_t away = std::max<std::int64_t>(0, now - entry.sent_ns);
  const std::int64_t started = std::clamp(stamp.started_ns, entry.sent_ns, entry.sent_ns + away);
  const std::int64_t ended = std::clamp(stamp.ended_ns, started, entry.sent_ns + away);
  record(&TimeSplit::execution, ended - started);
  record(&TimeSplit::transport, away - (ended - started));
}

// ---- load, as routers and metrics see it

std::size_t Engine::active(const Unit& unit) const {
  return std::min(unit.load(),
                  static_cast<std::size_t>(launch_.options.replica_max_concurrent_requests));
}

std::size_t Engine::queued(const Unit& unit) const { return unit.load() - active(unit); }

std::size_t Engine::unplaced() const {
  std::size_t count = waiting_.size();
  for (const Forming& forming : forming_) count += forming.entries.size();
  for (const auto& [session, entries] : held_) count += entries.size();
  return count;
}

double Engine::utilization(const Unit& unit) const {
  return static_cast<double>(active(unit)) / launch_.options.replica_max_concurrent_requests;
}

void Engine::load_changed(Unit& unit) {
  if (unit.stale) return;
  unit.stale = true;
  stale_.push_back(&unit);
}

void Engine::refresh_load() {
  for (Unit* const unit : stale_) {
    unit->stale = false;
    if (unit->view == kUnseen) continue;
    forge::Replica& replica = healthy_[unit->view];
    replica.active_requests = active(*unit);
    replica.queue_depth = queued(*unit);
    replica.current_load = static_cast<double>(unit->load());
    replica.assigned_sessions = sessions_.on(unit->idx);
    replica.capacity_utilization = utilization(*unit);
  }
  stale_.clear();
}

void Engine::update_healthy() {
  healthy_.clear();
  for (const auto& unit : units_) {
    unit->view = kUnseen;
    if (unit->state != ReplicaState::healthy || !unit->wanted) continue;
    unit->view = healthy_.size();
    healthy_.emplace_back();
    healthy_.back().idx = unit->idx;
    load_changed(*unit);
  }
}

// ---- reading

ServiceMetrics Engine::metrics() {
  const Lock lock(mutex_);
  return metrics_now();
}

ServiceMetrics Engine::metrics_now() {
  const auto now = SteadyClock::now();
  if (next_pulse_ != SteadyTime::max()) roll(now);
  ServiceMetrics metrics;
  metrics.total_sessions = sessions_.size();
  metrics.healthy_replicas = healthy_.size();
  metrics.total_replicas = wanted();
  metrics.intervals = timeline_.intervals(now);
  metrics.age = now - born_;
  return metrics;
}

MetricsSummary Engine::metrics_summary() {
  const ServiceMetrics metrics = this->metrics();
  MetricsSummary summary;
  summary.service.total_sessions = metrics.total_sessions;
  summary.service.healthy_replicas = metrics.healthy_replicas;
  summary.service.total_replicas = metrics.total_replicas;
  summary.service.total_request_rate = metrics.get_total_request_rate();
  summary.service.avg_queue_depth = metrics.get_avg_queue_depth();
  summary.service.avg_capacity_utilization = metrics.get_avg_capacity_utilization();
  summary.service.sessions_per_replica = metrics.get_sessions_per_replica();

  Lock lock(mutex_);
  const auto now = SteadyClock::now();
  const auto ago = [&](SteadyTime at) { return std::chrono::duration<double>(now - at).count(); };
  summary.service.scale_events = scale_events_;
  if (!scale_records_.empty()) summary.service.last_scale_event = ago(scale_records_.back().at);
  for (const ScaleRecord& record : scale_records_)
    summary.scaling.push_back({ago(record.at), record.from, record.to, record.reason});
  for (const auto& unit : units_) {
    if (!unit->wanted && unit->incarnation == 0) continue;  // there never was one
    ReplicaMetrics& replica = summary.replicas[unit->idx];
    replica.total_requests = unit->meter.total();
    replica.successful_requests = unit->meter.succeeded;
    replica.failed_requests = unit->meter.failed;
    replica.request_rate = timeline_.rate(unit->idx, now, born_);
    replica.avg_latency = unit->meter.time.total.mean();
    replica.active_requests = active(*unit);
    replica.queue_depth = queued(*unit);
    replica.assigned_sessions = sessions_.on(unit->idx);
    replica.capacity_utilization = utilization(*unit);
    replica.rejected = unit->meter.rejected;
    replica.restarts = unit->incarnation == 0 ? 0 : unit->incarnation - 1;
    replica.ring_requests = unit->in_flight.size();
    replica.devices = devices_of(*unit);
  }
  // Histograms are large: calls may come in between.
  for (auto& [idx, replica] : summary.replicas) {
    lock.unlock();
    lock.lock();
    replica.time = units_[idx]->meter.time;
    replica.batch_sizes = units_[idx]->meter.batch_sizes;
  }
  for (std::size_t i = 0; i < endpoint_metrics_.size(); ++i) {
    if (detail::is_hidden(actor_->endpoints[i].name)) continue;
    lock.unlock();
    lock.lock();
    EndpointMetrics& endpoint = summary.endpoints[actor_->endpoints[i].name];
    endpoint = endpoint_metrics_[i];
    for (std::size_t code = 0; code < kErrorCodes; ++code) {
      if (const std::uint64_t count = failures_[i][code]; count != 0)
        endpoint.failures.emplace(to_string(static_cast<ErrorCode>(code)), count);
    }
    endpoint.unheard = unheard_.counts(actor_->endpoints[i].name);
  }
  return summary;
}

std::vector<DeviceMetrics> Engine::devices_of(const Unit& unit) {
  std::vector<DeviceMetrics> devices;
  for (const Rank& rank : unit.life->ranks) {
    if (rank.seat.id == 0) continue;
    DeviceMetrics& device = devices.emplace_back();
    device.uuid = rank.seat.device.uuid;
    if (!rank.channel) continue;
    const shm::DeviceMemory& memory = rank.channel->device_memory();
    device.memory_used = memory.used.load(std::memory_order_relaxed);
    device.memory_pooled = memory.pooled.load(std::memory_order_relaxed);
    device.memory_total = memory.total.load(std::memory_order_relaxed);
  }
  return devices;
}

}  // namespace forge::core
