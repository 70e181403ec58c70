#!/usr/bin/env python3
"""The forge command from outside, against controllers that forge_command_host runs.

usage: forge_command_test.py FORGE FORGE_COMMAND_HOST PLUGIN_FOLDER [unittest arguments]
"""
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import unittest

FORGE = ""
HOST = ""
PLUGINS = ""
PATIENCE = 90  # when a test gives up on what must happen


def plugin(name):
    return os.path.join(PLUGINS, f"lib{name}.so")


class WithRuntime(unittest.TestCase):
    """Sockets are made in a folder of the test's own."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="forge-command-")
        self.addCleanup(folder.cleanup)
        self.environment = dict(os.environ, XDG_RUNTIME_DIR=folder.name)
        self.runtime = folder.name

    def forge(self, *arguments):
        return subprocess.run([FORGE, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True, timeout=PATIENCE, env=self.environment)

    def ok(self, *arguments):
        done = self.forge(*arguments)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def refused(self, *arguments, status=1):
        done = self.forge(*arguments)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        self.assertEqual(done.stdout, "")
        return done.stderr

    def start(self):
        """A controller in the background, once it serves. It ends with the test."""
        process = subprocess.Popen([HOST, plugin("echo")], stdin=subprocess.PIPE,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   env=self.environment)
        self.addCleanup(self.end, process)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            self.assertIsNone(process.poll(), "the controller ended")
            done = self.forge("ps", "--json")
            if done.returncode == 0:
                mine = [c for c in json.loads(done.stdout) if c["pid"] == process.pid]
                if mine and any(s["state"] == "serving" for s in mine[0]["services"]):
                    return process
            time.sleep(0.05)
        self.fail("the controller never served")

    @staticmethod
    def end(process):
        process.kill()
        process.wait()
        for pipe in [process.stdin, process.stdout, process.stderr]:
            if pipe:
                pipe.close()


class WithoutController(WithRuntime):
    def test_says_that_there_is_none_and_what_would_be_one(self):
        if self.forge("ps").returncode == 0:
            self.skipTest("another controller of this user runs")
        for command in [["ps"], ["top", "--once"], ["stats"], ["events"], ["drain", "x"],
                        ["scale", "x", "2"], ["trace"]]:
            with self.subTest(command=command):
                self.assertIn("no controller of this user is running", self.refused(*command))

    def test_nonsense_has_status_2(self):
        for command in [[], ["tpo"], ["scale", "x"], ["scale", "x", "many"], ["scale", "x", "-1"],
                        ["events", "--last", "5000"], ["top", "--interval", "0"], ["call", "x"],
                        ["trace", "--seconds", "0"], ["trace", "--seconds", "soon"]]:
            with self.subTest(command=command):
                self.assertNotEqual(self.refused(*command, status=2), "")

    def test_help_names_every_command(self):
        text = self.ok("--help")
        for command in ["ps", "top", "stats", "events", "trace", "drain", "scale", "call", "replay"]:
            self.assertIn(command, text)
            self.ok(command, "--help")

    def test_a_socket_left_behind_is_no_controller(self):
        process = self.start()
        path = os.path.join(self.runtime, "forge", f"{process.pid}.sock")
        self.assertTrue(os.path.exists(path))
        self.end(process)
        self.assertTrue(os.path.exists(path), "it was killed")
        self.forge("ps")
        self.assertFalse(os.path.exists(path))


class Looking(WithRuntime):
    def test_ps_stats_and_events(self):
        process = self.start()
        pid = str(process.pid)
        lines = [line for line in self.ok("ps").splitlines() if pid in line]
        self.assertEqual(len(lines), 1)
        self.assertRegex(lines[0], r"forge_command_host \(host\) .* echo +Echo +serving +2/2")

        statistics = json.loads(self.ok("stats", "--json", "--controller", pid))
        self.assertEqual(statistics["controller"]["pid"], process.pid)
        service = statistics["services"][0]
        self.assertEqual([r["state"] for r in service["replicas"]], ["healthy", "healthy"])
        self.assertEqual([r["idx"] for r in service["replicas"]], [0, 1])
        self.assertGreater(service["arena_bytes"], 0)
        name = service["name"]
        later = json.loads(self.ok("stats", name, "--json", "--controller", pid))["services"][0]
        self.assertGreater(sum(r["total_requests"] for r in later["replicas"]), 0)
        self.assertIn(name, self.ok("stats", name, "--controller", pid))
        self.assertIn(name, self.refused("stats", "nobody", "--controller", pid))

        text = self.ok("events", "--controller", pid)
        self.assertRegex(text, r"started +service '.*': 2 replicas of Echo serve")
        events = [json.loads(line) for line in
                  self.ok("events", "--json", "--last", "2", "--controller", pid).splitlines()]
        self.assertEqual(len(events), 2)
        self.assertEqual(events[1]["number"], events[0]["number"] + 1)

    def test_top_once_shows_all_of_it(self):
        process = self.start()
        text = self.ok("top", "--once", "--controller", str(process.pid))
        self.assertNotIn("\x1b", text)
        for word in [str(process.pid), "Echo", "2/2", "healthy", "life", "queue", "active", "rate",
                     "p50", "p99", "restarts", "Events", "started"]:
            self.assertIn(word, text)

    def test_several_controllers_are_told_apart(self):
        first, second = self.start(), self.start()
        said = self.refused("stats")
        self.assertIn(str(first.pid), said)
        self.assertIn(str(second.pid), said)
        self.assertIn("--controller", said)
        self.ok("stats", "--controller", str(second.pid))
        self.assertIn(str(first.pid), self.refused("stats", "--controller", "1"))

    def test_events_are_followed_until_the_controller_ends(self):
        process = self.start()
        pid = str(process.pid)
        follow = subprocess.Popen([FORGE, "events", "-f", "--last", "0", "--controller", pid],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                  env=self.environment)
        self.addCleanup(self.end, follow)
        worker = json.loads(self.ok("stats", "--json", "--controller",
                                    pid))["services"][0]["replicas"][0]["pids"][0]
        os.kill(worker, signal.SIGKILL)
        seen = ""
        while "is up, incarnation 2" not in seen:
            line = follow.stdout.readline()
            self.assertNotEqual(line, "", "it ended before the replica was back")
            seen += line
        self.assertIn("died", seen)
        self.assertIn(str(worker), seen)
        self.end(process)
        errors = follow.stderr.read()
        self.assertEqual(follow.wait(PATIENCE), 1)
        self.assertIn(f"controller {pid} has ended", errors)


class Tracing(WithRuntime):
    def test_writes_what_requests_did(self):
        process = self.start()
        path = os.path.join(self.runtime, "trace.json")
        said = self.ok("trace", "--seconds", "0.5", "--output", path,
                       "--controller", str(process.pid))
        with open(path, encoding="utf-8") as file:
            trace = json.load(file)
        events = trace["traceEvents"]
        requests = [e for e in events if e["ph"] == "b" and "args" in e]
        self.assertGreater(len(requests), 0)
        self.assertEqual(trace["otherData"]["requests"], len(requests))
        self.assertIn(f"{len(requests)} requests", said)
        self.assertEqual({e["name"] for e in requests}, {"scalar_idempotent"})
        self.assertEqual({e["args"]["outcome"] for e in requests}, {"ok"})
        self.assertEqual({e["args"]["replica"] for e in requests}, {0, 1})
        executions = [e for e in events if e["ph"] == "X"]
        self.assertEqual(len(executions), len(requests))
        self.assertEqual(len({e["tid"] for e in executions}), 2)
        ends = sum(e["ph"] == "e" for e in events)
        self.assertEqual(sum(e["ph"] == "b" for e in events), ends)
        for event in events:
            if event["ph"] != "M":
                self.assertGreaterEqual(event["ts"], 0)

    def test_says_at_once_that_it_cannot_write(self):
        for path in [os.path.join(self.runtime, "nowhere", "trace.json"), self.runtime]:
            self.assertIn("--output", self.refused("trace", "--output", path))

    def test_ends_with_its_controller(self):
        process = self.start()
        path = os.path.join(self.runtime, "trace.json")
        trace = subprocess.Popen([FORGE, "trace", "--seconds", "600", "--output", path,
                                  "--controller", str(process.pid)],
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                 env=self.environment)
        self.addCleanup(self.end, trace)
        self.assertEqual(trace.stderr.readline(), "recording\n")
        self.end(process)
        self.assertIn(f"controller {process.pid} has ended", trace.stderr.read())
        self.assertEqual(trace.wait(PATIENCE), 1)
        self.assertFalse(os.path.exists(path))


class Acting(WithRuntime):
    def test_scale_and_drain(self):
        process = self.start()
        pid = str(process.pid)
        name = json.loads(self.ok("stats", "--json", "--controller", pid))["services"][0]["name"]
        self.assertIn("1 replica", self.ok("scale", name, "1", "--controller", pid))
        service = json.loads(self.ok("stats", "--json", "--controller", pid))["services"][0]
        self.assertEqual(len(service["replicas"]), 1)
        self.assertIn("from 2 to 1", self.ok("events", "--controller", pid))
        self.assertIn("not 9", self.refused("scale", name, "9", "--controller", pid))
        self.assertIn(name, self.refused("drain", "nobody", "--controller", pid))
        self.assertIn("drained", self.ok("drain", name, "--controller", pid))

    def test_call(self):
        cases = [
            (["echo", "Echo", "scalar", "42"], 42),
            (["echo", "Echo", "text", "plain words"], "plain words"),
            (["echo", "Echo", "text", '"\\u00b5 and \\"quotes\\""'], 'µ and "quotes"'),
            (["echo", "Echo", "located", "--", "-3"], [-3, 0]),
            (["counter", "Counter", "add", "2", "3", "--init", "[40]"], 46),
        ]
        for arguments, result in cases:
            with self.subTest(arguments=arguments):
                text = self.ok("call", plugin(arguments[0]), *arguments[1:])
                self.assertEqual(json.loads(text), result)

    def test_call_takes_and_prints_values_of_every_type(self):
        tree = {"name": "a", "children": [{"name": "b", "children": []}]}
        everything = {"yes": True, "tiny": -128, "huge": 2**64 - 1, "ratio": 0.5, "color": 7,
                      "text": "µ", "bytes": "abc", "words": ["x", ""], "triple": [1, -2, 3],
                      "pair": ["p", 4], "choice": [2, {"x": 1, "y": 2.5}], "maybe": None,
                      "table": {"k": [1.5, 2]}, "tree": tree, "plain": {"key": "k", "value": None}}
        for endpoint, value in [("everything", everything), ("tree", tree), ("i64", -(2**63)),
                                ("doubles", [1, 0.5]), ("optional", "there"), ("optional", None)]:
            with self.subTest(endpoint=endpoint):
                text = self.ok("call", plugin("payloads"), "Payloads", endpoint, "--",
                               json.dumps(value))
                self.assertEqual(json.loads(text), value)
        self.assertEqual(self.ok("call", plugin("payloads"), "Payloads", "nothing"), "null\n")

    def test_call_refuses_values_of_another_type(self):
        for endpoint, value in [("i8", "300"), ("u64", "-1"), ("bool", "1"), ("array", "[1,2]"),
                                ("point", '{"x":1}'), ("point", '{"x":1,"z":2}'),
                                ("variant", "[7,1]"), ("map", "[1]"), ("strings", "[1]")]:
            with self.subTest(endpoint=endpoint):
                self.refused("call", plugin("payloads"), "Payloads", endpoint, "--", value)

    def test_call_says_what_is_wrong(self):
        cases = [
            (["echo", "Ekko", "scalar", "1"], "it has: Echo"),
            (["echo", "Echo", "skalar", "1"], "scalar i64(i64)"),
            (["echo", "Echo", "scalar"], "takes 1 arguments"),
            (["echo", "Echo", "scalar", "x"], "not JSON"),
            (["echo", "Echo", "scalar", "1.5"], "i64"),
            (["echo", "Echo", "scalar", "[1]"], "i64"),
            (["echo", "Echo", "tensor", "[1]"], "tensor"),
            (["counter", "Counter", "add", "1"], "--init"),
            (["counter", "Counter", "add", "1", "--init", '["x"]'], "constructor argument 1"),
            (["faulty", "Faulty", "throw_error", "enough"], "enough"),
            (["nowhere", "Echo", "scalar", "1"], "libnowhere.so"),
        ]
        for arguments, said in cases:
            with self.subTest(arguments=arguments):
                self.assertIn(said, self.refused("call", plugin(arguments[0]), *arguments[1:]))


class Terminal(WithRuntime):
    """forge top in a pseudo-terminal."""

    def open(self, *arguments, rows=40, columns=150):
        self.screen = ""
        pid, self.terminal = pty.fork()
        if pid == 0:
            os.environ.update(self.environment)
            os.execv(FORGE, [FORGE, "top", "--interval", "0.1", *arguments])
        self.addCleanup(os.close, self.terminal)
        self.resize(rows, columns)
        return pid

    def resize(self, rows, columns):
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self):
        """More of what it shows; False at the end."""
        ready, _, _ = select.select([self.terminal], [], [], PATIENCE)
        self.assertTrue(ready, "it shows nothing: " + self.screen[-2000:])
        try:
            more = os.read(self.terminal, 65536)
        except OSError:  # the other end is closed
            return False
        self.screen += more.decode(errors="replace")
        return bool(more)

    def pictures(self):
        return self.screen.split("\x1b[H")[1:]

    def wait_for(self, condition):
        while not any(condition(picture) for picture in self.pictures()):
            self.screen = self.screen[-200_000:]
            self.assertTrue(self.read(), "it ended: " + self.screen[-2000:])

    def finish(self, pid):
        while self.read():
            pass
        _, status = os.waitpid(pid, 0)
        self.assertTrue(os.WIFEXITED(status))
        return os.WEXITSTATUS(status)

    def test_shows_replicas_and_events_until_q(self):
        process = self.start()
        top = self.open("--controller", str(process.pid))
        self.wait_for(lambda p: re.search(r"healthy.*\n.*healthy", p) and "q quits" in p)
        worker = json.loads(self.ok("stats", "--json", "--controller", str(process.pid))
                            )["services"][0]["replicas"][1]["pids"][0]
        os.kill(worker, signal.SIGKILL)
        self.wait_for(lambda p: re.search(r"1 +healthy +2 ", p) and "restarting" in p)
        os.write(self.terminal, b"q")
        self.assertEqual(self.finish(top), 0)
        self.assertTrue(self.screen.rstrip().endswith("\x1b[?1049l"), "the old screen is back")

    def test_fits_whatever_size_the_terminal_has(self):
        process = self.start()
        top = self.open("--controller", str(process.pid), rows=40, columns=150)
        self.wait_for(lambda p: p.count("\n") == 39)
        for rows, columns in [(12, 60), (50, 200), (3, 10), (1, 1)]:
            self.screen = ""
            self.resize(rows, columns)
            self.wait_for(lambda p: p.count("\n") == rows - 1 and p.endswith("\x1b[J"))
            whole = [p for p in self.pictures() if p.endswith("\x1b[J")][-1]
            for line in whole.split("\n"):
                shown = re.sub(r"\x1b\[[0-9?;]*[a-zA-Z]|\r", "", line)
                self.assertLessEqual(len(shown), columns)
        os.kill(top, signal.SIGTERM)
        self.assertEqual(self.finish(top), 0)

    def test_ends_with_its_controller(self):
        process = self.start()
        top = self.open("--controller", str(process.pid))
        self.wait_for(lambda p: "healthy" in p)
        self.assertTrue(self.screen.startswith("\x1b[?1049h"), "a screen of its own")
        self.end(process)
        self.assertEqual(self.finish(top), 1)
        self.assertIn(f"controller {process.pid} has ended", self.screen)

    def test_needs_a_terminal(self):
        process = self.start()
        self.assertIn("--once", self.refused("top", "--controller", str(process.pid)))


if __name__ == "__main__":
    FORGE, HOST, PLUGINS = sys.argv[1:4]
    unittest.main(argv=[sys.argv[0], *sys.argv[4:]])
