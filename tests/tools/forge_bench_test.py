#!/usr/bin/env python3
"""forge-bench from outside: its command line, its reports, and what its exit status says.

usage: forge_bench_test.py FORGE_BENCH [unittest arguments]

No speed is asserted: benchmarks measure time, tests do not.
"""
import json
import os
import subprocess
import sys
import tempfile
import unittest
import unittest.mock
from pathlib import Path

BENCH = ""
SHORT = ["--duration", "0.2", "--warmup", "0.05"]
LATENCIES = ["p50", "p90", "p99", "p999", "max"]
FLOOR = ["line_rtt_ns", "rings_rtt_ns", "futex_rtt_ns", "rings_per_s", "slab_gbps"]
TWO_CORES = len(os.sched_getaffinity(0)) >= 2


def bench(*arguments):
    return subprocess.run([BENCH, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=100)


class CommandLine(unittest.TestCase):
    def test_help_names_every_command_and_option(self):
        top = bench("--help")
        self.assertEqual(top.returncode, 0, top.stderr)
        for command in ["echo", "digits", "floor", "bars", "chaos", "autoscale", "gpu"]:
            self.assertIn(command, top.stdout)
            self.assertEqual(bench(command, "--help").returncode, 0)
        options = bench("echo", "--help").stdout
        for option in ["replicas", "procs", "clients", "inflight", "payload", "wait", "duration",
                       "warmup", "seed", "cpus", "repeat", "kill-every", "json", "plugin-dir",
                       "batch-size", "batch-timeout", "router", "sessions"]:
            self.assertIn("--" + option, options)
        options = bench("chaos", "--help").stdout
        for option in ["replicas", "clients", "inflight", "faults", "kill-every", "duration", "seed",
                       "json", "plugin-dir"]:
            self.assertIn("--" + option, options)
        options = bench("autoscale", "--help").stdout
        for option in ["pattern", "rate", "peak", "duration", "service-time", "start-time", "seed",
                       "concurrency", "target-latency", "min-replicas", "max-replicas",
                       "scale-up-queue-depth", "scale-down-delay", "target-ongoing-requests",
                       "look-back", "width", "json"]:
            self.assertIn("--" + option, options)

    def test_nonsense_gives_one_line_that_names_it_and_status_2(self):
        cases = [
            ([], "echo, digits, floor, bars, chaos, autoscale or gpu"),
            (["ecco"], "ecco"),
            (["echo", "--replica", "2"], "--replica"),
            (["echo", "--replicas", "0"], "--replicas"),
            (["echo", "--procs", "-1"], "--procs"),
            (["echo", "--clients", "many"], "many"),
            (["echo", "--inflight"], "--inflight"),
            (["echo", "--inflight", "0"], "--inflight"),
            (["echo", "--payload", "7"], "--payload"),
            (["echo", "--payload", "1e99"], "1e99"),
            (["echo", "--wait", "nap"], "nap"),
            (["echo", "--duration", "0"], "--duration"),
            (["echo", "--duration", "nan"], "--duration"),
            (["echo", "--warmup", "-1"], "--warmup"),
            (["echo", "--repeat", "0"], "--repeat"),
            (["echo", "--kill-every", "0"], "--kill-every"),
            (["echo", "--cpus", "1023"], "1023"),
            (["echo", "--cpus", "x"], "x"),
            (["echo", "--plugin-dir", "/nowhere"], "/nowhere"),
            (["echo", "--json", "/nowhere/x.json"], "/nowhere/x.json"),
            (["echo", "--batch-size", "many"], "many"),
            (["echo", "--batch-size", "4", "--batch-timeout", "10"], "10ms"),
            (["echo", "--batch-size", "4", "--batch-timeout", "-1ms"], "-1ms"),
            (["echo", "--batch-size", "4", "--batch-timeout", "nanms"], "nanms"),
            (["echo", "--batch-size", "4", "--batch-timeout", "2h"], "2h"),
            (["echo", "--sessions", "0"], "--sessions"),
            (["echo", "--sessions", "2", "--clients", "3"], "3 clients"),
            (["echo", "--sessions", "2", "--batch-size", "4"], "--batch-size"),
            (["digits", "--sessions", "2", "--router", "hash"], "--router"),
            (["digits", "--payload", "64"], "--payload"),
            (["floor", "--inflight", "4096"], "--inflight"),
            (["floor", "--json", "/nowhere/x.json"], "/nowhere/x.json"),
            (["bars", "--runs", "0"], "--runs"),
            (["bars", "--only", "speed"], "speed"),
            (["chaos", "--faults", "kill,fire"], "fire"),
            (["chaos", "--faults", ","], "--faults"),
            (["chaos", "--kill-every", "35,5"], "35,5"),
            (["chaos", "--kill-every", "0"], "--kill-every"),
            (["chaos", "--kill-every", "5,x"], "5,x"),
            (["chaos", "--replicas", "257"], "--replicas"),
            (["chaos", "--duration", "0"], "--duration"),
            (["chaos", "--plugin-dir", "/nowhere"], "/nowhere"),
            (["chaos", "--json", "/nowhere/x.json"], "/nowhere/x.json"),
            (["autoscale", "/nowhere/trace.csv"], "/nowhere/trace.csv"),
            (["autoscale", "/nowhere/trace.csv", "--pattern", "ramp"], "leave one out"),
            (["autoscale", "--pattern", "zigzag"], "zigzag"),
            (["autoscale", "--rate", "nan"], "--rate"),
            (["autoscale", "--rate", "9", "--peak", "3"], "--peak"),
            (["autoscale", "--duration", "10"], "--duration"),
            (["autoscale", "--duration", "-1h"], "-1h"),
            (["autoscale", "--service-time", "0s"], "--service-time"),
            (["autoscale", "--peak", "1000000", "--duration", "24h"], "can be simulated"),
            (["autoscale", "--min-replicas", "5", "--max-replicas", "2"], "min_replicas 5"),
            (["autoscale", "--replicas", "30"], "num_replicas 30"),
            (["autoscale", "--scale-down-capacity", "0.9"], "scale_down_capacity 0.9"),
            (["autoscale", "--scale-up-step", "0"], "scale_up_step"),
            (["autoscale", "--look-back", "2min"], "look_back is 120 s"),
            (["autoscale", "--target-ongoing-requests", "0"], "target_ongoing_requests"),
            (["autoscale", "--width", "5"], "--width"),
            (["autoscale", "--json", "/nowhere/x.json"], "/nowhere/x.json"),
        ]
        for arguments, named in cases:
            with self.subTest(arguments=arguments):
                done = bench(*arguments)
                self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
                self.assertEqual(done.stdout, "")
                self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
                self.assertTrue(done.stderr.startswith("forge-bench: "), done.stderr)
                self.assertIn(named, done.stderr)


    def test_what_forge_refuses_is_shown_in_its_words_with_status_2(self):
        cases = [
            (["echo", "--batch-size", "257"], "the most is 256"),
            (["echo", "--batch-size", "0"], "batch_size is 0"),
            (["digits", "--batch-size", "-1"], "batch_size is -1"),
            (["echo", "--router", "fastest"], "there are hash, least_loaded"),
        ]
        for arguments, said in cases:
            with self.subTest(arguments=arguments):
                done = bench(*arguments)
                self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
                self.assertEqual(done.stdout, "")
                self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
                self.assertIn(said, done.stderr)


class Reports(unittest.TestCase):
    def report(self, *arguments, status=0):
        """Runs, and gives standard output and the JSON report."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "report.json")
            done = bench(*arguments, "--json", path)
            self.assertEqual(done.returncode, status, done.stdout + done.stderr)
            self.assertNotIn("\r", done.stderr)  # no progress where there is no terminal
            with open(path) as file:
                report = json.load(file)
        self.assertEqual(report["schema"], "forge-bench/1")
        self.assertTrue(report["git"])
        for key in ["cpu", "cpus", "kernel"]:
            self.assertIn(key, report["machine"])
        return done.stdout, report

    def check_floor(self, floor):
        for key in FLOOR:
            self.assertGreater(floor[key], 0, key)

    def check_run(self, report):
        """What a whole report and each of its runs have alike."""
        self.assertGreater(report["requests"], 0)
        self.assertEqual(report["errors"], {})
        self.assertEqual(report["wrong_answers"], 0)
        self.assertGreater(report["throughput_rps"], 0)
        latencies = [report["latency_ns"][key] for key in LATENCIES]
        self.assertEqual(latencies, sorted(latencies))
        self.assertGreater(latencies[0], 0)
        self.assertIs(report["answered_exactly_once"], True)
        self.assertIn("ratio_to_rings", report)  # null where the floor was not steady
        if TWO_CORES:
            self.check_floor(report["floor"])

    def check_load(self, output, report, runs=1):
        self.check_run(report)
        self.assertEqual(len(report["runs"]), runs)
        for run in report["runs"]:
            self.check_run(run)
        self.assertEqual(sum(run["requests"] for run in report["runs"]), report["requests"])
        self.check_time(report)
        last = output.splitlines()[-1]
        self.assertTrue(last.startswith("answered exactly once: yes"), output)

    def check_time(self, report):
        """The split of each request's time: parts make up the whole, batches what they are made of."""
        time = report["time"]
        total = time["total"]
        self.assertGreater(total["count"], 0)
        self.assertGreaterEqual(time["client"]["mean_ns"], 0)
        parts = [time[name] for name in ["batch_wait", "queue", "transport", "execution"]]
        for part in parts:
            self.assertLessEqual(part["p50_ns"], part["p99_ns"])
            self.assertLessEqual(part["mean_ns"], part["max_ns"])
        batched = report["options"]["batch_size"] > 1 and report["options"]["sessions"] == 0
        self.assertEqual(parts[0]["count"] > 0, batched)
        self.assertEqual(len(report["batch_sizes"]) > 0, batched)
        for size in report["batch_sizes"]:
            self.assertLessEqual(int(size), report["options"]["batch_size"])
        if report["restarts"] == 0:  # a batch that is taken apart and tried again counts more than once
            called = sum(int(size) * count for size, count in report["batch_sizes"].items())
            self.assertEqual(called, report["requests"] if batched else 0)

    @unittest.skipUnless(TWO_CORES, "the floor needs two cores")
    def test_floor_measures_every_probe(self):
        output, report = self.report("floor", "--duration", "0.2", "--repeat", "2")
        self.check_floor(report["floor"])
        self.assertEqual(len(report["runs"]), 2)
        for run in report["runs"]:
            self.check_floor(run)
        for unit in [" ns", "/s", "GB/s"]:
            self.assertIn(unit, output)

    def bars(self, *names):
        """Name, verdict and note of each bar; speed is not this test's, so they may be missed."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "bars.json")
            done = bench("bars", "--only", ",".join(names), "--runs", "1", "--duration", "0.1",
                         "--json", path)
            self.assertIn(done.returncode, [0, 1], done.stderr)
            self.assertEqual(done.stderr, "")
            with open(path) as file:
                report = json.load(file)
        return [(bar["bar"], bar["verdict"], bar["note"]) for bar in report["bars"]]

    @unittest.skipUnless(TWO_CORES, "the floor needs two cores")
    def test_bars_measures_what_it_is_told(self):
        self.assertEqual(len(self.bars("routers")), 1)
        self.assertEqual(len(self.bars("batches", "digits")), 3)

    @unittest.skipUnless(TWO_CORES, "the floor needs two cores")
    def test_many_replicas_and_many_sessions_lose_nothing(self):
        bars = self.bars("replicas", "sessions")
        self.assertEqual(len(bars), 5)
        for name, verdict, note in bars:
            if "memory" not in name and "left" not in name:
                self.assertEqual(verdict, "met", name + ": " + note)

    def test_echo_reports_runs_and_their_median(self):
        output, report = self.report("echo", *SHORT, "--repeat", "3")
        self.check_load(output, report, runs=3)
        self.assertEqual(report["restarts"], 0)

    def test_echo_of_many_clients_replicas_and_processes(self):
        output, report = self.report("echo", *SHORT, "--clients", "3", "--inflight", "16",
                                     "--replicas", "2", "--procs", "2", "--payload", "5000")
        self.check_load(output, report)

    def test_echo_of_tensors_counts_bytes(self):
        output, report = self.report("echo", *SHORT, "--payload", "200000", "--inflight", "4")
        self.check_load(output, report)
        self.assertGreater(report["runs"][0]["gbps"], 0)

    def test_echo_waits_in_every_way(self):
        for wait in ["spin", "adaptive", "block"]:
            with self.subTest(wait=wait):
                output, report = self.report("echo", *SHORT, "--wait", wait)
                self.check_load(output, report)
                self.assertEqual(report["options"]["wait"], wait)

    def test_echo_in_batches(self):
        for payload in ["64", "100000"]:
            with self.subTest(payload=payload):
                output, report = self.report("echo", *SHORT, "--batch-size", "8", "--batch-timeout",
                                             "2ms", "--inflight", "32", "--payload", payload)
                self.check_load(output, report)
                self.assertEqual(report["options"]["batch_size"], 8)
                self.assertEqual(report["options"]["batch_timeout_ns"], 2_000_000)
                self.assertIn("batches of 8 within 2.00 ms", output)
                self.assertEqual("rows were copied" in output, payload == "100000")
                for row in ["client", "batch wait", "queue", "transport", "execution", "batches"]:
                    self.assertIn("\n" + row + " ", output)

    def test_half_empty_batches_are_pointed_out(self):
        output, report = self.report("echo", *SHORT, "--batch-size", "64", "--batch-timeout", "1ms",
                                     "--inflight", "4")
        self.check_load(output, report)
        self.assertIn("next        batches leave half empty", output)

    def test_echo_with_every_router(self):
        for router in ["round_robin", "least_loaded", "power_of_two_choices", "hash"]:
            with self.subTest(router=router):
                output, report = self.report("echo", *SHORT, "--router", router, "--replicas", "3",
                                             "--inflight", "16")
                self.check_load(output, report)
                self.assertEqual(report["options"]["router"], router)
                self.assertIn(router, output)

    def test_echo_keeps_the_order_of_sessions(self):
        for payload in ["64", "100000"]:
            with self.subTest(payload=payload):
                output, report = self.report("echo", *SHORT, "--sessions", "10", "--clients", "3",
                                             "--replicas", "2", "--inflight", "8", "--payload",
                                             payload)
                self.check_load(output, report)
                self.assertEqual(report["options"]["sessions"], 10)
                self.assertIn("kept in each of 10 sessions", output)

    def test_echo_keeps_the_order_of_sessions_while_workers_are_killed(self):
        output, report = self.report("echo", "--duration", "1", "--replicas", "2", "--inflight",
                                     "8", "--sessions", "20", "--kill-every", "100")
        self.check_load(output, report)
        self.assertGreater(report["kills"], 0)

    def test_echo_answers_everything_while_workers_are_killed(self):
        output, report = self.report("echo", "--duration", "1", "--replicas", "2", "--inflight",
                                     "8", "--kill-every", "100")
        self.check_load(output, report)
        self.assertGreater(report["kills"], 0)
        self.assertGreater(report["restarts"], 0)

    def test_autoscale_simulates_every_pattern(self):
        for pattern in ["step", "ramp", "burst", "sawtooth"]:
            with self.subTest(pattern=pattern):
                output, report = self.report("autoscale", "--pattern", pattern, "--width", "60",
                                             "--target-ongoing-requests", "0.7")
                for part in ["replicas ", "waiting ", "p99 latency", "scale events", "replica-hours",
                             "misses of 500 ms", "\nnext "]:
                    self.assertIn(part, output)
                self.assertLessEqual(max(len(line) for line in output.splitlines()
                                         if "█" in line or "▁" in line), 60)
                self.assertGreater(report["policy"]["requests"], 0)
                self.assertGreater(len(report["events"]), 0)
                for event in report["events"]:
                    self.assertTrue(event["reason"])
                    self.assertTrue(1 <= event["to"] <= 20)

    def test_autoscale_reads_a_trace(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "trace.csv")
            with open(path, "w") as file:
                file.write("seconds,rate,service_ms\n0,5,100\n600,40,100\n1200,5,50\n")
            output, report = self.report("autoscale", path)
            self.assertIn("trace.csv", output)
            self.assertEqual(report["traffic"]["duration_s"], 1800)
            self.assertEqual(report["traffic"]["steps"], 2)
            with open(path, "a") as file:
                file.write("1100,5\n")
            done = bench("autoscale", path)
            self.assertEqual(done.returncode, 2)
            self.assertIn("trace.csv:5: time does not go on", done.stderr)

    def chaos(self, faults):
        output, report = self.report("chaos", "--duration", "3", "--faults", ",".join(faults),
                                     "--seed", "7")
        self.assertIs(report["holds"], True, output)
        self.assertEqual(report["violations"], [])
        self.assertEqual((report["lost"], report["doubled"], report["out_of_order"]), (0, 0, 0))
        self.assertLessEqual(report["losses"], report["most_losses"])
        for kind, account in report["kinds"].items():
            self.assertGreater(account["outcomes"]["ok"], 0, kind)
            self.assertEqual(sum(account["outcomes"].values()), account["requests"], kind)
            self.assertEqual(sum(account["executed"]), account["requests"], kind)
        self.assertEqual(set(report["faults"]), set(faults))
        self.assertGreater(report["deaths"], 0)
        self.assertGreater(report["recovery_ns"]["count"], 0)
        self.assertTrue(output.splitlines()[-1].startswith("every promise kept: yes"), output)
        return report

    def test_chaos_loses_nothing_to_kills(self):
        report = self.chaos(["kill"])
        self.assertGreater(report["faults"]["kill"], 0)
        self.assertEqual(report["idempotent_given_up"], 0)

    def test_chaos_loses_nothing_to_faults_of_all_kinds(self):
        self.chaos(["kill", "segv", "abort", "slow", "stop", "corrupt"])

    def test_digits_reports_the_accuracy_of_the_model(self):
        output, report = self.report("digits", *SHORT)
        self.check_load(output, report)
        self.assertEqual(report["options"]["batch_size"], 32)
        self.assertGreaterEqual(report["accuracy"], 0.95)
        self.assertIn("accuracy", output)

    def test_digits_reads_alike_in_other_batches_and_in_sessions(self):
        for more in [["--batch-size", "1"], ["--batch-timeout", "100us", "--inflight", "5"],
                     ["--sessions", "7"]]:
            with self.subTest(more=more):
                output, report = self.report("digits", *SHORT, *more)
                self.check_load(output, report)


class Gpu(unittest.TestCase):
    """What of `gpu` needs no card: refusals, and the checks on devices that the host poses as."""

    @unittest.skipIf(any(Path("/proc/driver/nvidia/gpus").glob("*")), "there is a card")
    def test_without_a_device_it_says_so_with_status_2(self):
        done = bench("gpu")
        self.assertEqual(done.returncode, 2, done.stdout)
        self.assertIn("no NVIDIA device", done.stderr)
        self.assertEqual(done.stdout, "")

    def test_an_unknown_check_is_refused(self):
        done = bench("gpu", "--only", "answers,anything")
        self.assertEqual(done.returncode, 2)
        self.assertIn("anything", done.stderr)

    def test_rehearses_on_devices_that_the_host_poses_as(self):
        with tempfile.TemporaryDirectory() as folder:
            device = Path(folder, "proc/driver/nvidia/gpus/0000:01:00.0")
            device.mkdir(parents=True)
            (device / "information").write_text("Model: Fake\nGPU UUID: GPU-fake-0\nDevice Minor: 0\n")
            report = Path(folder, "report.json")
            with unittest.mock.patch.dict(os.environ, {"FORGE_FAKE_DEVICES": folder}):
                refused = bench("gpu", "--only", "answers")
                self.assertEqual(refused.returncode, 2, refused.stdout)
                self.assertIn("--rehearse", refused.stderr)
                done = bench("gpu", "--rehearse", "--only", "answers,kills,soak,copy,nccl", "--soak", "2",
                             "--json", str(report))
            checks = json.loads(report.read_text())["checks"]
        names = " ".join(check["check"] for check in checks)
        for part in ["mlp f32", "mlp bf16", "digits", "kill -9", "soak", "all_reduce"]:
            self.assertIn(part, names)
        self.assertNotIn("registered", names)  # nothing is compared with a card that is not there
        wrong = [check for check in checks
                 if check["verdict"] != "met" and check["check"] != "soak: second half"]
        self.assertEqual(wrong, [], done.stdout + done.stderr)


if __name__ == "__main__":
    BENCH = sys.argv.pop(1)
    unittest.main()
