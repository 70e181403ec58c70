// A program with a controller, for forge_command_test.py to look into: serves Echo with two replicas,
// calls it now and then, and ends when its standard input does.
//
// usage: forge_command_host ECHO_PLUGIN [METRICS_ADDRESS]
//
// Prints where metrics are served, if they are.
#include <forge/forge.h>
#include <poll.h>
#include <unistd.h>

#include <cstdio>

int main(int argc, char** argv) try {
  if (argc < 2 || argc > 3) return 2;
  forge::ControllerOptions quiet;
  quiet.name = "host";
  quiet.log_level = forge::LogLevel::off;
  if (argc == 3) quiet.metrics_address = argv[2];
  forge::Controller controller(quiet);
  forge::Options options;
  options.num_replicas = 2;
  options.name = "echo";
  options.min_replicas = 1;
  options.restart.backoff_initial = std::chrono::milliseconds(1);
  const forge::Service echo = controller.load(argv[1]).actor("Echo").options(options).as_service();
  if (argc == 3) {
    std::printf("%s\n", controller.metrics_address().c_str());
    std::fflush(stdout);
  }
  const auto scalar = echo.endpoint<std::int64_t(std::int64_t)>("scalar_idempotent");
  for (std::int64_t i = 0;; ++i) {
    pollfd input{STDIN_FILENO, POLLIN, 0};
    if (::poll(&input, 1, 5) > 0) return 0;
    (void)scalar.route(i).result();  // Stopped, once somebody has drained it
  }
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
