"""Bad days of the database, with real processes: failed over, refusing writes, full, and restored from yesterday."""

import json
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
import uuid

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "cluster"), str(TESTS / "end_to_end")]

import run as cluster_run  # noqa: E402
from cluster import Cluster, Postgres  # noqa: E402
from stack import BATCHES, BIN, SOURCE, Stack, until  # noqa: E402

AWAY = "the store does not answer"
ALIVE = "the store answers again"


def plan_of(files):
    return sorted(m["name"] for file in files for models in json.loads(file.read_text()).values() for m in models)


class OnPostgres(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="assay_bad_days_")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.folder.chmod(0o755)
        self.server = self.start("primary")

    def start(self, name, of=None):
        server = Postgres(self.folder / name, of)
        self.addCleanup(self.end, server)
        return server

    @staticmethod
    def end(server):
        if server.running:
            server.stop()

    def await_everywhere(self, cluster, words, times=1):
        """Until each coordinator has logged it so often."""
        until(lambda: all(cluster.log(name).count(words) >= times for name in cluster.coordinators), words)

    def done(self, cluster):
        return {id: job for id, job in cluster.seen().items() if job["state"] == "DONE"}

    def check_all(self, cluster, batches, files):
        until(lambda: len(self.done(cluster)) == len(plan_of(files)), "the end of the batches")
        cluster_run.check(cluster, batches, plan_of(files))

    def test_a_failover_loses_nothing_and_nothing_is_decided_on_a_standby(self):
        standby = self.start("standby", of=self.server)
        self.server.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.server.sql("SELECT pg_reload_conf()")
        until(lambda: self.server.sql("SELECT sync_state FROM pg_stat_replication") == "sync", "the standby")
        url = f"postgres://assay@127.0.0.1:{self.server.port},127.0.0.1:{standby.port}/assay"
        files = BATCHES[:2]
        with Cluster(2, 2, url + "?target_session_attrs=read-write") as cluster:
            batches = cluster.submit(files)
            for i, batch in enumerate(batches):
                cluster.watch(batch, first=i)
            until(lambda: len(self.done(cluster)) >= 3, "three results")
            self.server.stop()
            self.await_everywhere(cluster, AWAY)
            told = self.done(cluster)  # to somebody, and so accepted

            # The standby answers whoever reads. Nothing is decided by it: neither a submission nor a lease's end.
            state = "SELECT job_id, state, attempt, lease_until FROM assay.jobs ORDER BY job_id"
            before = standby.sql(state, "assay")
            request = str(uuid.uuid4())
            refused = cluster.assay("submit", "--batch-file", BATCHES[2], "--request-id", request, code=5)
            self.assertIn("does not answer", refused)
            self.assertEqual(standby.sql(state, "assay"), before)
            self.assertEqual(standby.sql("SELECT count(*) FROM assay.batches", "assay"), str(len(batches)))

            standby.promote()
            self.await_everywhere(cluster, ALIVE)
            # The same request twice: it was not accepted before, and is once now.
            again = [cluster.submit(BATCHES[2:3], "--request-id", request, first=i) for i in range(2)]
            self.assertEqual(again[0], again[1])
            batches += again[0]
            cluster.watch(batches[-1], first=0)
            self.check_all(cluster, batches, BATCHES[:3])
            after = {job["job_id"]: job for job in cluster.jobs(batches)}
            for id, job in told.items():
                self.assertEqual(after[id], job, "a result that was told before the failover is another one now")

    def test_one_that_stalls_for_longer_than_a_lease_loses_nothing_and_counts_nothing_twice(self):
        files = BATCHES[:3]
        with ShortLeases(2, 2, self.server.url) as cluster:
            batches = cluster.submit(files)
            for i, batch in enumerate(batches):
                cluster.watch(batch, first=i)
            until(lambda: self.done(cluster), "a first result")
            self.server.signal(signal.SIGSTOP)
            try:
                # They say so after three seconds: every lease has run out by then.
                self.await_everywhere(cluster, AWAY)
                told = self.done(cluster)
            finally:
                self.server.signal(signal.SIGCONT)
            self.await_everywhere(cluster, ALIVE)
            self.check_all(cluster, batches, files)
            after = {job["job_id"]: job for job in cluster.jobs(batches)}
            for id, job in told.items():
                self.assertEqual(after[id], job)
            self.assertEqual({job["attempt"] for job in after.values()}, {"1"}, "a lease ended because of the stall")

    def test_a_server_that_refuses_writes_is_read_from_and_takes_up_again(self):
        """As managed servers do when their disk is full."""
        files = BATCHES[:2]
        with Cluster(2, 2, self.server.url) as cluster:
            batches = cluster.submit(files)
            for i, batch in enumerate(batches):
                cluster.watch(batch, first=i)
            until(lambda: self.done(cluster), "a first result")
            self.server.sql("ALTER SYSTEM SET default_transaction_read_only = on")
            self.server.sql("SELECT pg_reload_conf()")
            until(lambda: self.server.sql("SHOW default_transaction_read_only") == "on", "the setting")
            request = str(uuid.uuid4())
            refused = cluster.assay("submit", "--batch-file", BATCHES[2], "--request-id", request, code=5)
            self.assertIn("read-only transaction", refused)
            shown = json.loads(cluster.assay("show", batches[0], "-o", "json"))
            self.assertEqual(shown["batch"]["batch_id"], batches[0])
            # A worker finishes what it runs; what nobody takes it keeps.
            until(lambda: any("not recorded, connect again" in cluster.log(name) or "UNAVAILABLE" in cluster.log(name)
                              for name in cluster.workers), "a worker that was sent away")
            self.server.sql("ALTER SYSTEM RESET default_transaction_read_only")
            self.server.sql("SELECT pg_reload_conf()")
            self.check_all(cluster, batches, files)
            again = cluster.submit(BATCHES[2:3], "--request-id", request)
            self.assertEqual(len(cluster.jobs(again)), len(plan_of(BATCHES[2:3])))


class ShortLeases(Cluster):
    def start_coordinator(self, name, *more, **environment):
        super().start_coordinator(name, "--lease-ms", 2000, *more, **environment)


class SmallDisk(Stack):
    """What it starts fails to write beyond its limit on the size of files, as on a full disk, and is not killed."""

    def _spawn(self, name, binary, *arguments):
        # Python ignores SIGXFSZ, and so do its children where they are left what it ignores.
        with open(self.folder / f"{name}.log", "ab") as log:
            return subprocess.Popen([str(BIN / binary), *map(str, arguments)], stdout=log, stderr=log, cwd=SOURCE,
                                    restore_signals=False)


class OnSqlite(unittest.TestCase):
    def limit_files(self, process, size):
        """No file of the process grows beyond it from now on."""
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def test_a_full_disk_loses_nothing_that_was_accepted_and_takes_nothing_new(self):
        with SmallDisk(workers=2) as stack:
            batches = stack.submit(BATCHES[:2])
            until(lambda: any(job["state"] == "DONE" for job in stack.jobs(batches[0])), "a first result")
            self.limit_files(stack.coordinator, 4096)
            request = str(uuid.uuid4())
            submit = ["submit", "--address", stack.address, "--batch-file", BATCHES[2], "--request-id", request]
            refused = subprocess.run([BIN / "assay", *submit], capture_output=True, text=True)
            self.assertEqual(refused.returncode, 5, refused.stdout + refused.stderr)
            self.assertRegex(refused.stderr, "disk I/O error|full")
            before = stack.jobs(batches[0])  # reading goes on
            self.assertEqual(len(before), len(plan_of(BATCHES[:1])))
            self.limit_files(stack.coordinator, resource.RLIM_INFINITY)
            jobs = stack.wait(batches)
            self.assertEqual(sorted(job["model"]["name"] for job in jobs), plan_of(BATCHES[:2]))
            self.assertEqual({job["result"]["outcome"] for job in jobs}, {"PASSED"})
            was = {job["job_id"]: job for job in before if job["state"] == "DONE"}
            now = {job["job_id"]: job for job in jobs}
            for id, job in was.items():
                self.assertEqual(now[id], job)
            stack.assay(*[str(word) for word in submit[:1]], "--batch-file", BATCHES[2], "--request-id", request)
            self.assertEqual(len(json.loads(stack.assay("batches", "-o", "json"))["batch"]), 3)
            self.assertIsNone(stack.coordinator.poll(), "it was never restarted")

    def test_restored_from_yesterday_workers_go_on_with_what_is_known_and_drop_the_rest(self):
        with Stack(workers=2) as stack:
            kept, = stack.submit(BATCHES[:1])
            until(lambda: any(job["state"] == "DONE" for job in stack.jobs(kept)), "a first result")
            copy = stack.folder / "copy"
            subprocess.run([BIN / "assay-coordinator", "backup", "--data-dir", stack.folder / "data", copy], check=True,
                           capture_output=True)
            # The day goes on: more results, and batches that the backup does not know, of which something runs.
            stack.wait([kept])
            after = {job["job_id"]: job for job in stack.jobs(kept)}
            later = BATCHES[1:4]
            request = ["--request-id", str(uuid.uuid4())]
            lost = stack.submit(later, *request)
            until(lambda: any(job["state"] == "DONE" for job in stack.jobs(lost[0])), "a result that will be lost")
            stack.kill_coordinator()
            shutil.rmtree(stack.folder / "data")
            copy.rename(stack.folder / "data")
            stack.start_coordinator()

            unknown = subprocess.run([BIN / "assay", "show", lost[0], "--address", stack.address], capture_output=True,
                                     text=True)
            self.assertEqual(unknown.returncode, 2)
            self.assertIn(lost[0], unknown.stderr)
            jobs = stack.wait([kept])
            self.assertEqual({job["result"]["outcome"] for job in jobs}, {"PASSED"})
            self.assertEqual({job["job_id"] for job in jobs}, set(after))
            # The same request makes new batches, as nobody here has heard of it; all of them runs, by workers that ran
            # some of it before.
            again = stack.submit(later, *request)
            self.assertFalse(set(again) & set(lost))
            self.assertEqual(len(json.loads(stack.assay("batches", "-o", "json"))["batch"]), 1 + len(later))
            jobs = stack.wait(again)
            self.assertEqual(sorted(job["model"]["name"] for job in jobs), plan_of(later))
            self.assertEqual({job["result"]["outcome"] for job in jobs}, {"PASSED"})
            # Workers kept nothing that nobody wants.
            until(lambda: not list(stack.folder.glob("worker-*/spool/*.result")), "empty spools")


if __name__ == "__main__":
    unittest.main()
