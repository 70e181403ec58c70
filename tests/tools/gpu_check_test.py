#!/usr/bin/env python3
"""tools/gpu-check where there is no card, and the parts of it that need none.

usage: gpu_check_test.py GPU_CHECK [unittest arguments]
"""
import contextlib
import importlib.machinery
import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
import unittest
import unittest.mock
from pathlib import Path

GPU_CHECK = ""
HAS_CARD = any(Path("/proc/driver/nvidia/gpus").glob("*"))


def run(*arguments):
    return subprocess.run([GPU_CHECK, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=60)


def load():
    loader = importlib.machinery.SourceFileLoader("gpu_check", GPU_CHECK)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("gpu_check", loader))
    sys.dont_write_bytecode = True
    loader.exec_module(module)
    return module


class Outside(unittest.TestCase):
    def test_help_names_every_option(self):
        done = run("--help")
        self.assertEqual(done.returncode, 0, done.stderr)
        for option in ["--packages", "--json", "--only", "--soak"]:
            self.assertIn(option, done.stdout)

    def test_without_packages_it_says_who_makes_them(self):
        done = run("--packages", "/nowhere")
        self.assertEqual(done.returncode, 2)
        self.assertIn("tools/gpu-check-packages", done.stderr)

    @unittest.skipIf(HAS_CARD, "there is a card")
    def test_without_a_card_it_refuses_before_it_builds(self):
        with tempfile.TemporaryDirectory() as packages:
            Path(packages, "FORGE-PACKAGES").write_text("for a test")
            done = run("--packages", packages)
        self.assertEqual(done.returncode, 2)
        self.assertIn("no NVIDIA device", done.stderr)

    def test_an_unknown_step_is_named(self):
        done = run("--only", "bench,soap")
        self.assertEqual(done.returncode, 2)
        self.assertIn("soap", done.stderr)


class Inside(unittest.TestCase):
    """With commands that say what the real ones would."""

    def setUp(self):
        self.check = load()
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.check.BUILD = Path(self.folder.name)
        (self.check.BUILD / "bin").mkdir()
        self.log = self.check.Log()

    def program(self, name, text, status=0):
        path = self.check.BUILD / "bin" / name
        path.write_text(f"#!/bin/sh\ncat <<'EOT'\n{text}\nEOT\nexit {status}\n")
        path.chmod(0o755)
        return path

    def verdicts(self, rows):
        return [row["verdict"] for row in rows]

    def require(self, nvidia_smi):
        """On a machine with a driver and all tools, where nvidia-smi is this script."""
        folder = Path(self.folder.name)
        (folder / "driver" / "0000:01:00.0").mkdir(parents=True, exist_ok=True)
        self.check.DRIVER = folder / "driver"
        (folder / "FORGE-PACKAGES").write_text("for a test")
        for tool in ["cmake", "ninja", "c++", "nvcc"]:
            self.program(tool, "")
        if nvidia_smi:
            self.program("nvidia-smi", "").write_text("#!/bin/sh\n" + nvidia_smi)
        return self.check.require(self.check.parse(["--packages", str(folder)]))

    def test_one_card_is_chosen_for_all(self):
        answer = 'echo "GPU-of-$2, NVIDIA H100 80GB HBM3, 9.0"'
        for visible, card in [(None, "GPU-of-0"), ("3,1", "GPU-of-3")]:
            here = {"PATH": str(self.check.BUILD / "bin") + ":" + os.environ["PATH"]}
            with unittest.mock.patch.dict(os.environ, here):
                os.environ.pop("CUDA_VISIBLE_DEVICES", None)
                if visible:
                    os.environ["CUDA_VISIBLE_DEVICES"] = visible
                _, _, name, architecture = self.require(answer)
                self.assertEqual((name, architecture), ("NVIDIA H100 80GB HBM3", "90"))
                self.assertEqual(os.environ["CUDA_VISIBLE_DEVICES"], card)

    def test_a_driver_that_does_not_work_is_no_failure_of_forge(self):
        with unittest.mock.patch.dict(os.environ, {"PATH": str(self.check.BUILD / "bin")}):
            for nvidia_smi, said in [("", "nvidia-smi is not on the PATH"),
                                     ("echo Failed to initialize NVML; exit 9", "Failed to initialize NVML")]:
                with self.assertRaises(self.check.CannotRun) as refused:
                    self.require(nvidia_smi)
                self.assertIn(said, str(refused.exception))

    def test_a_suite_that_never_met_the_card_does_not_count(self):
        self.program("gpu_backend_test", "[       OK ] All/AnyBackend.Copies/host (1 ms)")
        with contextlib.redirect_stderr(io.StringIO()):
            self.assertEqual(self.verdicts(self.check.conformance(self.log)), ["MISSED"])
            self.program("gpu_backend_test", "[       OK ] Device/AnyBackend.Copies/cuda (1 ms)")
            self.assertEqual(self.verdicts(self.check.conformance(self.log)), ["met"])
            self.program("gpu_backend_test", "[       OK ] Device/AnyBackend.Copies/cuda (1 ms)", 1)
            self.assertEqual(self.verdicts(self.check.conformance(self.log)), ["MISSED"])

    def test_a_bench_that_checks_nothing_does_not_count(self):
        arguments = self.check.parse([])
        for checks, verdicts in [("[]", ["MISSED"]), ('[{"verdict": "met"}]', ["met"]), ("", ["MISSED"])]:
            program = self.program("forge-bench", "")
            program.write_text(f"""#!/bin/sh\necho '{{"checks": {checks}}}' > "$3"\n""")
            with contextlib.redirect_stderr(io.StringIO()):
                rows = self.check.bench(self.log, arguments)
            self.assertEqual(self.verdicts(rows), verdicts, checks)

    def test_what_takes_too_long_is_ended_and_said_to(self):
        slow = self.check.BUILD / "bin" / "slow"
        slow.write_text("#!/bin/sh\nsleep 60\n")
        slow.chmod(0o755)
        with contextlib.redirect_stderr(io.StringIO()):
            status, output = self.log.run("slow", [slow], 1)
        self.assertEqual(self.check.why(status, output), "took too long")

    def test_a_failure_is_told_by_its_last_error(self):
        self.assertEqual(self.check.why(1, "one\nx.cc:1: error: no\nninja: stopped\n"), "x.cc:1: error: no")

    def test_a_table_has_a_line_for_each_check(self):
        rows = [self.check.row("a", "≥ 1 ×", "2 ×", True), self.check.row("b", "none", "1", False, "why")]
        text = self.check.table(rows)
        self.assertEqual(len(text.split("\n")), 3)
        self.assertIn("MISSED", text.split("\n")[2])
        json.dumps(rows)


if __name__ == "__main__":
    GPU_CHECK = os.path.abspath(sys.argv.pop(1))
    unittest.main()
