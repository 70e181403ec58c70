#!/usr/bin/env python3
"""Plants one violation at a time in a small tree and expects exactly the right check to see it."""
import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).parent))
import tidy  # noqa: E402

GOOD = {
    ".clang-format": "BasedOnStyle: Google\nColumnLimit: 100\n",
    "shm/include/forge/low.h": "#pragma once\n#include <cstdint>\n",
    "shm/ring.h": "#pragma once\n#include <forge/low.h>\n",
    "core/include/forge/high.h": "#pragma once\n#include <forge/low.h>\n\n#include <vector>\n",
    "core/engine.cc": '#include <boost/version.hpp>\n\n#include "shm/ring.h"\n',
    "core/CMakeLists.txt": "target_sources(forge PRIVATE engine.cc)\n",
    "tests/CMakeLists.txt": "forge_test(ring SOURCES shm/ring_test.cc)\n",
    "tests/shm/ring_test.cc": "TEST(Ring, Works) {}\n",
}


class TidySees(unittest.TestCase):
    def findings(self, planted):
        with tempfile.TemporaryDirectory() as folder:
            for name, text in {**GOOD, **planted}.items():
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            tree = tidy.Tree(folder)
            return {check.__name__ for check in tidy.CHECKS if list(check(tree))}

    def expect(self, check, planted):
        self.assertEqual(self.findings(planted), {check.__name__})

    def test_nothing_in_a_good_tree(self):
        self.assertEqual(self.findings({}), set())

    def test_an_internal_include_up_the_stairs(self):
        self.expect(tidy.includes_point_down,
                    {"core/x.h": "#pragma once\n", "shm/up.h": '#include "core/x.h"\n'})

    def test_a_public_include_up_the_stairs(self):
        self.expect(tidy.includes_point_down, {"shm/up.h": "#include <forge/high.h>\n"})

    def test_a_relative_include_up_the_stairs(self):
        self.expect(tidy.includes_point_down,
                    {"core/x.h": "#pragma once\n", "gpu/up.h": '#include "../core/x.h"\n'})

    def test_an_include_of_a_program(self):
        self.expect(tidy.includes_point_down,
                    {"tests/x.h": "#pragma once\n", "core/up.h": '#include "tests/x.h"\n'})

    def test_a_dependency_in_a_public_header(self):
        self.expect(tidy.public_headers_are_closed,
                    {"core/include/forge/x.h": "#pragma once\n#include <boost/version.hpp>\n"})

    def test_an_internal_header_in_a_public_one(self):
        found = self.findings({"core/include/forge/x.h": '#pragma once\n#include "shm/ring.h"\n'})
        self.assertIn("public_headers_are_closed", found)

    def test_a_public_header_provided_twice(self):
        self.expect(tidy.public_headers_are_closed, {"gpu/include/forge/high.h": "#pragma once\n"})

    def test_a_public_header_that_needs_another(self):
        self.expect(tidy.public_headers_compile_alone,
                    {"core/include/forge/x.h": "#pragma once\ninline std::string s() { return {}; }\n"})

    def test_a_public_header_without_a_guard(self):
        self.expect(tidy.public_headers_compile_alone, {"core/include/forge/x.h": "struct X {};\n"})

    def test_bad_formatting(self):
        self.expect(tidy.sources_are_formatted, {"shm/x.h": "struct   X{ };\n"})

    def test_a_disabled_test(self):
        self.expect(tidy.tests_are_enabled,
                    {"tests/shm/ring_test.cc": "TEST(Ring, DISABLED_Works) {}\n"})

    def test_a_commented_test(self):
        self.expect(tidy.tests_are_enabled,
                    {"tests/shm/ring_test.cc": "// TEST(Ring, Works) {}\n"})

    def test_a_test_switched_off(self):
        self.expect(tidy.tests_are_enabled,
                    {"tests/shm/ring_test.cc": "#if 0\nTEST(Ring, Works) {}\n#endif\n"})

    def test_a_test_that_is_not_built(self):
        self.expect(tidy.sources_are_built, {"tests/shm/lost_test.cc": "TEST(Ring, Works) {}\n"})

    def test_a_test_commented_out_of_the_build(self):
        found = self.findings(
            {"tests/CMakeLists.txt": "# forge_test(ring SOURCES shm/ring_test.cc)\n"})
        self.assertEqual(found, {"tests_are_enabled", "sources_are_built"})

    def test_a_clock_that_can_be_set(self):
        self.expect(tidy.clocks_are_monotonic,
                    {"shm/x.h": "#pragma once\ninline long f() { return time(nullptr); }\n"})

    def test_a_fault_whose_test_is_gone(self):
        self.expect(tidy.faults_have_tests, {"tests/e2e/FAULTS.md": "`Fault.Nothing`\n"})

    def test_a_fault_that_the_table_does_not_name(self):
        self.expect(tidy.faults_have_tests,
                    {"tests/CMakeLists.txt": "forge_test(a SOURCES shm/ring_test.cc e2e/x.cc)\n",
                     "tests/e2e/x.cc": "TEST_F(Fault, Nothing) {}\n"})

    def test_a_path_of_one_machine(self):
        path = "/".join(["", "home", "someone", "forge"])
        self.expect(tidy.no_machine_paths, {"README.md": f"See {path}.\n"})


if __name__ == "__main__":
    unittest.main()
