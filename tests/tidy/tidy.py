#!/usr/bin/env python3
"""Checks what compilers do not: the shape of the repository.

usage: tidy.py [ROOT]     prints one line per finding and exits 1 if there is any

Each check is a generator of findings and takes a Tree; self_test.py plants a violation for each.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FLOORS = ["shm", "gpu", "replicas", "core"]  # each may include itself and what stands before it
PROGRAMS = ["tests", "bench", "tools"]       # may include all floors; nothing includes them
LONG_FILE = 600
LONG_LINE = 100  # clang-format sees to code; comments are left as they were written
COMPILERS = ["g++", "clang++"]


class Tree:
    """The files of a repository that git tracks or would track, with their text."""

    def __init__(self, root):
        self.root = Path(root).resolve()
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if listed.returncode == 0:
            names = listed.stdout.decode().split("\0")
        else:  # an unpacked archive
            names = [str(p.relative_to(self.root)) for p in self.root.rglob("*")
                     if not re.match(r"(build|\.git)/", str(p.relative_to(self.root)))]
        self.text = {}
        for name in sorted(set(names)):
            path = self.root / name
            if name and path.is_file() and not path.is_symlink():
                data = path.read_bytes()
                if b"\0" not in data:
                    self.text[name] = data.decode(errors="replace")
        self.sources = [n for n in self.text if n.endswith((".h", ".cc"))]
        # "forge/x.h" -> the files that provide it
        self.public = {}
        for name in self.sources:
            match = re.match(r"(\w+)/include/(forge/.+\.h)$", name)
            if match:
                self.public.setdefault(match[2], []).append(name)

    def lines(self, name):
        return enumerate(self.text[name].splitlines(), 1)

    def includes(self, name):
        """Yields (line number, included path, whether in angle brackets)."""
        for number, line in self.lines(name):
            match = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
            if match:
                yield number, match[2], match[1] == "<"

    def owner(self, name, included):
        """The top-level folder that an include reaches, or None for a system header."""
        if included in self.public:
            return self.public[included][0].split("/")[0]
        if included in self.text:
            return included.split("/")[0]
        beside = os.path.normpath(os.path.join(os.path.dirname(name), included))
        return beside.split("/")[0] if beside in self.text else None


def includes_point_down(tree):
    """core -> replicas -> gpu -> shm; skipping a floor is fine, going up is not."""
    for name in tree.sources:
        mine = name.split("/")[0]
        if mine not in FLOORS:
            continue
        for number, included, _ in tree.includes(name):
            other = tree.owner(name, included)
            if other in PROGRAMS:
                yield f"{name}:{number}: includes {included}; nothing includes {other}/"
            elif other in FLOORS and FLOORS.index(other) > FLOORS.index(mine):
                yield f"{name}:{number}: {mine}/ includes {included} of {other}/, up the stairs"


def public_headers_are_closed(tree):
    """Public headers include the standard library and each other, and do not collide."""
    for included, names in tree.public.items():
        if len(names) > 1:
            yield f"{included}: provided twice, by {' and '.join(names)}"
        for number, other, angled in tree.includes(names[0]):
            standard = angled and re.fullmatch(r"[a-z_0-9]+", other)
            if not standard and not (angled and other in tree.public):
                yield f"{names[0]}:{number}: a public header may not include {other}"


def public_headers_compile_alone(tree):
    """Every public header, alone in a source, as C++20, with every compiler."""
    paths = [arg for floor in FLOORS for arg in ("-I", str(tree.root / floor / "include"))]
    flags = ["-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror"]

    def compile_alone(compiler, included, scratch):
        source = Path(scratch) / (included.replace("/", "_") + f".{compiler}.cc")
        # Twice, so that a missing include guard shows.
        source.write_text(f"#include <{included}>\n#include <{included}>\n")
        done = subprocess.run([compiler, *flags, *paths, str(source)],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.returncode, compiler, included, done.stdout

    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(os.cpu_count()) as pool:
        compilers = [c for c in COMPILERS if shutil.which(c)]
        for compiler in set(COMPILERS) - set(compilers):
            yield f"{compiler} is not installed; run tools/quickstart"
        jobs = [pool.submit(compile_alone, compiler, included, scratch)
                for included in tree.public for compiler in compilers]
        for job in jobs:
            status, compiler, included, output = job.result()
            if status != 0:
                yield f"{tree.public[included][0]}: does not compile alone with {compiler}\n{output}"


def sources_are_formatted(tree):
    """clang-format of one version, because versions disagree."""
    tool = shutil.which("clang-format-14") or shutil.which("clang-format")
    if not tool:
        yield "clang-format is not installed; run tools/quickstart"
    elif tree.sources:
        done = subprocess.run([tool, "--dry-run", "-Werror", *tree.sources], cwd=tree.root,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wrong = sorted(set(re.findall(r"^(\S+?):\d+:\d+: error:", done.stdout, re.MULTILINE)))
        for name in wrong:
            yield f"{name}: not formatted; run clang-format -i {name}"
        if done.returncode != 0 and not wrong:
            yield f"clang-format failed:\n{done.stdout}"


def tests_are_enabled(tree):
    """No test is switched off: not by its name, not by a comment, not by the preprocessor."""
    for name in tree.sources:
        if not name.startswith("tests/"):
            continue
        for number, line in tree.lines(name):
            if re.search(r"\bDISABLED_\w", line):
                yield f"{name}:{number}: a disabled test"
            if re.match(r"\s*(//|/\*|\*).*\b(TEST|TEST_F|TEST_P|TYPED_TEST)\s*\(", line):
                yield f"{name}:{number}: a test that is commented out"
            if re.match(r"\s*#\s*if\s+(0|false)\b", line):
                yield f"{name}:{number}: code that is switched off"
    for name in tree.text:
        if name.endswith("CMakeLists.txt"):
            for number, line in tree.lines(name):
                if re.match(r"\s*#\s*(forge_test|add_test|add_subdirectory)\([^<]*\)\s*$", line):
                    yield f"{name}:{number}: a test that is commented out of the build"


def sources_are_built(tree):
    """Every .cc, tests above all, is named in a CMakeLists.txt of its folder or one above."""
    lists = {}
    for name, text in tree.text.items():
        if name.endswith("CMakeLists.txt"):
            code = re.sub(r"#.*", "", text)
            lists[os.path.dirname(name)] = set(re.split(r'[\s()"]+', code))
    for name in tree.sources:
        if name.endswith(".cc"):
            folders = [f for f in lists if not f or name.startswith(f + "/")]
            if not any(os.path.relpath(name, f or ".") in lists[f] for f in folders):
                yield f"{name}: named in no CMakeLists.txt, so it is never built"


def clocks_are_monotonic(tree):
    """Nothing is decided by a clock that somebody can set."""
    wall = re.compile(r"\b(system_clock|utc_clock|high_resolution_clock|CLOCK_REALTIME\w*|gettimeofday|"
                      r"timespec_get|TIME_UTC|time\s*\(\s*(nullptr|NULL|0|&\w+)\s*\))")
    for name in tree.sources:
        if name.split("/")[0] in FLOORS:
            for number, line in tree.lines(name):
                if wall.search(line):
                    yield f"{name}:{number}: a clock that can be set: {line.strip()[:80]}"


def faults_have_tests(tree):
    """The table of faults names all tests that are named after faults, and no others."""
    table = "tests/e2e/FAULTS.md"
    named = set(re.findall(r"`(\w+\.\w+)`", tree.text.get(table, "")))
    tests = {f"{suite}.{test}" for name in tree.sources if name.startswith("tests/e2e/")
             for suite, test in re.findall(r"^TEST(?:_[FP])?\((\w+),\s*(\w+)\)", tree.text[name],
                                           re.MULTILINE)}
    of_faults = {test for test in tests if re.match(r"(Fault|FaultOf|TorchforgeDefect)\.", test)}
    files = {name for name in named if re.search(r"\.(py|cc|md)$", name)}
    for test in sorted(named - tests - files):
        yield f"{table}: there is no test {test}"
    for test in sorted(of_faults - named):
        yield f"{table}: does not name {test}"


def no_machine_paths(tree):
    """The tree works wherever it is cloned."""
    pattern = re.compile(r"(?<![\w.}$)*-])/(work|root|home|Users)/")
    for name in tree.text:
        for number, line in tree.lines(name):
            if pattern.search(line):
                yield f"{name}:{number}: a path of one machine: {line.strip()[:80]}"


CHECKS = [includes_point_down, public_headers_are_closed, public_headers_compile_alone,
          sources_are_formatted, tests_are_enabled, sources_are_built, clocks_are_monotonic,
          faults_have_tests, no_machine_paths]


def warnings(tree):
    for name in tree.sources:
        length = tree.text[name].count("\n")
        if length > LONG_FILE:
            yield f"{name}: {length} lines; does it hold two things?"
        long_lines = sum(len(line) > LONG_LINE for _, line in tree.lines(name))
        if long_lines:
            yield f"{name}: {long_lines} lines longer than {LONG_LINE} columns"


def main(root):
    tree = Tree(root)
    findings = 0
    for check in CHECKS:
        for finding in check(tree):
            findings += 1
            print(f"{check.__name__}: {finding}")
    for warning in warnings(tree):
        print(f"warning: {warning}")
    print(f"tidy: {len(tree.sources)} sources, {len(tree.public)} public headers, "
          f"{findings} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parents[2]))
