// forge-bench: measures a service on this machine, next to what the machine can do at best.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "bench/forge_bench/autoscale_command.h"
#include "bench/forge_bench/bars.h"
#include "bench/forge_bench/chaos.h"
#include "bench/forge_bench/chaos_report.h"
#include "bench/forge_bench/duration.h"
#include "bench/forge_bench/gpu.h"
#include "bench/forge_bench/machine.h"
#include "bench/forge_bench/report.h"
#include "bench/forge_bench/run.h"
#include "bench/forge_bench/spawn.h"
#include "bench/forge_bench/text.h"

namespace forge::bench {
namespace {

constexpr int kOk = 0;
constexpr int kFailed = 1;  // a promise was broken, a bar was missed, something else broke
constexpr int kUsage = 2;
constexpr double kProbeSeconds = 0.3;

struct CommandLine {
  Options options;
  BarOptions bars;
  SlabShape slab;  // floor
  ChaosOptions chaos;
  AutoscaleOptions autoscale;
  GpuOptions gpu;
};

/// A number of seconds; CLI::Range alone lets "nan" through.
CLI::Validator seconds(double least, double most) {
  return CLI::Range(least, most) & CLI::Validator(
                                       [](const std::string& value) {
                                         return std::isnan(std::strtod(value.c_str(), nullptr))
                                                    ? value + " is not a number"
                                                    : std::string();
                                       },
                                       "");
}

void add_json(CLI::App& app, std::string& path) {
  app.add_option("--json", path, "Also write the report to this file, as JSON");
}

void add_cpus(CLI::App& app, Options& options) {
  app.add_option("--cpus", options.cpus,
                 "Cores, as in 0,1: the first for clients, the others for workers. Without it, one "
                 "client and one worker get the first two cores; more are left to the kernel")
      ->delimiter(',')
      ->check(CLI::Range(0, 1023));
}

void add_repeat(CLI::App& app, Options& options) {
  app.add_option("--repeat", options.repeat, "Runs; the report gives their median")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
}

void add_duration(CLI::App& app, Options& options) {
  app.add_option("--duration", options.duration_s, "Seconds measured in each run")
      ->check(seconds(0.01, 86400))
      ->capture_default_str();
}

/// One to one for echo; enough for two batches for digits.
int default_inflight(Work work) { return work == Work::digits ? 64 : 1; }

void add_load(CLI::App& app, Work work, Options& options) {
  static const std::map<std::string, Wait> kWaits = {
      {"spin", Wait::spin}, {"adaptive", Wait::adaptive}, {"block", Wait::block}};
  const auto count = [&](const char* name, int& value, int most, const char* help) {
    return app.add_option(name, value, help)->check(CLI::Range(1, most))->capture_default_str();
  };
  count("--replicas", options.replicas, 256, "Replicas of the service");
  count("--procs", options.procs, 64, "Processes of each replica, in lockstep");
  count("--clients", options.clients, 256, "Client threads");
  count("--inflight", options.inflight, 65536, "Requests each client has under way")
      ->default_str(std::to_string(default_inflight(work)));
  // What an endpoint may be told is for forge to say: it refuses the rest when the service starts.
  Options usual;
  usual.work = work;
  const EndpointOptions registered = target(usual).options;
  auto* const size = app.add_option("--batch-size", options.batch_size,
                                    "Calls that are executed as one, 256 at most")
                         ->type_name("INT")
                         ->default_str(std::to_string(registered.batch_size));
  auto* const timeout =
      app.add_option_function<std::string>(
             "--batch-timeout",
             [&](const std::string& text) {
               options.batch_timeout =
                   parse_duration("--batch-timeout", text, std::chrono::hours(1));
             },
             "So long after its first call a batch leaves, full or not; as in 500us or 10ms")
          ->type_name("TIME")
          ->default_str(format_ns(static_cast<double>(registered.batch_timeout.count())));
  auto* const router =
      app.add_option("--router", options.router,
                     "Who chooses the replica of a call or batch: round_robin, least_loaded, "
                     "power_of_two_choices or hash")
          ->type_name("NAME")
          ->default_str(registered.router);
  count("--sessions", options.sessions, 1'000'000,
        "Sessions that the calls belong to in turn; echo makes sure of the order in each")
      ->default_str("")
      ->excludes(size)  // calls of a session are never batched, and go where it sticks
      ->excludes(timeout)
      ->excludes(router);
  app.add_option_function<std::string>(
         "--wait", [&](const std::string& name) { options.wait = kWaits.at(name); },
         "How workers and controller wait")
      ->check(CLI::IsMember({"spin", "adaptive", "block"}))
      ->default_str("adaptive");
  add_duration(app, options);
  app.add_option("--warmup", options.warmup_s, "Seconds before that, not measured")
      ->check(seconds(0, 3600))
      ->capture_default_str();
  app.add_option("--seed", options.seed, "Of payloads and of who is killed")->capture_default_str();
  add_cpus(app, options);
  add_repeat(app, options);
  app.add_option("--kill-every", options.kill_every_ms, "SIGKILL a random worker every so many ms")
      ->check(CLI::Range(1, 3'600'000));
  add_json(app, options.json);
  app.add_option("--plugin-dir", options.plugin_dir, "Folder of libecho.so and libdigits.so");
}

/// With room for a slab of that shape, which it begins with.
std::unique_ptr<Floor> make_floor(const Options& options, const SlabShape& slab) {
  const std::vector<int> cores = placement(options).floor;
  if (cores.empty()) return nullptr;
  auto floor = std::make_unique<Floor>(FloorSpec{cores[0], cores[1], slab.bytes()});
  floor->use(slab);
  return floor;
}

void add_chaos(CLI::App& app, ChaosOptions& options) {
  const auto count = [&](const char* name, int& value, int most, const char* help) {
    app.add_option(name, value, help)->check(CLI::Range(1, most))->capture_default_str();
  };
  count("--replicas", options.replicas, static_cast<int>(chaos::kMostReplicas),
        "Replicas of the service");
  count("--clients", options.clients, 64, "Client threads");
  count("--inflight", options.inflight, 1024, "Requests each client has under way");
  app.add_option("--spares", options.spares, "Warm spares")
      ->check(CLI::Range(0, 64))
      ->capture_default_str();
  count("--procs", options.procs, 16, "Workers of a replica, in lockstep");
  app.add_option("--arena", options.arena, "Bytes of the service arena, and of a worker's answers")
      ->check(CLI::Range(std::size_t{256} * 1024, std::size_t{1} << 40))
      ->capture_default_str();
  app.add_flag("--coroutines", options.coroutines, "Endpoints are coroutines, several at a time");
  app.add_option_function<std::string>(
         "--faults", [&](const std::string& text) { options.faults = parse_faults(text); },
         "Which, as in kill,segv,stop: kill (SIGKILL from outside), segv and abort (the worker "
         "crashes while it executes), stop (SIGSTOP for a while), slow (it sleeps while it "
         "executes), corrupt (it writes garbage over its ring of answers), forged (it answers a "
         "request that "
         "nobody has made)")
      ->type_name("KIND,...")
      ->default_str(faults_text(options.faults));
  app.add_option_function<std::string>(
         "--kill-every", [&](const std::string& text) { options.every_ms = parse_every(text); },
         "Milliseconds between two faults, at random in that range")
      ->type_name("MIN,MAX")
      ->default_str(text("%d,%d", options.every_ms.first, options.every_ms.second));
  app.add_option("--duration", options.duration_s, "Seconds of it")
      ->check(seconds(0.1, 86400))
      ->capture_default_str();
  app.add_option("--seed", options.seed, "Of what is asked, and of who fails how and when")
      ->capture_default_str();
  add_json(app, options.json);
  app.add_option("--plugin-dir", options.plugin_dir, "Folder of libchaos.so");
}

void add_gpu(CLI::App& app, GpuOptions& options) {
  app.add_option("--only", options.only, "Some of them, as in answers,copy")
      ->delimiter(',')
      ->check(CLI::IsMember(gpu_check_names()));
  app.add_option("--duration", options.duration_s, "Seconds of each stretch that is timed")
      ->check(seconds(0.05, 600))
      ->capture_default_str();
  app.add_option("--soak", options.soak_s, "Seconds of the soak")
      ->check(seconds(0.2, 86400))
      ->capture_default_str();
  app.add_option("--seed", options.seed, "Of inputs, and of who is killed")->capture_default_str();
  app.add_flag(
      "--rehearse", options.rehearse,
      "On devices that the host poses as (FORGE_FAKE_DEVICES): goes through the checks that "
      "need no card to compare with");
  app.add_option("--plugin-dir", options.plugin_dir,
                 "Folder of libmlp_cuda.so and libdigits_cuda.so");
}

int run_load_command(const CommandLine& line) {
  const Options& options = line.options;
  const JsonFile json(options.json);
  check(options);
  plugin_path(options, target(options).plugin);
  const auto floor = make_floor(options, slab_of(options));
  Runner runner(floor.get(), kProbeSeconds);
  std::vector<Run> runs;
  runs.reserve(static_cast<std::size_t>(options.repeat));
  for (int i = 0; i < options.repeat; ++i) runs.push_back(runner.run(options));
  std::fputs(to_text(options, runs).c_str(), stdout);
  json.write(to_json(options, runs));
  return answered_exactly_once(runs) ? kOk : kFailed;
}

int run_floor_command(const CommandLine& line) {
  const Options& options = line.options;
  const JsonFile json(options.json);
  const auto floor = make_floor(options, line.slab);
  if (!floor) throw UsageError("the floor needs two cores; give two to --cpus");
  const std::vector<int> cores = placement(options).floor;
  std::vector<FloorFigures> probes;
  probes.reserve(static_cast<std::size_t>(options.repeat));
  for (int i = 0; i < options.repeat; ++i) probes.push_back(floor->probe(options.duration_s));
  const FloorFigures figures = median(probes);

  std::string out = labelled("machine", machine_line());
  out += labelled("floor",
                  text("between cpus %d and %d, %g s", cores[0], cores[1], options.duration_s));
  const auto row = [&](const char* name, const std::string& value, const std::string& rest) {
    out += left(name, 40) + right(value, 11) + (rest.empty() ? "" : "   " + rest) + "\n";
  };
  const auto p99 = [](double ns) { return "p99 " + format_ns(ns); };
  row("cache line, there and back", format_ns(figures.line_rtt_ns), p99(figures.line_p99_ns));
  row("64 B through two rings, there and back", format_ns(figures.rings_rtt_ns),
      p99(figures.rings_p99_ns));
  row("64 B through a ring, one way", format_rate(figures.rings_per_s), "");
  row("futex, there and back, both asleep", format_ns(figures.futex_rtt_ns),
      p99(figures.futex_p99_ns));
  row("slab, both directions", text("%.1f GB/s", figures.slab_gbps),
      format_bytes(static_cast<double>(line.slab.row_bytes)) +
          text(" × %u in flight", line.slab.depth));
  row("memcpy, one core", text("%.1f GB/s", figures.memcpy_gbps),
      format_bytes(static_cast<double>(line.slab.row_bytes)));
  row("share of the two cores we had", text("%.0f %%", 100 * figures.core_share),
      "the rates need all of it");
  std::fputs(out.c_str(), stdout);

  auto report = json_heading("floor");
  report["cpus"] = cores;
  report["slab"] = {{"bytes", line.slab.row_bytes}, {"depth", line.slab.depth}};
  report["floor"] = to_json(figures);
  for (const FloorFigures& probe : probes) report["runs"].push_back(to_json(probe));
  json.write(report);
  return kOk;
}

int run_bars_command(const CommandLine& line) {
  const JsonFile json(line.options.json);
  BarOptions bar_options = line.bars;
  bar_options.plugin_dir = line.options.plugin_dir;
  for (const char* plugin : {"libecho.so", "libdigits.so"}) plugin_path(line.options, plugin);
  const auto floor = make_floor(line.options, kLargestBarSlab);
  if (!floor) throw UsageError("bars are ratios to the floor, which needs two cores");
  const std::vector<Bar> bars = measure_bars(bar_options, *floor);
  std::fputs((labelled("machine", machine_line()) + "\n" + to_text(bars, "bar")).c_str(), stdout);
  const auto with = [&](Verdict verdict) {
    return std::count_if(bars.begin(), bars.end(),
                         [&](const Bar& bar) { return bar.verdict == verdict; });
  };
  std::printf("\n%td of %zu bars met, %td missed, %td without a verdict\n", with(Verdict::met),
              bars.size(), with(Verdict::missed),
              with(Verdict::noisy) + with(Verdict::not_measured));
  auto report = json_heading("bars");
  report["bars"] = to_json(bars, "bar");
  report["met"] = with(Verdict::missed) == 0;
  json.write(report);
  return with(Verdict::missed) == 0 ? kOk : kFailed;
}

int run_chaos_command(const CommandLine& line) {
  const JsonFile json(line.chaos.json);
  const ChaosRun run = run_chaos(line.chaos);
  std::fputs(to_text(line.chaos, run).c_str(), stdout);
  json.write(to_json(line.chaos, run));
  return run.ledger.holds() ? kOk : kFailed;
}

int run_gpu_command(const CommandLine& line) {
  const JsonFile json(line.options.json);
  const std::vector<Bar> checks = run_gpu_checks(line.gpu);
  std::fputs((labelled("machine", machine_line()) + "\n" + to_text(checks, "check")).c_str(),
             stdout);
  const auto met = std::ranges::count(checks, Verdict::met, &Bar::verdict);
  std::printf("\n%td of %zu checks met\n", met, checks.size());
  auto report = json_heading("gpu");
  report["checks"] = to_json(checks, "check");
  report["met"] = all_met(checks);
  json.write(report);
  return all_met(checks) ? kOk : kFailed;
}

/// One line on standard error.
int complain(const char* what, int status) {
  const auto length = static_cast<int>(std::strcspn(what, "\n"));
  const char* help = status == kUsage ? " (forge-bench --help lists what there is)" : "";
  std::fprintf(stderr, "forge-bench: %.*s%s\n", length, what, help);
  return status;
}

/// The command line: what may be said, and what was said.
struct Cli {
  Cli();
  CLI::App app{"Measures forge on this machine, next to what the machine can do at best.",
               "forge-bench"};
  CLI::App* echo;
  CLI::App* digits;
  CLI::App* floor;
  CLI::App* bars;
  CLI::App* chaos;
  CLI::App* autoscale;
  CLI::App* gpu;
  CommandLine line;
};

Cli::Cli() {
  app.set_version_flag("--version", "forge-bench " + build().version + " (" + build().git + ")");
  app.require_subcommand(0, 1);  // none is complained about by run(), which can say what there is
  Options& options = line.options;
  options.inflight = 0;  // not said

  echo = app.add_subcommand("echo", "Bytes or tensors to an actor and back");
  add_load(*echo, Work::echo, options);
  echo->add_option("--payload", options.payload,
                   "Bytes of each request, 8 at least; from 65536 on they travel as tensors")
      ->check(CLI::Range(kNumberBytes, std::size_t{1} << 32))
      ->capture_default_str();

  digits = app.add_subcommand("digits", "Real images to a real model");
  add_load(*digits, Work::digits, options);

  floor = app.add_subcommand("floor", "What the machine can do without forge");
  add_duration(*floor, options);
  add_repeat(*floor, options);
  add_cpus(*floor, options);
  add_json(*floor, options.json);
  floor->add_option("--payload", line.slab.row_bytes, "Bytes of a block of the slab")
      ->check(CLI::Range(std::size_t{64}, std::size_t{1} << 30))
      ->capture_default_str();
  floor->add_option("--inflight", line.slab.depth, "Blocks under way")
      ->check(CLI::Range(1u, kMostSlabDepth))
      ->capture_default_str();

  bars = app.add_subcommand("bars", "Whether forge clears its bars; exit status 1 if not");
  bars->add_option("--runs", line.bars.runs, "Runs that count, per bar")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  bars->add_option("--duration", line.bars.duration_s, "Seconds of each")
      ->check(seconds(0.05, 600))
      ->capture_default_str();
  bars->add_option("--seed", line.bars.seed, "Of payloads")->capture_default_str();
  bars->add_option("--only", line.bars.only, "Some of them, as in batches,digits")
      ->delimiter(',')
      ->check(CLI::IsMember(bar_names()));
  add_cpus(*bars, options);
  add_json(*bars, options.json);
  bars->add_option("--plugin-dir", options.plugin_dir, "Folder of libecho.so and libdigits.so");

  chaos = app.add_subcommand(
      "chaos",
      "Whether anything is lost or done twice while workers fail; exit status 1 if so.\n"
      "Calls of every kind carry numbers and checksums; workers tally what they execute in memory\n"
      "that forge does not manage, and the ledger holds the answers against the tally.");
  add_chaos(*chaos, line.chaos);

  autoscale = app.add_subcommand(
      "autoscale",
      "What autoscaling would do with traffic, recorded or generated: the decider that ships, in\n"
      "virtual time, next to a plan that knew all requests in advance.");
  add_autoscale(*autoscale, line.autoscale);
  gpu =
      app.add_subcommand("gpu",
                         "Whether forge keeps its promises on the card that is here; exit status 1 "
                         "if not, 2 without one");
  add_gpu(*gpu, line.gpu);
  add_json(*gpu, options.json);
}

int run_command(Cli& cli) {
  if (*cli.floor) return run_floor_command(cli.line);
  if (*cli.bars) return run_bars_command(cli.line);
  if (*cli.chaos) return run_chaos_command(cli.line);
  if (*cli.autoscale) return run_autoscale(cli.line.autoscale);
  if (*cli.gpu) return run_gpu_command(cli.line);
  if (!*cli.echo && !*cli.digits) {
    throw UsageError("say what to measure: echo, digits, floor, bars, chaos, autoscale or gpu");
  }
  Options& options = cli.line.options;
  options.work = *cli.digits ? Work::digits : Work::echo;
  if (options.inflight == 0) options.inflight = default_inflight(options.work);
  return run_load_command(cli.line);
}

int run(int argc, char** argv) {
  try {
    Cli cli;
    try {
      cli.app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
      if (error.get_exit_code() == 0) return cli.app.exit(error);  // --help, --version
      throw UsageError(error.what());
    }
    return run_command(cli);
  } catch (const UsageError& error) {
    return complain(error.what(), kUsage);
  } catch (const std::exception& error) {
    return complain(error.what(), kFailed);
  }
}

}  // namespace
}  // namespace forge::bench

int main(int argc, char** argv) {
  if (argc == 3 && std::string_view(argv[1]) == forge::bench::kOpenPlugin) {
    return forge::bench::open_plugin(argv[2]);
  }
  return forge::bench::run(argc, argv);
}
