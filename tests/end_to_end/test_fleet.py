"""What operators of a fleet do: several targets, acceptance, cordons and drains, through one coordinator or another."""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cluster"))

from cluster import Cluster  # noqa: E402
from stack import BATCHES, BIN, SOURCE, Stack, until  # noqa: E402

TARGETS = ["--target", "cpu-float32", "--target", "cpu-bfloat16"]
MODELS = sorted(model["name"] for models in json.loads(BATCHES[0].read_text()).values() for model in models)


class Targets(unittest.TestCase):
    def check(self, jobs):
        """Each model on each target, by the precision that it was asked for."""
        self.assertEqual(sorted((job["model"]["name"], job["target"]["dtype"]) for job in jobs),
                         sorted((name, dtype) for name in MODELS for dtype in ("FLOAT32", "DTYPE_BFLOAT16")))
        for job in jobs:
            with self.subTest(job=job["job_id"]):
                self.assertEqual(job["result"]["outcome"], "PASSED", job["result"].get("message"))
                self.assertEqual(job["result"]["provenance"]["dtype"], job["target"]["dtype"])
                self.assertEqual(job["result"]["provenance"]["device"]["kind"], "cpu")
        # Each precision is held to tolerances of its own.
        allowed = {}
        for job in jobs:
            checks = [check for case in job["result"]["case"] for check in case["check"]]
            golden = next(check for check in checks if check["name"] == "golden")
            allowed.setdefault(job["model"]["name"], {})[job["target"]["dtype"]] = golden["tolerance"]
        for model, by_dtype in allowed.items():
            self.assertGreater(by_dtype["DTYPE_BFLOAT16"], 10 * by_dtype["FLOAT32"], model)

    def test_a_batch_runs_on_each_of_its_targets(self):
        with Stack(workers=2) as stack:
            batch, = stack.submit(BATCHES[:1], *TARGETS)
            self.check(stack.wait([batch]))
            junit = ElementTree.fromstring(stack.assay("report", "--batch", batch, "-o", "junit"))
            classes = {case.get("classname") for case in junit.iter("testcase")}
            self.assertEqual(len(classes), 2 * len(MODELS), classes)

    def test_run_takes_them_too(self):
        with tempfile.TemporaryDirectory() as folder:
            run = [BIN / "assay", "run", "--batch-file", BATCHES[0], "--output-dir", folder, *TARGETS]
            ran = subprocess.run(run, capture_output=True, text=True, timeout=300, cwd=SOURCE)
            self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
            report = json.loads((pathlib.Path(folder) / "report.json").read_text())
            targets = {job["target"] for job in report["jobs"]}
            self.assertEqual(targets, {"cpu/float32", "cpu/bfloat16"})
            self.assertEqual(len(report["jobs"]), 2 * len(MODELS))


class Workers(unittest.TestCase):
    def test_accepted_cordoned_and_drained_while_they_run(self):
        with Stack(workers=2, lease_ms=30_000) as stack:
            until(lambda: stack.assay("workers").count("connected") == 2, "both workers")
            self.assertRegex(stack.assay("accept", "worker-1", "--repetitions", 2), r"worker-1  accepted  \d+ tests in")
            stack.assay("cordon", "worker-2", "--reason", "smells of burning")
            batches = stack.submit(BATCHES[:3])
            until(lambda: any(job["state"] == "DONE" for job in stack.jobs(batches[0])), "a first result")
            self.assertIn("cordoned (smells of burning)", stack.assay("workers"))
            # Nobody else takes it, and so it waits for the one that is cordoned.
            stack.assay("drain", "worker-1")
            leaving = stack.workers.pop("worker-1")
            self.assertEqual(leaving.wait(60), 0, stack.log("worker-1"))
            jobs = [job for batch in batches for job in stack.jobs(batch)]
            self.assertEqual({job["worker"] for job in jobs if job.get("worker")}, {"worker-1"})
            self.assertFalse([job for job in jobs if job["state"] == "RUNNING"], "it left nothing behind")
            waiting = [job["job_id"] for job in jobs if job["state"] == "QUEUED"]
            if waiting:  # unless it was quicker than all of this
                self.assertIn("worker-2 is cordoned (smells of burning)", stack.assay("why", waiting[0]))
            stack.assay("uncordon", "worker-2")
            jobs = stack.wait(batches)
            self.assertEqual({(job["result"]["outcome"], job["attempt"]) for job in jobs}, {("PASSED", "1")})

    def test_any_coordinator_takes_the_order(self):
        with Cluster(coordinators=2, workers=0) as cluster:
            one, other = (f"127.0.0.1:{cluster.ports[name]}" for name in ("coordinator-1", "coordinator-2"))
            for name, address in (("worker-1", one), ("worker-2", other)):
                cluster.start_worker(name, 0, address=address)

            def held():
                workers = json.loads(cluster.assay("workers", "-o", "json")).get("worker", [])
                by_name = {worker["name"]: worker["coordinator"] for worker in workers if worker["connected"]}
                return len(by_name) == 2 and by_name

            holders = until(held, "both workers")
            self.assertEqual(len(set(holders.values())), 2, "each of them is held by another coordinator")
            # Each is told through the coordinator that does not hold its stream.
            for name, address in (("worker-1", other), ("worker-2", one)):
                told = cluster.assay("accept", name, "--repetitions", 1, address=address)
                self.assertRegex(told, f"{name}  accepted")
            cluster.assay("cordon", "worker-1", address=other)
            batches = cluster.submit(BATCHES[:2])
            for i, batch in enumerate(batches):
                cluster.watch(batch, first=i)
            until(lambda: any(job["state"] == "DONE" for job in cluster.seen().values()), "a first result")
            cluster.assay("drain", "worker-2", address=one)
            self.assertEqual(cluster.workers.pop("worker-2").wait(60), 0, cluster.log("worker-2"))
            cluster.assay("uncordon", "worker-1", address=other)
            for batch in batches:
                self.assertEqual({job["state"] for job in self.ended(cluster, batch)}, {"DONE"})
            jobs = cluster.jobs(batches)
            self.assertEqual({job["result"]["outcome"] for job in jobs}, {"PASSED"})

    def ended(self, cluster, batch):
        cluster.events(batch)
        return cluster.jobs([batch])


if __name__ == "__main__":
    unittest.main()
