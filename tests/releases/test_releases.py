"""Two releases in one cluster, with real processes: this tree's, and the one before in ASSAY_BEFORE (a source tree with its
build/release). scripts/nightly releases makes that and runs this."""

import json
import os
import pathlib
import sqlite3
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "end_to_end"))
import stack  # noqa: E402
from stack import until  # noqa: E402

NOW = stack.SOURCE
BEFORE = pathlib.Path(os.environ["ASSAY_BEFORE"]).resolve()


class Mixed(stack.Stack):
    """trees: of each process by name; of those that are not named, this one's."""

    def __init__(self, trees, workers):
        super().__init__(workers=workers)
        self.trees = trees

    def tree(self, process):
        return self.trees.get(process, NOW)

    def connected(self, names):
        until(lambda: all("connected to" in self.log(name) for name in names), names)


class Releases(unittest.TestCase):
    def schema(self, mixed):
        """Of the coordinator's database: SQLite's user_version."""
        file = next((mixed.folder / "data").glob("*.db"))
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as database:
            return database.execute("PRAGMA user_version").fetchone()[0]

    def passes(self, mixed):
        """The six batches, whatever worker takes what: 62 jobs, each PASSED."""
        mixed.connected(mixed.workers)
        jobs = mixed.wait(mixed.submit())
        self.assertEqual(len(jobs), 62)
        failed = {job["job_id"]: job["result"] for job in jobs if job["result"]["outcome"] != "PASSED"}
        self.assertEqual(failed, {})
        return jobs

    def test_workers_of_both_serve_the_newer_coordinator(self):
        with Mixed({"worker-1": BEFORE}, workers=2) as mixed:
            # What the older one cannot read of a template it gives back, and the newer one takes it.
            self.passes(mixed)
            workers = json.loads(mixed.assay("workers", "-o", "json"))["worker"]
            self.assertEqual({worker["name"] for worker in workers}, {"worker-1", "worker-2"})

    def test_workers_of_both_serve_the_older_coordinator(self):
        with Mixed({"coordinator": BEFORE, "worker-1": BEFORE}, workers=2) as mixed:
            self.assertEqual({job["attempt"] for job in self.passes(mixed)}, {"1"})

    def test_a_client_of_the_release_before_is_served(self):
        with Mixed({"client": BEFORE}, workers=1) as mixed:
            jobs = self.passes(mixed)
            self.assertEqual({job["worker"] for job in jobs}, {"worker-1"})

    def test_a_coordinator_is_upgraded_over_its_data_and_not_taken_back(self):
        with Mixed({"coordinator": BEFORE, "worker-1": BEFORE}, workers=1) as mixed:
            mixed.connected(["worker-1"])
            batches = mixed.submit()
            jobs = mixed.wait(batches)
            old_schema = self.schema(mixed)
            mixed.coordinator.terminate()
            mixed.coordinator.wait()
            del mixed.trees["coordinator"]
            mixed.start_coordinator()
            after = [job for batch in batches for job in mixed.jobs(batch)]
            self.assertEqual([(job["job_id"], job["result"]["outcome"]) for job in after],
                             [(job["job_id"], job["result"]["outcome"]) for job in jobs])
            if self.schema(mixed) == old_schema:
                return  # nothing keeps the older one out
            mixed.coordinator.terminate()
            mixed.coordinator.wait()
            refused = subprocess.run(
                [BEFORE / "build" / "release" / "bin" / "assay-coordinator", "--listen", "127.0.0.1:0", "--data-dir", mixed.folder / "data",
                 "--content-dir", BEFORE], capture_output=True, text=True, timeout=stack.PATIENCE)
            self.assertNotEqual(refused.returncode, 0)
            self.assertIn("schema", refused.stderr + refused.stdout)


if __name__ == "__main__":
    unittest.main()
