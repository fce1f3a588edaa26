"""scripts/gpu_check, on the CPU: AVX2 kernels take the GPU's place."""

import copy
import hashlib
import importlib.machinery
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts/gpu_check"
PROGRAMS = ROOT / "models/programs"
GOLDEN = "name: 'golden' golden {%s}"


def load():
    sys.dont_write_bytecode = True
    loader = importlib.machinery.SourceFileLoader("gpu_check", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("gpu_check", loader))
    loader.exec_module(module)
    return module


def write_test(folder: pathlib.Path, name: str, tolerance: str = "") -> None:
    digest = hashlib.sha256((PROGRAMS / f"{name}.assay").read_bytes()).hexdigest()
    (folder / f"test_hf_{name}.textproto").write_text(
        f"name: '{name}' program_digest: '{digest}'\n"
        "set_up { device: AUTO dtype: FLOAT32 }\n"
        "limits { timeout_ms: 60000 memory_bytes: 1073741824 }\n"
        "case { name: 'test_model_with_mock' weights: MOCK check { %s } }\n" % (GOLDEN % tolerance)
    )


class GpuCheck(unittest.TestCase):
    def setUp(self):
        held = tempfile.TemporaryDirectory()
        self.addCleanup(held.cleanup)
        self.folder = pathlib.Path(held.name)
        self.tests = self.folder / "tests"
        self.tests.mkdir()

    def run_script(self, *arguments, host=None):
        return subprocess.run(
            [sys.executable, SCRIPT, "--host", host or os.environ["ASSAY_HOST"], "--programs", PROGRAMS,
             "--tests", self.tests, "--out", self.folder / "out", "--no-transformers", *arguments],
            check=False, capture_output=True, text=True,
        )  # fmt: skip

    def test_every_dtype_runs_on_both_devices_and_they_agree(self):
        write_test(self.tests, "bert")
        write_test(self.tests, "vit")
        ran = self.run_script("--device", "cpu")
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        report = json.loads((self.folder / "out/report.json").read_text())
        self.assertEqual(list(report["dtypes"]), ["float32", "bfloat16", "float16"])
        for dtype, part in report["dtypes"].items():
            self.assertEqual(part["passed"], [2, 2], dtype)
            self.assertEqual(part["parity"]["agrees"], 2, dtype)
            self.assertGreater(part["models"]["bert"]["seconds"][1], 0)
            if dtype != "float32":  # these kernels give float32's golden bits, half precision never does
                self.assertGreater(part["models"]["bert"]["golden"][0], 0.01)
        table = (self.folder / "out/report.md").read_text()
        self.assertIn("Not a GPU", table)
        self.assertIn("| vit | PASSED, PASSED |", table)

    def test_a_test_that_fails_is_no_success(self):
        write_test(self.tests, "bert", "tolerance { scale: 0 rounding: 0 }")
        ran = self.run_script("--device", "cpu", "--dtype", "bfloat16")
        self.assertEqual(ran.returncode, 3, ran.stdout + ran.stderr)
        self.assertIn("off by", (self.folder / "out/report.md").read_text())

    def test_without_a_gpu_it_says_so(self):
        if load().gpu():
            self.skipTest("there is a GPU")
        write_test(self.tests, "bert")
        ran = self.run_script()
        self.assertEqual(ran.returncode, 6)
        self.assertIn("there is no GPU here", ran.stdout)
        self.assertFalse((self.folder / "out").exists())

    def test_a_host_that_dies_is_told(self):
        write_test(self.tests, "bert")
        host = self.folder / "host"
        host.write_text("#!/bin/sh\nexit 9\n")
        host.chmod(0o755)
        ran = self.run_script("--device", "cpu", host=host)
        self.assertEqual(ran.returncode, 5)
        self.assertIn("ended with 9", ran.stderr)
        host.write_text('#!/bin/sh\nwhile [ "$1" != --results ]; do shift; done\n: > "$2"\n')
        ran = self.run_script("--device", "cpu", host=host)
        self.assertEqual(ran.returncode, 5)
        self.assertIn("no result of test_hf_bert", ran.stderr)

    def test_wrong_usage(self):
        self.assertEqual(self.run_script("--device", "cpu").returncode, 2)  # no tests
        write_test(self.tests, "bert")
        self.assertEqual(self.run_script("--device", "cpu", "nobody").returncode, 2)


class Parity(unittest.TestCase):
    def setUp(self):
        self.parity = load().parity
        output = {
            "name": "logits", "shape": ["2", "50"], "samples": [0.5, 1.0], "mean": 0.1, "norm": 4.0,
            "abs_max": 1.5, "allowed": 0.1, "allowed_rms": 0.02,
        }  # fmt: skip
        self.a = {"case": [{"name": "test_model_with_mock", "output": [output]}]}

    def other(self, **changes):
        b = copy.deepcopy(self.a)
        b["case"][0]["output"][0].update(changes)
        return self.parity(self.a, b)

    def test_every_figure_counts(self):
        self.assertEqual(self.other(), ("agrees", 0.0, ""))
        self.assertEqual(self.other(samples=[0.5, 1.09])[0], "agrees")
        for changes in ({"samples": [0.5, 1.11]}, {"mean": 0.13}, {"norm": 4.3}, {"abs_max": "NaN"}, {"shape": ["100"]}):
            self.assertEqual(self.other(**changes)[0], "DIFFERS", changes)
        turned = self.other(samples=[0.5, 2.0], not_comparable="rounding turns aten::topk")
        self.assertEqual(turned[0], "not comparable")
        self.assertEqual(self.parity(self.a, {"case": []})[0], "not run")


if __name__ == "__main__":
    unittest.main()
