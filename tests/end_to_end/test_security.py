"""A stack with TLS, set up as docs/security.md says, and secrets planted in it that must be found nowhere."""

import os
import pathlib
import re
import subprocess
import unittest

from stack import BATCHES, BIN, SOURCE, Stack, until

HUB_SECRET = "hf_canary4b1d0c2e7f"
PASSWORD = "canary8c6f1e5a"


class SecureStack(Stack):
    """Its workers join; its clients have a token in a file."""

    def __init__(self):
        self.authority = self.admin = None
        super().__init__(workers=0)
        self.environment = {**os.environ, "HF_TOKEN": HUB_SECRET}

    def start_coordinator(self):
        tls = self.folder / "data" / "tls"
        if not tls.exists():
            ran = subprocess.run([BIN / "assay-coordinator", "init", "--data-dir", self.folder / "data", "--host",
                                  "127.0.0.1"], capture_output=True, text=True)
            (self.folder / "init.log").write_text(ran.stdout + ran.stderr)
            if ran.returncode:
                raise AssertionError(ran.stdout + ran.stderr)
            self.authority, self.admin = tls / "ca.crt", tls / "admin.token"
            self.environment |= {"ASSAY_TLS_CA": str(self.authority)}
        super().start_coordinator()

    def run(self, program, *arguments, code=0, **variables):
        """Runs it to its end; what it said, of which a copy goes with the logs."""
        ran = subprocess.run([BIN / program, *map(str, arguments)], capture_output=True, text=True, cwd=SOURCE,
                             env={**self.environment, **variables})
        with open(self.folder / "clients.log", "a") as log:
            log.write(ran.stdout + ran.stderr)
        if code is not None and ran.returncode != code:
            raise AssertionError(f"{program} {arguments} gave {ran.returncode}\n{ran.stdout}\n{ran.stderr}")
        return ran.stdout + ran.stderr

    def assay(self, command, *more, code=0, text=None):
        words = command.split()
        return self.run("assay", *words, "--address", self.address, *more, code=code,
                        **({} if self.token_given(more) else {"ASSAY_TOKEN_FILE": str(self.admin)}))

    @staticmethod
    def token_given(arguments):
        return any(str(argument).startswith("--token") for argument in arguments)

    def token(self, name, role):
        """A file with a new one."""
        file = self.folder / f"{name}.token"
        self.assay("token create", "--name", name, "--role", role, "--output", file)
        return file

    def join(self, name):
        self.run("assay-worker", "join", "--coordinator", self.address, "--name", name, "--state-dir",
                 self.folder / name, "--token-file", self.token(name, "join"))

    def client_environment(self):
        return {**self.environment, "ASSAY_TOKEN_FILE": str(self.admin)}

    def _spawn(self, name, binary, *arguments, **variables):
        with open(self.folder / f"{name}.log", "ab") as log:
            return subprocess.Popen([str(BIN / binary), *map(str, arguments)], stdout=log, stderr=log, cwd=SOURCE,
                                    env={**self.environment, **variables})


def hosts(stack):
    """Environment and command line of each test host of the stack's workers."""
    workers = {str(worker.pid) for worker in stack.workers.values()}
    found = []
    for folder in pathlib.Path("/proc").iterdir():
        try:
            if (folder / "stat").read_text().rpartition(")")[2].split()[1] in workers:
                found.append((folder / "environ").read_bytes() + (folder / "cmdline").read_bytes())
        except OSError:
            pass
    return found


def command_lines():
    for folder in pathlib.Path("/proc").iterdir():
        try:
            yield (folder / "cmdline").read_bytes()
        except OSError:
            pass


class Security(unittest.TestCase):
    def test_secrets_are_found_nowhere(self):
        with SecureStack() as stack:
            stack.join("node-1")
            stack.start_worker("node-1")
            # The other way: a token in its environment.
            worker_token = stack.token("node-2", "work")
            stack.environment["ASSAY_TOKEN"] = worker_token.read_text().strip()
            stack.start_worker("node-2")
            del stack.environment["ASSAY_TOKEN"]

            secrets = {HUB_SECRET, PASSWORD}
            files = [stack.admin, *stack.folder.glob("*.token")]
            for file in files:
                token = file.read_text().strip()
                self.assertRegex(token, "^assay_[0-9a-f]{72}$")
                self.assertEqual(file.stat().st_mode & 0o777, 0o600)
                secrets.add(token)
            key = (stack.folder / "node-1" / "tls" / "worker.pem").read_text()
            secrets.add(re.search("PRIVATE KEY-----\n(.{60})", key)[1])

            seen = until(lambda: hosts(stack), "test hosts")
            batches = stack.submit(BATCHES[:1])
            jobs = stack.wait(batches)
            self.assertEqual({job["result"]["outcome"] for job in jobs}, {"PASSED"})
            self.assertEqual({job["worker"] for job in jobs} - {"node-1", "node-2"}, set())
            seen += hosts(stack) + list(command_lines())
            report = stack.folder / "report.html"
            stack.assay("report", "-o", "html", "--output", report)
            stack.assay("audit", "-o", "json")
            stack.assay("token list")

            # A worker that watches its certificate leaves in good order all the same.
            stack.workers["node-1"].terminate()
            self.assertEqual(stack.workers["node-1"].wait(60), 0)

            # What goes wrong with a secret in it does not say it.
            token = stack.token("mistake", "read").read_text().strip()
            secrets.add(token)
            files.append(stack.folder / "mistake.token")
            self.assertIn("--token-file", stack.assay("batches", "--token", token, code=2))
            stack.assay("batches", "--token-file", token, code=2)
            self.assertIn("assay-worker", stack.run("assay-worker", "--token", token, code=2))
            stack.run("assay", "batches", "--address", stack.address, code=2, ASSAY_TOKEN=token[:-1])
            # Without TLS it is not sent.
            stack.run("assay", "batches", "--address", stack.address, code=2, ASSAY_TOKEN=token, ASSAY_TLS_CA="")
            url = f"postgres://assay:{PASSWORD}@127.0.0.1:1/none"
            serve = ("assay-coordinator", "--data-dir", stack.folder / "other", "--content-dir", SOURCE)
            stack.run(*serve, code=5, ASSAY_DATABASE=url)
            stack.run(*serve, "--database", url, code=2)

            self.assertGreater(len(seen), 3)
            for secret in secrets:
                for text in seen:
                    self.assertNotIn(secret.encode(), text)
            own = {stack.folder / "node-1" / "tls" / "worker.pem", *files}
            searched = 0
            for file in stack.folder.rglob("*"):
                if not file.is_file() or file in own:
                    continue
                searched += 1
                content = file.read_bytes()
                for secret in secrets:
                    self.assertNotIn(secret.encode(), content, file)
            self.assertGreater(searched, 20)

    def test_what_was_done_is_listed_and_a_reader_cannot_cancel(self):
        with SecureStack() as stack:
            batch, = stack.submit(BATCHES[:1])
            reader = stack.token("eve", "read")
            self.assertIn("needs the role submit or admin", stack.assay("cancel", batch, "--token-file", reader, code=2))
            stack.assay("show", batch, "--token-file", reader)
            stack.assay("cancel", batch)
            audit = stack.assay("audit")
            lines = [re.split("  +", line) for line in audit.splitlines()]
            self.assertIn(["admin", "BatchService.CancelBatch", batch, "OK"], [[w[1], w[4], w[5], w[6]] for w in lines])
            self.assertIn(["eve", "BatchService.CancelBatch", "PERMISSION_DENIED"],
                          [[w[1], w[4], w[6]] for w in lines])

            # Revoked: refused, and on record.
            token = next(line.split()[0] for line in stack.assay("token list").splitlines() if " eve " in line)
            stack.assay("token revoke", token)
            self.assertIn("was revoked", stack.assay("show", batch, "--token-file", reader, code=2))
            self.assertIn(token, stack.assay("audit"))


if __name__ == "__main__":
    unittest.main()
