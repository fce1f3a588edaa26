"""What happens to a worker when its pod goes: the preStop hook, with real processes and the signals that Kubernetes sends."""

import os
import pathlib
import signal
import subprocess
import sys
import unittest

import chart

sys.path.insert(0, str(chart.SOURCE / "tests" / "end_to_end"))
import stack  # noqa: E402

DRAIN = chart.SOURCE / "deploy" / "container" / "assay-drain"


def evict(worker, grace_is_over=lambda: False):
    """What a kubelet does with the worker's container: the preStop hook; when that is over, or the grace period, SIGTERM.
    The worker's exit code; SIGKILL, and so -9, where it takes far more than the 2 s that a kubelet gives it then."""
    hook = subprocess.Popen([DRAIN, str(worker.pid)])
    try:
        stack.until(lambda: hook.poll() is not None or worker.poll() is not None or grace_is_over(), "the preStop hook")
        if worker.poll() is None:
            worker.send_signal(signal.SIGTERM)
        try:
            return worker.wait(60)
        except subprocess.TimeoutExpired:
            worker.kill()
            return worker.wait()
    finally:
        hook.kill()  # its container is gone
        hook.wait()


def below(pid):
    """The processes that a process has started, and those that they have."""
    parents = {}
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(") ")[2].split()[1])
        except OSError:  # it has ended
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


class Drain(unittest.TestCase):
    def running(self, fleet, batches, name):
        return [job for batch in batches for job in fleet.jobs(batch)
                if job["state"] == "RUNNING" and job.get("worker") == name]

    def check(self, jobs):
        self.assertEqual(len(jobs), 62)
        self.assertEqual({job["result"]["outcome"] for job in jobs}, {"PASSED"})

    def test_an_evicted_worker_finishes_what_it_runs_and_nothing_is_run_twice(self):
        with stack.Stack(workers=2) as fleet:
            batches = fleet.submit()
            stack.until(lambda: self.running(fleet, batches, "worker-1"), "an attempt of worker-1")
            self.assertEqual(evict(fleet.workers.pop("worker-1")), 0)
            jobs = fleet.wait(batches)
            self.check(jobs)
            self.assertEqual({job["attempt"] for job in jobs}, {"1"})
            self.assertIn("draining", fleet.log("worker-1"))

    def test_what_does_not_end_within_the_grace_period_runs_elsewhere(self):
        with stack.Stack(workers=1) as fleet:
            worker = fleet.workers.pop("worker-1")
            batches = fleet.submit()

            def stop(how):
                for pid in below(worker.pid):
                    try:
                        os.kill(pid, how)
                    except ProcessLookupError:
                        pass

            def stuck():
                if self.running(fleet, batches, "worker-1"):
                    stop(signal.SIGSTOP)
                    if jobs := self.running(fleet, batches, "worker-1"):
                        return jobs
                    stop(signal.SIGCONT)
                return None

            jobs = stack.until(stuck, "an attempt of worker-1 that does not end")
            self.addCleanup(stop, signal.SIGCONT)
            fleet.start_worker("worker-2")
            # Both signals' effects are in its log; without the second one it would wait for ever.
            code = evict(worker, grace_is_over=lambda: "draining" in fleet.log("worker-1"))
            self.assertEqual(code, 8)
            self.assertIn("stopping now", fleet.log("worker-1"))
            ended = fleet.wait(batches)
            self.check(ended)
            moved = {job["job_id"] for job in ended if job["attempt"] != "1"}
            self.assertTrue(moved & {job["job_id"] for job in jobs})
            self.assertEqual({job["worker"] for job in ended if job["job_id"] in moved}, {"worker-2"})


if __name__ == "__main__":
    unittest.main()
