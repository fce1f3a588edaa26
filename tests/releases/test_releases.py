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


def binaries(tree):
    return stack.BIN if tree == NOW else tree / "build" / "release" / "bin"


class Mixed(stack.Stack):
    """trees: of each process by name; of those that are not named, this one."""

    def __init__(self, trees, workers):
        super().__init__(workers=workers)
        self.trees = trees

    def _spawn(self, name, binary, *arguments):
        tree = self.trees.get(name, NOW)
        arguments = [tree if argument == stack.SOURCE else argument for argument in arguments]
        with open(self.folder / f"{name}.log", "ab") as log:
            return subprocess.Popen([binaries(tree) / binary, *map(str, arguments)], stdout=log, stderr=log, cwd=tree)

    def assay(self, command, *more, tree=None, code=0):
        tree = tree or self.trees.get("client", NOW)
        ran = subprocess.run([binaries(tree) / "assay", command, "--address", self.address, *map(str, more)],
                             capture_output=True, text=True, timeout=stack.PATIENCE, cwd=tree)
        if ran.returncode != code:
            raise AssertionError(f"assay {command} gave {ran.returncode}, expected {code}\n{ran.stdout}\n{ran.stderr}")
        return ran.stdout

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

    # weight_influence came to ask more under the same name, and the older templates have no exemptions from that: beit3 and
    # esm fail on a newer worker. Wanted is a field by which a template asks for it.
    @unittest.expectedFailure
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
                [binaries(BEFORE) / "assay-coordinator", "--listen", "127.0.0.1:0", "--data-dir", mixed.folder / "data",
                 "--content-dir", BEFORE], capture_output=True, text=True, timeout=stack.PATIENCE)
            self.assertNotEqual(refused.returncode, 0)
            self.assertIn("schema", refused.stderr + refused.stdout)


if __name__ == "__main__":
    unittest.main()
