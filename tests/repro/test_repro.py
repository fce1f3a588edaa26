"""What a user does with a failure: a script for a bug report, which is run, and the smallest part that still fails."""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

SOURCE = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("ASSAY_BUILD_DIR", SOURCE / "build" / "release")) / "bin"
PYTHON = SOURCE / "exporter" / ".venv" / "bin" / "python"
PROGRAMS = SOURCE / "models" / "programs"

def assay(*arguments):
    command = [BIN / "assay", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)


def job_text(model, digest, seed, outputs):
    """A job as `assay run` leaves it, with these numbers as its outputs."""
    summaries = ""
    for output in outputs:
        shape = ", ".join(map(str, output["shape"]))
        samples = ", ".join(repr(number) for number in output["samples"])
        summaries += f'output {{ name: "{output["name"]}" shape: [{shape}] samples: [{samples}] }}\n'
    return (
        f'job_id: "job-1" state: DONE model {{ name: "{model}" }} result {{ outcome: FAILED\n'
        f'case {{ name: "test_model_with_mock" weights: MOCK outcome: FAILED message: "off\\nby a lot"\n'
        f"{summaries} }}\n"
        f'provenance {{ program_digest: "{digest}" mock_seed: {seed} dtype: FLOAT32 device {{ kind: "cpu" }} }} }}\n'
    )


class Folder(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if not PYTHON.exists():
            raise AssertionError("no exporter environment: run exporter/setup")
        cls.temporary = tempfile.TemporaryDirectory(prefix="assay_repro_")
        cls.folder = pathlib.Path(cls.temporary.name)
        # What the models really give, from the engine itself.
        batches = sorted((SOURCE / "models" / "batches").glob("batch_*_models.json"))
        tests = cls.folder / "tests"
        for batch in batches:
            assay("generate", "--batch-file", batch, "--output-dir", tests)
        results = cls.folder / "results"
        wanted = [tests / f"test_hf_{model}.textproto" for model in cls.MODELS]
        subprocess.run(
            [BIN / "assay-host", "run", "--programs", PROGRAMS, "--results", results, *wanted],
            check=True, capture_output=True, timeout=300,
        )  # fmt: skip
        cls.results = {line["test"]: line["result"] for line in map(json.loads, results.read_text().splitlines())}

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def material(self, model, change=0.0):
        """A folder below failed/; `change` is added to the first number of the first output."""
        result = self.results[model]
        case = next(case for case in result["case"] if case["name"] == "test_model_with_mock")
        outputs = [dict(output, shape=list(map(int, output["shape"]))) for output in case["output"]]
        outputs[0] = dict(outputs[0], samples=[outputs[0]["samples"][0] + change, *outputs[0]["samples"][1:]])
        folder = self.folder / f"{model}-{change}"
        folder.mkdir()
        shutil.copy(PROGRAMS / f"{model}.assay", folder / "program.assay")
        digest = hashlib.sha256((folder / "program.assay").read_bytes()).hexdigest()
        seed = result["provenance"].get("mock_seed", "0")
        (folder / "job.textproto").write_text(job_text(model, digest, seed, outputs))
        return folder


class Scripts(Folder):
    # Text, encoder and decoder, vision: with transformers and torch alone. beit3 has its own library.
    MODELS = ("megatron_bert", "umt5", "convnextv2", "olmo", "beit3")

    def run_script(self, folder):
        script = folder / "repro.py"
        written = assay("repro", folder, "--output", script)
        self.assertEqual(written.returncode, 0, written.stderr)
        # Elsewhere, so that nothing of the project is at hand.
        return subprocess.run(
            [PYTHON, "-I", script], check=False, capture_output=True, text=True, cwd=self.folder, timeout=300,
            env=dict(os.environ, HF_HUB_OFFLINE="1"),
        )  # fmt: skip

    def test_scripts_show_both_numbers(self):
        for model in ("megatron_bert", "umt5", "convnextv2"):
            with self.subTest(model=model):
                wrong = self.run_script(self.material(model, change=1.0))
                self.assertEqual(wrong.returncode, 1, wrong.stdout + wrong.stderr)
                self.assertIn("eager here", wrong.stdout)
                # Eager gives the golden's numbers: the script's model, weights and inputs are the right ones.
                self.assertRegex(wrong.stdout, r"the golden (0|[0-9.]+e-(0[6-9]|[1-9][0-9]))\n")

    def test_a_right_number_is_not_accused(self):
        right = self.run_script(self.material("olmo"))
        self.assertEqual(right.returncode, 0, right.stdout + right.stderr)

    def test_a_folder_whose_program_is_another_is_refused(self):
        folder = self.material("olmo", change=2.0)
        shutil.copy(PROGRAMS / "bert.assay", folder / "program.assay")
        refused = assay("repro", folder)
        self.assertEqual(refused.returncode, 2)
        self.assertIn("not what the job ran on", refused.stderr)

    def test_a_model_of_another_library_has_no_script(self):
        refused = assay("repro", self.material("beit3"))
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("of transformers alone cannot build it", refused.stderr)


class Checkpoint(unittest.TestCase):
    """A job with trained weights, exported as a worker does it."""

    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory(prefix="assay_repro_")
        cls.folder = pathlib.Path(cls.temporary.name)
        environment = dict(os.environ, PYTHONPATH=f"{SOURCE / 'exporter'}:{SOURCE / 'exporter' / 'tests'}")
        make = (
            "import sys, json, pathlib, checkpoints\n"
            "from assay_exporter import tensors\n"
            "from assay_exporter.checkpoint import record\n"
            "folder = pathlib.Path(sys.argv[1])\n"
            "task = checkpoints.save(folder / 'model', 'gpt2')\n"
            "checkpoints.export(folder / 'model', folder / 'out', task)\n"
            "golden = record.unpack((folder / 'out' / 'golden.assay').read_bytes())\n"
            "output = golden.golden.outputs[0].tensor\n"
            "value = tensors.from_proto(output)\n"
            "flat, count = value.reshape(-1), min(64, value.numel())\n"
            "places = [(2 * k + 1) * flat.numel() // (2 * count) for k in range(count)]\n"
            "said = {'name': output.name, 'shape': list(value.shape), 'samples': flat[places].tolist()}\n"
            "(folder / 'output.json').write_text(json.dumps(said | {'weights': golden.weights_digest}))\n"
        )
        subprocess.run(
            [PYTHON, "-c", make, cls.folder], check=True, capture_output=True, env=environment, timeout=300
        )
        cls.output = json.loads((cls.folder / 'output.json').read_text())

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def run_script(self, change):
        folder = self.folder / f"job-{change}"
        folder.mkdir()
        digests = {}
        for name in ("program", "golden"):
            shutil.copy(self.folder / "out" / f"{name}.assay", folder)
            digests[name] = hashlib.sha256((folder / f"{name}.assay").read_bytes()).hexdigest()
        samples = [self.output["samples"][0] + change, *self.output["samples"][1:]]
        (folder / "job.textproto").write_text(
            'job_id: "job-1" state: DONE model { name: "test" } result { outcome: FAILED\n'
            'case { name: "test_model_loading" weights: REAL outcome: FAILED message: "off"\n'
            f'output {{ name: "{self.output["name"]}" shape: {self.output["shape"]} samples: {samples} }} }}\n'
            f'provenance {{ checkpoint_program_digest: "{digests["program"]}" golden_digest: "{digests["golden"]}" dtype: FLOAT32\n'
            f'weights_digest: "{self.output["weights"]}" device {{ kind: "cpu" }}\n'
            'checkpoint { id: "nobody/has-this" commit: "c0ffee" } } }\n'
        )
        script = folder / "repro.py"
        written = assay("repro", folder, "--output", script)
        self.assertEqual(written.returncode, 0, written.stderr)
        return subprocess.run(
            [PYTHON, "-I", script, self.folder / "model"], check=False, capture_output=True, text=True,
            cwd=self.folder, timeout=300, env=dict(os.environ, HF_HUB_OFFLINE="1"),
        )  # fmt: skip

    def test_the_script_runs_on_the_checkpoints_folder(self):
        right = self.run_script(0.0)
        self.assertEqual(right.returncode, 0, right.stdout + right.stderr)
        wrong = self.run_script(1.0)
        self.assertEqual(wrong.returncode, 1, wrong.stdout + wrong.stderr)
        self.assertIn("eager here", wrong.stdout)


class Reduction(Folder):
    MODELS = ("olmo",)

    def test_what_passes_here_is_not_reduced(self):
        part = self.folder / "none.assay"
        reduced = assay("reduce", self.material("olmo"), "--output", part)
        self.assertEqual(reduced.returncode, 4, reduced.stdout + reduced.stderr)
        self.assertIn("the case passes on this machine", reduced.stderr)
        self.assertFalse(part.exists())

    def test_a_whole_program_runs_against_its_own_golden(self):
        passed = assay("run", "--program", PROGRAMS / "bert.assay")
        self.assertEqual(passed.returncode, 0, passed.stdout + passed.stderr)
        refused = assay("run", "--program", SOURCE / "README.md")
        self.assertEqual(refused.returncode, 2)


if __name__ == "__main__":
    sys.exit(unittest.main())
