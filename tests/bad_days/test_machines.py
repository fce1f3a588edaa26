"""Bad days of machines, with real processes: a coordinator with a wrong clock, a worker with half a disk, and many
workers that come back at once."""

import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import time
import unittest

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "cluster"), str(TESTS / "end_to_end")]

import run as cluster_run  # noqa: E402
from cluster import Cluster, Postgres  # noqa: E402
from stack import BATCHES, BIN, SOURCE, Stack, until  # noqa: E402

DAY = 24 * 3600
# 20 in the test, 200 in scripts/nightly.
WORKERS = int(os.environ.get("ASSAY_STORM_WORKERS", "20"))
REAL = 4


class WrongClock(unittest.TestCase):
    def test_leases_are_the_databases_and_a_coordinator_a_day_ahead_takes_part(self):
        with tempfile.TemporaryDirectory(prefix="assay_clock_") as folder:
            folder = pathlib.Path(folder)
            folder.chmod(0o755)
            server = Postgres(folder / "postgres")
            offset = folder / "offset"
            offset.write_bytes(struct.pack("q", DAY))
            try:
                with AheadCluster(server.url, offset) as cluster:
                    files = BATCHES[:2]
                    plan = sorted(m["name"] for f in files for ms in json.loads(f.read_text()).values() for m in ms)
                    batches = cluster.submit(files)
                    for i, batch in enumerate(batches):
                        cluster.watch(batch, first=i)
                    until(lambda: sum(j["state"] == "DONE" for j in cluster.seen().values()) == len(plan), "the end")
                    cluster_run.check(cluster, batches, plan)
                    jobs = cluster.jobs(batches)
                    # Both served workers, and neither took a lease for one that had run out.
                    self.assertEqual({job["worker"] for job in jobs}, set(cluster.workers))
                    self.assertEqual({job["attempt"] for job in jobs}, {"1"})
                    today = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 600))
                    later = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() + 600))
                    for job in jobs:
                        self.assertGreaterEqual(job["end_time"][:10], today)
                        self.assertLess(job["end_time"], later)
                    # Its own log and the doctor say what is wrong.
                    until(lambda: "the store's clock is" in cluster.log("coordinator-2"), "a warning")
                    self.assertNotIn("the store's clock is", cluster.log("coordinator-1"))
                    ahead = f"127.0.0.1:{cluster.ports['coordinator-2']}"
                    doctor = subprocess.run([BIN / "assay", "doctor", "--address", ahead, "-o", "json"],
                                            capture_output=True, text=True, cwd=SOURCE)
                    found = {check["check"]: check["state"] for check in json.loads(doctor.stdout)["check"]}
                    self.assertEqual(found["clock.coordinator"], "fail")
                    self.assertEqual(found["clock.store"], "warn")
            finally:
                server.stop()


class AheadCluster(Cluster):
    """Two coordinators, the second of them with a clock that is as far ahead as the file says; a worker at each."""

    def __init__(self, url, offset):
        super().__init__(2, 2, url)
        self.offset = offset

    def start_coordinator(self, name, *more):
        wrong = {"LD_PRELOAD": str(BIN.parent / "lib" / "libassay_clock_jump.so"),
                 "ASSAY_CLOCK_OFFSET": str(self.offset)} if name == "coordinator-2" else {}
        # So long that only a clock could end a lease, and no machine that is busy.
        super().start_coordinator(name, "--lease-ms", 60_000, *more, **wrong)


class SmallStateFolder(Stack):
    """Its workers have a file system of their own for their state, of which a file takes all but a little."""

    SIZE, FREE = 192 << 20, 32 << 20  # a worker wants 64 MiB to be free

    def start_worker(self, name, *more):
        state = self.folder / name
        state.mkdir(exist_ok=True)
        script = (f"mount -t tmpfs -o size={self.SIZE} tmpfs '{state}' && "
                  f"head -c {self.SIZE - self.FREE} /dev/zero > '{state}/ballast' && exec \"$@\"")
        command = [BIN / "assay-worker", "--coordinator", self.address, "--name", name, "--state-dir", state,
                   "--slots", "1", "--cpu-only", *more]
        with open(self.folder / f"{name}.log", "ab") as log:
            self.workers[name] = subprocess.Popen(
                ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", *map(str, command)],
                stdout=log, stderr=log, cwd=SOURCE)

    def free(self, name):
        """Makes room, as an operator would."""
        os.unlink(f"/proc/{self.workers[name].pid}/root{self.folder / name}/ballast")


class HalfADisk(unittest.TestCase):
    def test_a_worker_without_room_takes_nothing_says_why_and_takes_up_again(self):
        with SmallStateFolder(workers=1, lease_ms=3000) as stack:
            until(lambda: "taking nothing new" in stack.log("worker-1"), "the worker to see it")
            batch, = stack.submit(BATCHES[:1])
            job = stack.jobs(batch)[0]["job_id"]
            # It says so with its first heartbeat, which may come after the submission.
            why = until(lambda: (said := stack.assay("why", job)) and "is full" in said and said, "the reason")
            self.assertRegex(why, r"worker-1.*state folder .* is full: \d+ MiB are free, 64 are needed")
            self.assertEqual({job["state"] for job in stack.jobs(batch)}, {"QUEUED"})
            stack.free("worker-1")
            jobs = stack.wait([batch])
            self.assertEqual({job["result"]["outcome"] for job in jobs}, {"PASSED"})
            # Nothing was tried that could not be kept.
            self.assertFalse([line for line in stack.log("worker-1").splitlines() if "No space left" in line])
            self.assertIn("taking tests again", stack.log("worker-1"))


class Storm(unittest.TestCase):
    """Workers that all lost their coordinator, and find it again at the same moment."""

    def memory(self, stack):
        status = pathlib.Path(f"/proc/{stack.coordinator.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024

    def test_they_all_come_back_and_nothing_is_run_twice(self):
        with Stack(workers=0, lease_ms=60_000) as stack:
            for i in range(WORKERS):
                # LibTorch two hundred times over is more than one machine has: most of them have a host without it.
                more = ["--label", "host=real"] if i < REAL else ["--host-binary", BIN / "fake-host"]
                stack.start_worker(f"worker-{i + 1}", "--cpu-only", *more)

            def connected(to_another_than=None):
                """How many, and the coordinator that they name: it takes another name with each start."""
                workers = json.loads(stack.assay("workers", "-o", "json")).get("worker", [])
                here = [worker["coordinator"] for worker in workers
                        if worker["connected"] and worker["coordinator"] != to_another_than]
                return len(here) == WORKERS and here[0]

            began = time.monotonic()
            before = until(connected, "all workers")
            first = time.monotonic() - began
            batches = stack.submit(BATCHES, "--selector", "host=real")
            until(lambda: any(job["state"] == "DONE" for job in stack.jobs(batches[0])), "a first result")
            stack.kill_coordinator()
            # By now each of them tries to reach it, with pauses that grow.
            stack.start_coordinator()
            began = time.monotonic()
            until(lambda: connected(to_another_than=before), "all workers again")
            again = time.monotonic() - began
            jobs = stack.wait(batches)
            self.assertEqual({job["result"]["outcome"] for job in jobs}, {"PASSED"})
            for batch in batches:
                events = [json.loads(line) for line in stack.assay("watch", batch, "-o", "json").splitlines()]
                ends = [event["job"]["job_id"] for event in events if event.get("job", {}).get("state") == "DONE"]
                self.assertEqual(len(ends), len(set(ends)), "each job ends once")
            print(f"\n{WORKERS} workers: connected {first:.1f} s after the last was started, again {again:.1f} s after "
                  f"the coordinator was back; it had {self.memory(stack):.0f} MiB at most", file=sys.stderr)


if __name__ == "__main__":
    unittest.main()
