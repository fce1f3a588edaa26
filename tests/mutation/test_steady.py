"""bench/steady over a few models: right programs hold in other settings, and what it reports is what it saw."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BINARY = pathlib.Path(os.environ["ASSAY_BUILD_DIR"]) / "bin" / "assay-steady"


class Steady(unittest.TestCase):
    def run_it(self, binary: pathlib.Path, *names: str) -> tuple[int, dict]:
        with tempfile.TemporaryDirectory() as folder:
            output = pathlib.Path(folder) / "steady"
            done = subprocess.run(
                [sys.executable, ROOT / "bench" / "steady", "--few", "--binary", binary, "--output", output, *names],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
            self.assertTrue(output.with_suffix(".json").exists(), done.stdout)
            return done.returncode, json.loads(output.with_suffix(".json").read_text())

    def test_right_programs_hold_in_other_settings(self):
        # Text, a picture, sound and a model that decides: those that take most of their tolerances among them.
        code, sums = self.run_it(BINARY, "bert", "hubert", "mobilenet_v2", "swiftformer", "vilt", "mixtral")
        self.assertEqual(code, 0, sums["failed"] + sums["beyond_half"])
        self.assertEqual(sums["models"], 6)
        self.assertEqual(sums["repetitions"], 6)
        self.assertGreater(sums["checks_run"], 6 * 6 * 10)
        self.assertEqual(len({row["setting"] for row in sums["rows"]}), 3)
        # Another instruction set gives other bits somewhere, or the settings did not reach the kernels.
        shares = {(r["model"], r["check"], r["share"]) for r in sums["rows"] if r["check"] == "golden"}
        self.assertGreater(len(shares), 6)

    def test_a_failure_and_a_crash_are_told(self):
        with tempfile.TemporaryDirectory() as folder:
            fake = pathlib.Path(folder) / "assay-steady"
            row = {"model": "bert", "check": "golden", "runs": 2, "failed": 0, "message": "", "share": 0.6}
            fake.write_text(
                "#!/usr/bin/env python3\nimport os, sys, signal\n"
                "out = open(sys.argv[sys.argv.index('--output') + 1], 'w')\n"
                f"print('{{}}', {json.dumps(row)!r}, sep='\\n', file=out, flush=True)\n"
                "print('bert: done', flush=True)\n"
                "os.kill(os.getpid(), signal.SIGSEGV)\n"
            )
            fake.chmod(0o755)
            code, sums = self.run_it(fake)
        self.assertEqual(code, 3)
        self.assertEqual([row["share"] for row in sums["beyond_half"]], [0.6])
        self.assertEqual(len(sums["failed"]), 3)
        self.assertIn("exit code -11", sums["failed"][0]["message"])


if __name__ == "__main__":
    unittest.main()
