"""What a user does with trained checkpoints: names one, gets a verdict on exactly its weights; then spoils them."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import urllib.parse
import urllib.request

from stack import BIN, SOURCE, Stack, until

EXPORTER = SOURCE / "exporter"
PYTHON = EXPORTER / ".venv" / "bin" / "python"


def case_of(job, name="test_model_loading"):
    return next(case for case in job["result"].get("case", []) if case["name"] == name)


def setUpModule():
    global folder, CHECKPOINTS
    folder = tempfile.TemporaryDirectory(prefix="assay_checkpoints_")
    CHECKPOINTS = pathlib.Path(folder.name)
    if not PYTHON.exists():
        raise AssertionError("no exporter environment: run exporter/setup")
    maker = pathlib.Path(__file__).with_name("make_checkpoints.py")
    subprocess.run([PYTHON, maker, CHECKPOINTS], check=True, cwd=SOURCE, env=dict(os.environ, HF_HUB_OFFLINE="1"))


def tearDownModule():
    folder.cleanup()


class RealStack(Stack):
    """With a worker that exports."""

    def start_exporter(self, name="exporter-1", hub=False):
        where = ["--hub-cache", self.folder / "hub"]
        where += [] if hub else ["--checkpoint-root", CHECKPOINTS, "--offline"]
        self.start_worker(name, "--exporter", EXPORTER, "--export-slots", 2, *where)

    def submit_entries(self, *entries):
        file = self.folder / "batch.json"
        file.write_text(json.dumps({"encoder_only": list(entries)}))
        return self.submit([file])


@contextlib.contextmanager
def hub_server(repositories):
    """The hub's interface over these folders; gives a function that asks it to misbehave."""
    server = subprocess.Popen([sys.executable, str(SOURCE / "tests" / "hub" / "hub_server.py"), "--repos", repositories],
                              stdout=subprocess.PIPE, text=True)
    before = dict(os.environ)
    try:
        endpoint = "http://127.0.0.1:" + server.stdout.readline().split()[1]
        os.environ.update(HF_ENDPOINT=endpoint, HF_TOKEN="", HF_HUB_OFFLINE="0")

        def misbehave(**how):
            urllib.request.urlopen(endpoint + "/_control?" + urllib.parse.quote(json.dumps(how))).read()

        yield misbehave
    finally:
        os.environ.clear()
        os.environ.update(before)
        server.kill()
        server.wait()
        server.stdout.close()


def entry(checkpoint, **more):
    return {"checkpoint": str(checkpoint), "template": "bert", "task": "fill-mask", **more}


class RealWeights(unittest.TestCase):
    def assert_golden(self, job):
        self.assertEqual(job["result"]["outcome"], "PASSED", job["result"].get("message"))
        case = case_of(job)
        self.assertEqual((case["outcome"], case["weights"], case["evidence"]), ("PASSED", "REAL", "GOLDEN"), case)
        self.assertEqual(case["load"]["missing_count"], 0)
        self.assertGreater(case["load"]["bound"], 30)

    def test_checkpoints_pass_with_golden_and_one_architecture_is_exported_once(self):
        with RealStack(workers=1) as stack:
            stack.start_exporter()
            first = stack.wait(stack.submit_entries(entry("good/finetune")))[0]
            self.assert_golden(first)
            same, other = again = stack.wait(stack.submit_entries(entry("good/finetune"), entry("good/sharded")))
            for job, golden_cached in ((same, True), (other, False)):
                self.assert_golden(job)
                stage = job["ended_stage"][0]
                self.assertEqual((stage["stage"], stage["result"]["outcome"]), ("STAGE_EXPORT", "PASSED"))
                self.assertTrue(stage["result"]["export"]["program_cached"])
                self.assertEqual(stage["result"]["export"]["golden_cached"], golden_cached)
            self.assertEqual(len({job["result"]["provenance"]["weights_digest"] for job in again}), 2)
            self.assertEqual(len({job["result"]["provenance"]["checkpoint_program_digest"] for job in again}), 1)

            # Pinned from an earlier run: the same weights pass, others of the same name do not.
            found = first["ended_stage"][0]["result"]["export"]["checkpoint"]
            digest = found["weights_digest"]
            self.assertEqual(digest, first["result"]["provenance"]["weights_digest"])
            pins = {"weights_digest": digest, "config_digest": found["config_digest"]}
            same, other = stack.wait(stack.submit_entries(
                entry("good/finetune", **pins), entry("good/sharded", **pins)))
            self.assert_golden(same)
            self.assertEqual(first["result"]["provenance"]["weights_trust"], "UNVERIFIED")
            self.assertEqual(same["result"]["provenance"]["weights_trust"], "PINNED")
            self.assertEqual(other["result"]["outcome"], "FAILED")
            self.assertIn(digest[:12], other["result"]["message"])

    def test_a_checkpoint_of_the_hub_is_fetched_and_its_weights_are_vouched_for(self):
        with hub_server(CHECKPOINTS) as misbehave, RealStack(workers=0) as stack:
            misbehave(path="model.safetensors", do="cut", bytes=5000, times=1, where="storage")
            stack.start_exporter(hub=True)
            job, = stack.wait(stack.submit_entries(entry("good/bert@main", name="from_the_hub")))
            self.assert_golden(job)
            provenance = job["result"]["provenance"]
            self.assertEqual(provenance["weights_trust"], "HUB_SHA256")
            self.assertRegex(provenance["checkpoint"]["commit"], "^[0-9a-f]{40}$")

            misbehave(path="good/finetune", do="gate", token="secret", times=1000)
            gated, missing = stack.wait(stack.submit_entries(entry("good/finetune"), entry("good/nowhere")))
            for job, words in ((gated, "HF_TOKEN"), (missing, "good/nowhere")):
                self.assertEqual(job["result"]["outcome"], "INFRASTRUCTURE_ERROR", "never the model's failure")
                self.assertIn(words, job["result"]["message"])

    def test_a_spoilt_checkpoint_gets_a_verdict_that_names_file_and_tensor(self):
        tensor = "bert.encoder.layer.1.attention.self.query.weight"
        expected = {
            "nan": ("FAILED", tensor), "missing": ("FAILED", tensor), "overlap": ("FAILED", tensor),
            "truncated": ("FAILED", "model-00002-of-00005.safetensors"),
            "unknown_type": ("UNSUPPORTED", "berd"), "remote_code": ("UNSUPPORTED", "remote"),
            "other_class": ("FAILED", "99 missing: shared.weight"), "pickle": ("UNSUPPORTED", "pickle"),
        }
        with RealStack(workers=0) as stack:
            stack.start_exporter()
            jobs = stack.wait(stack.submit_entries(*(entry(f"bad/{name}", name=name) for name in expected)))
            for job in jobs:
                name = job["model"]["name"]
                with self.subTest(checkpoint=name):
                    outcome, words = expected[name]
                    self.assertEqual(job["result"]["outcome"], outcome, job["result"].get("message"))
                    self.assertIn(words.lower(), job["result"]["message"].lower())
            self.assertIsNone(stack.workers["exporter-1"].poll(), "the worker is unharmed")
            self.assert_golden(stack.wait(stack.submit_entries(entry("good/bert")))[0])

    def test_default_checkpoints_are_used_where_they_are_and_skipped_where_they_are_not(self):
        with RealStack(workers=0) as stack:
            stack.start_exporter()
            until(lambda: "exporter" in stack.assay("workers"), "the exporter")
            there, absent = stack.wait(stack.submit_entries(
                {"name": "bert", "template": "bert", "task": "fill-mask"},
                {"name": "mobilebert", "template": "bert", "task": "fill-mask"}))
            self.assert_golden(there)
            self.assertEqual(there["result"]["provenance"]["checkpoint"]["id"], "google-bert/bert-base-uncased")
            self.assertEqual(case_of(there, "test_model_with_mock")["evidence"], "GOLDEN")
            self.assertEqual(absent["result"]["outcome"], "PASSED", absent["result"].get("message"))
            case = case_of(absent)
            self.assertEqual((case["outcome"], case["reason"]), ("SKIPPED", "NO_WEIGHTS"))
            total = json.loads(stack.assay("report", "-o", "json"))["coverage"]["total"]
            self.assertEqual((total["real_passed"]["count"], total["real_passed_unverified"]["models"]), (0, ["bert"]),
                             "nothing vouches for these weights")

    def test_without_an_exporter_a_checkpoint_waits_and_says_why(self):
        with RealStack(workers=1) as stack:
            batch, = stack.submit_entries(entry("good/bert"))
            waiting = until(lambda: stack.jobs(batch)[0].get("waiting"), "a reason to wait")
            self.assertIn("exporter", waiting)
            stack.start_exporter()
            self.assert_golden(stack.wait([batch])[0])

    def test_kill_9_of_the_exporting_worker_and_of_the_coordinator_loses_no_stage(self):
        with RealStack(workers=1, lease_ms=1000) as stack:
            stack.start_exporter()
            batch, = stack.submit_entries(entry("good/bert"), entry("good/sharded"))
            until(lambda: any(job["state"] == "RUNNING" for job in stack.jobs(batch)), "an export")
            stack.kill_worker("exporter-1")
            stack.kill_coordinator()
            stack.start_coordinator()
            stack.start_exporter()
            for job in stack.wait([batch]):
                self.assert_golden(job)
                self.assertEqual([stage["stage"] for stage in job["ended_stage"]], ["STAGE_EXPORT"])

    def test_run_takes_a_checkpoint_without_a_batch(self):
        with tempfile.TemporaryDirectory() as out:
            ran = subprocess.run(
                [str(BIN / "assay"), "run", "--checkpoint", str(CHECKPOINTS / "good" / "bert"), "--exporter", EXPORTER,
                 "--output-dir", out], capture_output=True, text=True, cwd=SOURCE, timeout=300)
            self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
            self.assertIn("1 PASSED", ran.stdout)


if __name__ == "__main__":
    unittest.main()
