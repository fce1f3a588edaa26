"""What a user does: six batches in, 62 verdicts out; then bad input; then things get killed."""

import collections
import json
import pathlib
import random
import subprocess
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree

from stack import BATCHES, BIN, SOURCE, Stack, until

PLAN = [model for file in BATCHES for models in json.loads(file.read_text()).values() for model in models]


def mock_case(job):
    return next(case for case in job["result"]["case"] if case["name"] == "test_model_with_mock")


class MainJob(unittest.TestCase):
    def assert_all_passed_once(self, jobs):
        self.assertEqual(sorted(job["model"]["name"] for job in jobs), sorted(model["name"] for model in PLAN))
        for job in jobs:
            with self.subTest(model=job["model"]["name"]):
                self.assertEqual(job["result"]["outcome"], "PASSED", job["result"].get("message"))
                self.assertEqual(mock_case(job)["evidence"], "GOLDEN")

    def test_62_of_62_pass_with_golden_and_hyphens_are_kept(self):
        with Stack() as stack:
            jobs = stack.wait(stack.submit())
            self.assert_all_passed_once(jobs)
            originals = {job["model"]["name"]: job["model"].get("original_name", "") for job in jobs}
            for model in PLAN:
                self.assertEqual(originals[model["name"]], model.get("original_name", ""))
            for job in jobs:
                loading = next(c for c in job["result"]["case"] if c["name"] == "test_model_loading")
                self.assertEqual((loading["outcome"], loading["reason"]), ("SKIPPED", "NO_WEIGHTS"))
                digests = job["result"]["provenance"]
                for field in ("template_digest", "catalogue_digest", "test_digest", "program_digest"):
                    self.assertRegex(digests[field], "^[0-9a-f]{64}$")
            self.assertEqual(len({job["worker"] for job in jobs}), 2, "both workers took part")

            junit = ElementTree.fromstring(stack.assay("report", "-o", "junit"))
            failed = [case for case in junit.iter("testcase") if case.find("failure") is not None]
            skipped = [case for case in junit.iter("testcase") if case.find("skipped") is not None]
            self.assertEqual((len(failed), len(skipped)), (0, 62))
            self.assertIn("62", stack.assay("report", "-o", "text"))
            json.loads(stack.assay("report", "-o", "json"))
            missing = json.loads(stack.assay("next-batch", "--size", "10"))
            named = {model["name"] for models in missing.values() for model in models}
            self.assertEqual(len(named), 10)
            self.assertFalse(named & {model["name"] for model in PLAN})

    def test_kill_9_of_the_coordinator_loses_nothing_and_counts_nothing_twice(self):
        random.seed(7)
        with Stack() as stack:
            batches = stack.submit()
            for _ in range(3):
                done = sum(job["state"] == "DONE" for batch in batches for job in stack.jobs(batch))
                goal = min(len(PLAN), done + random.randint(1, 12))
                until(lambda: sum(job["state"] == "DONE" for batch in batches for job in stack.jobs(batch)) >= goal,
                      "progress")
                stack.kill_coordinator()
                stack.start_coordinator()
            self.assert_all_passed_once(stack.wait(batches))
            for batch in batches:
                self.assert_events_without_gap(stack, batch)

    def assert_events_without_gap(self, stack, batch):
        lines = stack.assay("watch", batch, "-o", "json").splitlines()
        events = [json.loads(line) for line in lines if line]
        self.assertEqual([int(event["sequence"]) for event in events], list(range(1, len(events) + 1)))
        ended = collections.Counter(
            event["job"]["job_id"] for event in events if event.get("job", {}).get("state") == "DONE")
        self.assertTrue(ended)
        self.assertEqual(set(ended.values()), {1}, "each job ends exactly once")

    def test_kill_9_of_a_worker_moves_its_jobs(self):
        with Stack(lease_ms=1000) as stack:
            batches = stack.submit()
            until(lambda: any(job["state"] == "DONE" for job in stack.jobs(batches[0])), "a first result")
            stack.kill_worker("worker-1")
            stack.start_worker("worker-3")
            self.assert_all_passed_once(stack.wait(batches))

    def test_a_worker_that_is_told_to_end_drains(self):
        with Stack() as stack:
            batches = stack.submit()
            until(lambda: any(job["state"] == "DONE" for job in stack.jobs(batches[0])), "a first result")
            leaving = stack.workers.pop("worker-1")
            leaving.terminate()
            self.assertEqual(leaving.wait(timeout=60), 0, stack.log("worker-1"))
            jobs = stack.wait(batches)
            self.assert_all_passed_once(jobs)
            # What it ran is counted (exit code 0: nothing is owed), and what was assigned in the instant in which it was
            # told to end was run as well: no job needed a second attempt.
            self.assertEqual({int(job["attempt"]) for job in jobs}, {1})

    def test_the_same_request_twice_is_one_batch(self):
        with Stack(workers=0) as stack:
            for _ in range(2):
                stack.assay("submit", "--batch-file", BATCHES[0], "--request-id", "11111111-2222-4333-8444-555555555555")
            batches = json.loads(stack.assay("batches", "-o", "json"))["batch"]
            self.assertEqual(len(batches), 1)

    def test_cancel_ends_what_is_queued(self):
        with Stack(workers=0) as stack:
            (batch,) = stack.submit(BATCHES[:1])
            stack.assay("cancel", batch)
            jobs = stack.wait([batch])
            self.assertEqual({job["result"]["outcome"] for job in jobs}, {"CANCELLED"})
            stack.assay("cancel", batch)  # once more changes nothing
            self.assertEqual(stack.jobs(batch), jobs)

    def test_a_batch_that_ended_cannot_be_cancelled(self):
        with Stack(workers=1) as stack:
            (batch,) = stack.submit(BATCHES[:1])
            jobs = stack.wait([batch])
            stack.assay("cancel", batch, code=2)
            self.assertEqual(stack.jobs(batch), jobs)

    def test_a_refused_batch_leaves_nothing_and_names_the_place(self):
        bad = {
            "broken.json": ('{"decoder_only": [\n  {"name": "gpt2",,}]}', ":2:"),
            "template.json": ('{"decoder_only": [{"name": "gpt2", "template": "gpt9", "task": "text-generation"}]}',
                              "decoder_only[0].template"),
            "twice.json": ('{"decoder_only": [\n{"name": "a-b", "template": "gpt2", "task": "t"},\n'
                           '{"name": "a_b", "template": "gpt2", "task": "t"}]}', ":3:"),
            "type.json": ('{"decoder_only": [{"name": 7, "template": "gpt2", "task": "t"}]}', "decoder_only[0].name"),
            "large.json": ('{"decoder_only": [' + " " * (1 << 20) + "]}", "at most 1048576"),
            "keys.json": ('{"decoder_only": [{"name": "a", "name": "b", "template": "gpt2", "task": "t"}]}', "name"),
        }
        with Stack(workers=0) as stack, tempfile.TemporaryDirectory() as folder:
            for name, (text, place) in bad.items():
                with self.subTest(file=name):
                    file = pathlib.Path(folder) / name
                    file.write_text(text)
                    ran = subprocess.run([BIN / "assay", "submit", "--address", stack.address, "--batch-file", file],
                                         capture_output=True, text=True, timeout=60)
                    self.assertEqual(ran.returncode, 2, ran.stderr)
                    self.assertIn(name, ran.stderr)
                    self.assertIn(place, ran.stderr)
            self.assertFalse(json.loads(stack.assay("batches", "-o", "json")).get("batch"))

    def test_a_model_without_program_is_unsupported_and_not_passed(self):
        with Stack(workers=1) as stack, tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "unknown.json"
            file.write_text('{"decoder_only": [{"name": "no_such_model", "template": "gpt2", "task": "text-generation"}]}')
            (job,) = stack.wait(stack.submit([file]))
            self.assertEqual(job["result"]["outcome"], "UNSUPPORTED")
            stack.assay("watch", job["batch_id"], code=3)


class OneCommand(unittest.TestCase):
    def test_run_generate_and_verify_need_no_server(self):
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder)

            def assay(*words, code=0):
                ran = subprocess.run([BIN / "assay", *words], capture_output=True, text=True, timeout=300, cwd=SOURCE)
                self.assertEqual(ran.returncode, code, ran.stdout + ran.stderr)
                return ran

            ran = assay("run", "--batch-file", BATCHES[0], "--cpu-only", "--output-dir", out / "run")
            self.assertTrue((out / "run" / "report.md").read_text())
            self.assertTrue((out / "run" / "junit.xml").exists())

            for file in BATCHES:
                assay("generate", "--batch-file", file, "--output-dir", out / "tests")
            files = sorted(path.name for path in (out / "tests").iterdir())
            self.assertEqual(files, sorted(f"test_hf_{model['name']}.textproto" for model in PLAN))
            self.assertIn("command-r", (out / "tests" / "test_hf_command_r.textproto").read_text().split("name:")[0])
            assay("verify", "--directory", out / "tests")
            broken = out / "tests" / "test_hf_llama_3.textproto"
            broken.write_text(broken.read_text().replace("finite {", "finnite {", 1))
            self.assertRegex(assay("verify", "--directory", out / "tests", code=2).stderr,
                             r"test_hf_llama_3\.textproto:\d+:\d+: ")


if __name__ == "__main__":
    unittest.main()
