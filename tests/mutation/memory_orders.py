#!/usr/bin/env python3
"""Weakens each memory order and each fence of the four floors once, and says which test notices.

usage: tests/mutation/memory_orders.py FOLDER [--only TEXT] [--out FILE]

A tool to be run by hand; FOLDER, outside of the repository, gets a copy and two builds of it. They
are made once: FORGE_MUTANT in the environment chooses the mutant (weaken.h). Orders are weakened
under ThreadSanitizer, because x86 itself orders what no other build could miss; fences are left out
without it, because what it does between two accesses is a fence. Only shm/ring.h is edited and
compiled for each of its mutants, with its model (tests/shm/ring_model.cc).

One line each: where, what it says, what it was made, and who noticed: a test, with the race that
ThreadSanitizer saw if it was that, or `-`. A line that no test notices needs a comment that says
why its order is needed.
"""

import argparse
import bisect
import os
import pathlib
import re
import subprocess
import sys
import time
import zlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
FENCE_TRIES = 3
FLOORS = ("shm", "gpu", "replicas", "core")
MODELLED = "shm/ring.h"
ORDER = re.compile(r"std::memory_order_(acquire|release|acq_rel|seq_cst)\b")
FENCE = re.compile(r"(?:shm::)?handshake_fence\(\)(?=;)|std::atomic_thread_fence\([\w:]+\)")
CALL = re.compile(r"[.>](load|store|exchange|compare_exchange_\w+|fetch_\w+)\(")
# The tests that look at a file, the quickest first; the first line that fits counts.
TESTS = {
    "shm/doorbell.h": ("shm_doorbell", "replicas_channel"),
    "gpu/": ("gpu_group",),
    "replicas/event_loop": ("replicas_event_loop", "e2e_task"),
    "replicas/task": ("replicas_event_loop", "e2e_task"),
    "replicas/": ("replicas_channel", "e2e_task"),
    "core/engine_thread": ("core_engine_thread",),
    "core/call": ("core_call", "core_callback"),
    "core/future": ("core_call", "core_callback"),
    "core/include": ("core_call", "core_callback"),
    "core/": ("e2e_property", "e2e_futures_eventfd"),
}


class Mutant:
    def __init__(self, number, name, line, span, was, made):
        self.number, self.name, self.line, self.span, self.was, self.made = (
            number, name, line, span, was, made)
        self.preset = "dev" if made == "nothing" else "tsan"


def weaker(text, start, order):
    """The orders one step below, as far as the operation may have them."""
    operation = CALL.findall(text, 0, start)[-1]
    if order == "acq_rel":
        return ("acquire", "release")
    if order == "seq_cst":
        return ({"load": "acquire", "store": "release"}.get(operation, "acq_rel"), "relaxed")
    return ("relaxed",)


def mutants():
    for path in sorted(p for floor in FLOORS for p in (ROOT / floor).rglob("*.[hc]*")):
        name, text, count = str(path.relative_to(ROOT)), path.read_text(), 0
        ends = [match.start() for match in re.finditer("\n", text)]
        for match in [*ORDER.finditer(text), *FENCE.finditer(text)]:
            line = bisect.bisect(ends, match.start()) + 1
            if "//" in text[text.rfind("\n", 0, match.start()) + 1 : match.start()]:
                continue
            if text.startswith("std::atomic_thread_fence(", match.start() - 25):
                continue  # the fence as a whole is the mutant
            if text.startswith("std::atomic_signal_fence(", match.start() - 25):
                continue  # it binds the compiler alone, which cannot know what FORGE_MUTANT will say
            order = match[1] if match.re is ORDER else None
            for made in weaker(text, match.start(), order) if order else ("nothing",):
                count += 1
                # Of its file alone, so that no other is built again because this one has changed.
                number = zlib.crc32(f"{name} {count}".encode()) >> 1
                yield Mutant(number, name, line, match.span(), order or "fence", made)


def with_all(text, here):
    """The text in which FORGE_MUTANT chooses between the orders."""
    for span in sorted({mutant.span for mutant in here}, reverse=True):
        was = text[span[0] : span[1]]
        now = was
        for mutant in here:
            if mutant.span != span:
                continue
            made = "(void)0" if mutant.made == "nothing" else f"std::memory_order_{mutant.made}"
            now = f"(forge_mutation::is({mutant.number}) ? {made} : {now})"
        text = text[: span[0]] + now + text[span[1] :]
    return text


def update(path, text):
    """Files that stay what they are keep their time, so that they are not built again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_bytes() != text:
        path.write_bytes(text)


def copy(source, todo):
    files = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                           cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, files.split("\0")):
        here = [mutant for mutant in todo if mutant.name == name and name != MODELLED]
        text = (ROOT / name).read_bytes()
        update(source / name, with_all(text.decode(), here).encode() if here else text)
        (source / name).chmod((ROOT / name).stat().st_mode)


def build_copy(source, build):
    flags = f"-include {source}/tests/mutation/weaken.h"
    subprocess.run(["cmake", "--preset", build.name, "-B", build, f"-DCMAKE_CXX_FLAGS={flags}"],
                   cwd=source, check=True, stdout=subprocess.DEVNULL)
    tests = sorted({test for tests in TESTS.values() for test in tests})
    targets = {f"{test.removesuffix('_eventfd')}_test" for test in tests}
    subprocess.run(["cmake", "--build", build, "--target", *targets], check=True)
    for test in tests:
        if reason := noticed_by_test(0, build, test):
            sys.exit(f"fails without a mutant: {reason}")


def why(output):
    race = re.search(r"SUMMARY: ThreadSanitizer: (.*?) (\S+?):(\d+)", output)
    if race:
        return f"{race[1]}, {race[2].rsplit('/', 1)[-1]}:{race[3]}"
    failed = re.search(r"\[  FAILED  \] (\S+?),? ", output)
    return failed[1] if failed else "no end" if "Timeout" in output else "failed"


def noticed_by_test(number, build, test):
    race = build / "race"
    for old in build.glob("race.*"):
        old.unlink()
    environment = {**os.environ, "FORGE_MUTANT": str(number),
                   "TSAN_OPTIONS": f"halt_on_error=1:second_deadlock_stack=1:log_path={race}"}
    command = ["setarch", "-R", "ctest", "--test-dir", build, "-R", f"^{test}$",
               "--output-on-failure", "--timeout", "300", "--no-tests=error"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    races = "".join(path.read_text() for path in sorted(build.glob("race.*")))  # workers' as well
    if done.returncode == 0 and not races:
        return None
    return f"`{test}` ({why(races + done.stdout)})"


def noticed_by_model(mutant, source):
    header = source / MODELLED
    text = header.read_text()
    begin, end = mutant.span
    header.write_text(f"{text[:begin]}std::memory_order_{mutant.made}{text[end:]}")
    try:
        program = source / "ring_model"
        subprocess.run(["c++", "-std=c++20", "-O2", "-w", "-I", source, "-o", program,
                        source / "tests/shm/ring_model.cc"], check=True)
        done = subprocess.run([program], stdout=subprocess.PIPE, text=True)
    finally:
        header.write_text(text)
    return "`ring_model` (data race)" if "DATA RACE" in done.stdout else None


def noticed_by(mutant, folder):
    if mutant.name == MODELLED:
        return noticed_by_model(mutant, folder / "source")
    if mutant.was == "seq_cst" and mutant.made != "relaxed":
        return None  # to ThreadSanitizer they are the same
    tests = next(tests for start, tests in TESTS.items() if mutant.name.startswith(start))
    # Without a fence it takes two cores that do the right thing within nanoseconds.
    for test in tests * (FENCE_TRIES if mutant.made == "nothing" else 1):
        if by := noticed_by_test(mutant.number, folder / mutant.preset, test):
            return by
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--only", default="", help="files whose path contains this")
    parser.add_argument("--out", type=pathlib.Path, help="append the table's lines to this file")
    options = parser.parse_args()
    folder = options.folder.resolve()
    todo = list(mutants())
    copy(folder / "source", todo)
    for preset in ("tsan", "dev"):
        build_copy(folder / "source", folder / preset)
    missed = 0
    todo = [mutant for mutant in todo if options.only in mutant.name]
    for mutant in todo:
        started = time.monotonic()
        by = noticed_by(mutant, folder)
        missed += by is None
        row = f"| `{mutant.name}:{mutant.line}` | {mutant.was} | {mutant.made} | {by or '-'} |"
        print(f"{row}  {mutant.number}, {time.monotonic() - started:.0f} s", flush=True)
        if options.out:
            with options.out.open("a") as out:
                out.write(row + "\n")
    print(f"{len(todo)} mutants, {missed} not noticed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
