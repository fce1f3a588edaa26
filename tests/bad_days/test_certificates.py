"""Certificates that end while streams are open, with real processes."""

import pathlib
import re
import signal
import subprocess
import sys
import time
import unittest
import urllib.request

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "end_to_end")]

from stack import BATCHES, BIN, SOURCE, until  # noqa: E402
from test_security import SecureStack  # noqa: E402

CA = """[ca]
default_ca = own
[own]
database = {folder}/index
serial = {folder}/serial
new_certs_dir = {folder}
certificate = {tls}/ca.crt
private_key = {tls}/ca.key
default_md = sha256
policy = any
unique_subject = no
x509_extensions = client
[any]
commonName = supplied
[client]
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
"""


def openssl(*words):
    ran = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True)
    if ran.returncode:
        raise AssertionError(f"openssl {words[0]}: {ran.stderr}")


def days_left(port_file):
    """Of the certificate that a process tells Prometheus of."""
    if not port_file.exists():
        return None
    with urllib.request.urlopen(f"http://127.0.0.1:{int(port_file.read_text())}/metrics", timeout=30) as answer:
        end = re.search(r"^assay_certificate_end_timestamp_seconds (\S+)$", answer.read().decode(), re.MULTILINE)
    return end and (float(end[1]) - time.time()) / 86400


class ShortLived(SecureStack):
    """Certificates of its authority that end after some seconds."""

    def __init__(self):
        super().__init__()
        self.lease_ms = 60_000  # no busy machine lets one run out

    def renew_server(self, seconds):
        return self.run("assay-coordinator", "renew", "--data-dir", self.folder / "data", "--days",
                        f"{seconds / 86400:.6f}")

    def identity(self, name, seconds):
        """As `assay-worker join` would have left it so long before its end, that it is time to renew it."""
        folder = self.folder / f"{name}.ca"
        folder.mkdir()
        (folder / "index").touch()
        (folder / "serial").write_text("4d00\n")
        (folder / "ca.conf").write_text(CA.format(folder=folder, tls=self.folder / "data" / "tls"))
        key, request, certificate = folder / "key", folder / "request", folder / "certificate"
        openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out",
                request, "-subj", f"/CN={name}")

        def moment(offset):
            return time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + offset))

        openssl("ca", "-batch", "-notext", "-config", folder / "ca.conf", "-in", request, "-out", certificate,
                "-startdate", moment(-60), "-enddate", moment(seconds))
        tls = self.folder / name / "tls"
        tls.mkdir(parents=True)
        (tls / "ca.crt").write_bytes((self.folder / "data" / "tls" / "ca.crt").read_bytes())
        (tls / "worker.pem").write_bytes(certificate.read_bytes() + key.read_bytes())
        (tls / "worker.pem").chmod(0o600)


class Midnight(unittest.TestCase):
    def test_the_servers_ends_while_streams_are_open(self):
        with ShortLived() as stack:
            stack.join("node-1")
            stack.kill_coordinator()
            # The shortest that is taken: 8.64 s.
            stack.renew_server(8.64)
            stack.start_coordinator()
            ended = time.time() + 9
            until(lambda: re.search("the server's certificate .* ends at", stack.log("coordinator")), "a warning")
            labels = stack.folder / "labels"
            labels.write_text("")
            stack.start_worker("node-1", "--label-file", labels)
            # Nobody carries that label yet: the batch waits for the worker's stream to say so.
            stack.assay("submit", "--batch-file", BATCHES[0], "--selector", "zone=b")
            batch = re.search(r"b\d{8}-\d{6}-\w+", stack.assay("batches"))[0]
            watch = stack._spawn("watch", "assay", "watch", batch, "--address", stack.address,
                                 ASSAY_TOKEN_FILE=stack.admin)
            self.addCleanup(lambda: watch.poll() is None and watch.kill())
            until(lambda: "connected" in stack.assay("workers"), "the worker")
            until(lambda: time.time() > ended, "midnight")

            # New connections are refused, by whoever makes them; the certificate is why.
            self.assertRegex(stack.assay("batches", code=5), "(?i)certificate|handshake|connect")
            found = stack.run("assay", "doctor", "--address", stack.address, "--tls-cert",
                              stack.folder / "data" / "tls" / "server.pem", code=5)
            self.assertRegex(found, r"fail +tls.certificate .*it has ended")
            # Those that are open go on: the worker takes the batch, and whoever follows it sees its end.
            labels.write_text("zone=b\n")
            stack.workers["node-1"].send_signal(signal.SIGHUP)
            self.assertEqual(watch.wait(240), 0, stack.log("watch"))

            # Renewed, without a restart of anything.
            stack.run("assay-coordinator", "renew", "--data-dir", stack.folder / "data")
            until(lambda: subprocess.run([BIN / "assay", "batches", "--address", stack.address], capture_output=True,
                                         cwd=SOURCE, env={**stack.environment, "ASSAY_TOKEN_FILE": str(stack.admin)}
                                         ).returncode == 0, "new connections")
            jobs = stack.jobs(batch)
            self.assertEqual({(job["result"]["outcome"], job["attempt"]) for job in jobs}, {("PASSED", "1")})
            self.assertIsNone(stack.coordinator.poll())

    def test_a_worker_renews_its_own_and_goes_on_when_the_old_one_ends(self):
        with ShortLived() as stack:
            stack.identity("node-1", 12)
            port = stack.folder / "metrics"
            stack.start_worker("node-1", "--metrics-listen", "127.0.0.1:0", "--metrics-port-file", port)
            batches = stack.submit(BATCHES[:3])
            until(lambda: "certificate was renewed" in stack.log("node-1"), "the renewal")
            # The stream that was opened with the old one is ended with it, and opened again with the new one.
            until(lambda: "the certificate of node-1 has ended" in stack.log("node-1"), "the old one's end")
            until(lambda: stack.log("coordinator").count("worker connected") >= 2, "the worker to come back")
            until(lambda: (days_left(port) or 0) > 20, "the new one's end in the metrics")
            jobs = stack.wait(batches)
            self.assertEqual({job["result"]["outcome"] for job in jobs}, {"PASSED"})
            self.assertIn("none ends within a week", stack.run(
                "assay", "doctor", "--address", stack.address, "--state-dir", stack.folder / "node-1",
                ASSAY_TOKEN_FILE=str(stack.admin)))

    def test_one_that_is_not_renewed_is_refused_and_its_worker_says_why(self):
        with ShortLived() as stack:
            stack.identity("node-1", 6)
            (stack.folder / "data" / "tls" / "ca.key").rename(stack.folder / "ca.key")  # nobody can sign
            stack.kill_coordinator()
            stack.start_coordinator()
            stack.start_worker("node-1")
            until(lambda: "cannot renew this worker's certificate" in stack.log("node-1"), "a warning before")
            until(lambda: re.search("this worker's certificate .* has ended", stack.log("node-1")), "its end")
            until(lambda: "connected" not in stack.assay("workers").splitlines()[1], "the worker to be gone")
            # A new identity is what it takes.
            (stack.folder / "ca.key").rename(stack.folder / "data" / "tls" / "ca.key")
            stack.kill_coordinator()
            stack.start_coordinator()
            stack.kill_worker("node-1")
            (stack.folder / "node-1" / "tls" / "worker.pem").unlink()
            stack.join("node-1")
            stack.start_worker("node-1")
            jobs = stack.wait(stack.submit(BATCHES[:1]))
            self.assertEqual({job["result"]["outcome"] for job in jobs}, {"PASSED"})


if __name__ == "__main__":
    unittest.main()
