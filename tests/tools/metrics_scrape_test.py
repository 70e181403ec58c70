#!/usr/bin/env python3
"""What Prometheus scrapes, read by Prometheus's own client library.

usage: metrics_scrape_test.py FORGE FORGE_COMMAND_HOST PLUGIN_FOLDER DASHBOARD [unittest arguments]
"""
import gzip
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request

try:
    from prometheus_client.parser import text_string_to_metric_families
except ImportError:
    sys.exit(f"{sys.executable} has no prometheus_client; apt-get install python3-prometheus-client")

FORGE = ""
HOST = ""
PLUGINS = ""
DASHBOARD = ""
PATIENCE = 90  # when a test gives up on what must happen


def start_host(address, environment=None):
    return subprocess.Popen([HOST, os.path.join(PLUGINS, "libecho.so"), address],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, env=environment)


def end(process):
    process.kill()
    process.communicate()


class Scraping(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="forge-metrics-")
        cls.environment = dict(os.environ, XDG_RUNTIME_DIR=cls.folder.name)
        cls.process = start_host("0", cls.environment)
        cls.address = cls.process.stdout.readline().strip()

    @classmethod
    def tearDownClass(cls):
        end(cls.process)
        cls.folder.cleanup()

    def get(self, headers=None, path="/metrics"):
        request = urllib.request.Request(f"http://{self.address}{path}", headers=headers or {})
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.read(), answer.headers

    def scrape(self):
        """Families by name, as the parser has them."""
        text = self.get()[0].decode()
        return {family.name: family for family in text_string_to_metric_families(text)}

    def value(self, families, series, **labels):
        for family in families.values():
            for sample in family.samples:
                if sample.name == series and labels.items() <= sample.labels.items():
                    return sample.value
        self.fail(f"{series} {labels} is not there")

    def wait_for(self, what):
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if what(self.scrape()):
                return
            time.sleep(0.05)
        self.fail("it never came")

    def statistics(self):
        done = subprocess.run([FORGE, "stats", "--json", "--controller", str(self.process.pid)],
                              stdout=subprocess.PIPE, check=True, timeout=PATIENCE,
                              env=self.environment)
        return json.loads(done.stdout)

    def test_it_listens_on_this_machine_only(self):
        self.assertRegex(self.address, r"^127\.0\.0\.1:[0-9]+$")

    def test_the_parser_takes_it_and_every_family_is_documented(self):
        families = self.scrape()
        ours = [name for name in families if name.startswith("forge_")]
        self.assertGreater(len(ours), 30)
        for name in ours:
            with self.subTest(name=name):
                self.assertNotEqual(families[name].documentation, "")
                self.assertIn(families[name].type, ["counter", "gauge", "histogram"])
                self.assertNotEqual(families[name].samples, [])

    def test_it_says_what_forge_stats_says(self):
        before = self.scrape()
        seen = self.statistics()["services"][0]
        after = self.scrape()
        for replica in seen["replicas"]:
            labels = {"service": "echo", "replica": str(replica["idx"]), "result": "success"}
            name = "forge_replica_requests_total"
            self.assertLessEqual(self.value(before, name, **labels), replica["total_requests"])
            self.assertGreaterEqual(self.value(after, name, **labels), replica["total_requests"])
        self.assertEqual(self.value(after, "forge_service_arena_bytes", service="echo"),
                         seen["arena_bytes"])
        self.assertEqual(self.value(after, "forge_service_replicas", service="echo",
                                    state="healthy"), 2)
        self.assertEqual(self.value(after, "forge_info", name="host"), 1)

    def test_connections_that_say_nothing_do_not_keep_it_from_answering(self):
        host, port = self.address.rsplit(":", 1)
        silent = [socket.create_connection((host, int(port))) for _ in range(40)]
        for connection in silent[::2]:
            connection.sendall(b"GET /metr")
        try:
            self.assertIn(b"forge_info", self.get()[0])
        finally:
            for connection in silent:
                connection.close()

    def test_times_grow_with_requests(self):
        before = self.scrape()
        name = "forge_endpoint_request_seconds_count"
        first = self.value(before, name, endpoint="scalar_idempotent")
        self.wait_for(lambda now: self.value(now, name, endpoint="scalar_idempotent") > first)
        now = self.scrape()
        count = self.value(now, name, endpoint="scalar_idempotent")
        total = self.value(now, "forge_endpoint_request_seconds_sum", endpoint="scalar_idempotent")
        self.assertGreater(total / count, 1e-7)
        self.assertLess(total / count, PATIENCE)
        buckets = [sample for sample in now["forge_endpoint_request_seconds"].samples
                   if sample.name.endswith("_bucket")
                   and sample.labels["endpoint"] == "scalar_idempotent"]
        counts = [sample.value for sample in buckets]
        self.assertEqual(counts, sorted(counts))
        self.assertEqual(counts[-1], count)
        self.assertEqual(float(buckets[-1].labels["le"]), math.inf)

    def test_a_death_is_seen_and_disturbs_nobody(self):
        labels = {"service": "echo", "replica": "1"}
        lives = self.value(self.scrape(), "forge_replica_restarts_total", **labels)
        victim = self.statistics()["services"][0]["replicas"][1]["pids"][0]
        os.kill(victim, signal.SIGKILL)
        self.wait_for(lambda now: self.value(now, "forge_replica_restarts_total", **labels) > lives)
        self.wait_for(lambda now: self.value(now, "forge_replica_healthy", **labels) == 1)

    def test_compressed_is_the_same(self):
        body, headers = self.get({"Accept-Encoding": "gzip"})
        if headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.assertIn("forge_info", body.decode())

    def test_many_at_once(self):
        failures = []

        def ask():
            try:
                for _ in range(20):
                    self.scrape()
            except Exception as error:  # pylint: disable=broad-except
                failures.append(error)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])

    def test_there_is_nothing_else(self):
        for path in ["/", "/metric", "/../../etc/passwd"]:
            with self.subTest(path=path), self.assertRaises(urllib.error.HTTPError):
                self.get(path=path)

    def test_the_server_outlives_nonsense(self):
        host, port = self.address.rsplit(":", 1)
        for nonsense in [b"\0" * 100, b"GET /metrics", b"GET /metrics HTTP/1.1\r\n" + b"A: b\r\n" * 10000]:
            with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
                connection.sendall(nonsense)
        self.assertIn("forge_info", self.scrape())

    def test_every_query_of_the_dashboard_names_metrics_that_are_there(self):
        with open(DASHBOARD, encoding="utf-8") as file:
            dashboard = json.load(file)
        known = {sample.name for family in self.scrape().values() for sample in family.samples}
        queries = [target["expr"] for panel in dashboard["panels"]
                   for target in panel.get("targets", [])]
        self.assertGreater(len(queries), 10)
        for query in queries:
            for name in re.findall(r"\bforge_[a-z_]+", query):
                with self.subTest(query=query):
                    # Not of a service without GPUs, or without batches.
                    if not name.startswith(("forge_device_", "forge_endpoint_batch_")):
                        self.assertIn(name, known)


class Refusing(unittest.TestCase):
    def refused(self, address):
        process = start_host(address)
        self.addCleanup(end, process)
        text = process.stderr.read()
        self.assertEqual(process.wait(PATIENCE), 1)
        return text

    def test_a_port_in_use_is_a_clear_error(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            text = self.refused(address)
        self.assertIn(address, text)
        self.assertIn("another program has the port", text)

    def test_an_address_that_is_none_is_a_clear_error(self):
        self.assertIn("metrics_address 'nonsense'", self.refused("nonsense"))
        self.assertIn("metrics_address", self.refused("203.0.113.1:9464"))


if __name__ == "__main__":
    FORGE, HOST, PLUGINS, DASHBOARD = sys.argv[1:5]
    unittest.main(argv=sys.argv[:1] + sys.argv[5:], verbosity=2)
