"""What operators see of a real coordinator, a real worker and a batch: metrics, traces, logs, doctor."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "end_to_end")]

import promql  # noqa: E402
from collector import Collector  # noqa: E402
from stack import BIN, SOURCE, Stack, until  # noqa: E402

MONITORING = SOURCE / "deploy" / "monitoring"
BATCH = json.dumps({"encoder_only": [
    {"name": "bert", "template": "bert", "task": "fill-mask"},
    {"name": "roberta_of_nobody", "template": "bert", "task": "fill-mask"}]})


class WatchedStack(Stack):
    """One whose programs serve metrics and log in JSON."""

    def _spawn(self, name, binary, *arguments):
        port_file = self.folder / f"{name}.metrics"
        return super()._spawn(name, binary, *arguments, "--metrics-listen", "127.0.0.1:0", "--metrics-port-file",
                              port_file, "--log-format", "json", "--log-level", "debug")

    def scrape(self, name):
        port = int(until(lambda: (self.folder / f"{name}.metrics").exists()
                         and (self.folder / f"{name}.metrics").read_text().strip(), "a metrics port"))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            return answer.read().decode()


class SecureStack(WatchedStack):
    def __init__(self):
        super().__init__(workers=0)

    def start_coordinator(self):
        subprocess.run([BIN / "assay-coordinator", "init", "--data-dir", self.folder / "data", "--host", "127.0.0.1"],
                       check=True, capture_output=True)
        super().start_coordinator()

    def scrape(self, name):
        return until(lambda: "assay_certificate_end" in (page := super(SecureStack, self).scrape(name)) and page,
                     "a look at the certificate")


def value(page, wanted):
    """Of a sample, whatever the order of its labels."""
    metric, _, labels = wanted.partition("{")
    for line in page.splitlines():
        sample = promql.SAMPLE.match(line)
        if sample and sample.group(1) == metric and (
                sorted(promql.LABEL.findall(sample.group(2) or "")) == sorted(promql.LABEL.findall(labels))):
            return float(sample.group(3))
    raise AssertionError(f"{wanted} is not served")


def expressions():
    """(where, PromQL) of every alert and panel."""
    # A reader of YAML is not part of the tests' tooling; promtool, which reads it anyway, is not asked to print it.
    rules = subprocess.run(["promtool", "check", "rules", str(MONITORING / "alerts.yaml")], capture_output=True,
                           text=True)
    if rules.returncode:
        raise AssertionError(rules.stdout + rules.stderr)
    lines = (MONITORING / "alerts.yaml").read_text().splitlines()
    for at, line in enumerate(lines):
        if line.strip().startswith("expr:"):
            text = line.split("expr:", 1)[1].strip()
            if text == ">-":
                indent = len(line) - len(line.lstrip())
                text = ""
                for more in lines[at + 1:]:
                    if len(more) - len(more.lstrip()) <= indent:
                        break
                    text += " " + more.strip()
            yield f"alerts.yaml:{at + 1}", text
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield f"dashboard.json: {panel['title']}", target["expr"].replace("$__rate_interval", "5m")


class Observe(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.addClassCleanup(os.environ.pop, "OTEL_EXPORTER_OTLP_ENDPOINT", None)
        cls.addClassCleanup(os.environ.pop, "OTEL_EXPORTER_OTLP_HEADERS", None)
        cls.collector = cls.enterClassContext(Collector())
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = cls.collector.endpoint
        os.environ["OTEL_EXPORTER_OTLP_HEADERS"] = "x-key=canary%2d1"
        cls.stack = cls.enterClassContext(WatchedStack(workers=1))
        batch = cls.stack.folder / "batch.json"
        batch.write_text(BATCH)
        answer = cls.stack.assay("submit", "--batch-file", batch, "--watch", "-o", "json", code=None)
        cls.batch = json.loads(answer)["batch"][0]["batch_id"]
        cls.jobs = cls.stack.jobs(cls.batch)

    def test_a_batch_shows_in_the_metrics(self):
        page = self.stack.scrape("coordinator")
        self.assertEqual(value(page, "assay_store_up"), 1)
        passed = value(page, 'assay_results_total{counted="true",outcome="passed"}')
        unsupported = value(page, 'assay_results_total{counted="true",outcome="unsupported"}')
        self.assertEqual([passed, unsupported], [1, 1], self.jobs)
        self.assertEqual(value(page, 'assay_queue_jobs{device="auto",dtype="float32",stage="test",route="any"}'), 0)
        self.assertEqual(value(page, 'assay_workers_connected{pool="none"}'), 1)
        self.assertEqual(value(page, 'assay_dispatch_seconds_count{stage="test"}'), 2)
        self.assertGreater(value(page, 'assay_blob_bytes_total{direction="out"}'), 0)
        self.assertEqual(value(page, 'assay_rpcs_total{method="BatchService.SubmitBatch",code="OK"}'), 1)
        self.assertGreater(value(page, "assay_store_commit_seconds_count"), 0)
        self.assertGreater(value(page, "process_resident_memory_bytes"), 1e6)
        worker = self.stack.scrape("worker-1")
        self.assertEqual(value(worker, "assay_worker_connected"), 1)
        self.assertEqual(value(worker, 'assay_worker_attempts_total{outcome="passed",stage="test"}'), 1)
        self.assertGreater(value(worker, 'assay_worker_stage_seconds_count{stage="run"}'), 0)
        self.assertGreater(value(worker, "assay_worker_cache_bytes"), 0)

    def test_metrics_keep_to_prometheus_rules(self):
        for name in ("coordinator", "worker-1"):
            page = self.stack.scrape(name)
            lint = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True)
            complaints = [line for line in (lint.stdout + lint.stderr).splitlines() if "assay_" in line]
            self.assertEqual(complaints, [])
            for metric in promql.served(page):
                self.assertRegex(metric, "^(assay|process|exposer)_")

    def test_every_alert_and_panel_finds_its_metrics(self):
        metrics = promql.served(self.stack.scrape("coordinator"))
        # What is served with TLS alone.
        with SecureStack() as secure:
            with_tls = promql.served(secure.scrape("coordinator"))
        self.assertIn("assay_certificate_end_timestamp_seconds", set(with_tls) - set(metrics))
        metrics = {**with_tls, **metrics}
        for metric, labels in promql.served(self.stack.scrape("worker-1")).items():
            for label, values in labels.items():
                metrics.setdefault(metric, {}).setdefault(label, set()).update(values)
            metrics.setdefault(metric, {})
        found = list(expressions())
        self.assertGreater(len(found), 40)
        for where, text in found:
            self.assertEqual(promql.faults(text, metrics), [], f"{where}: {text}")
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as rules:
            rules.write("groups: [{name: panels, rules: [" + ", ".join(
                json.dumps({"record": f"panel:{i}", "expr": text}) for i, (_, text) in enumerate(found)) + "]}]")
            rules.flush()
            check = subprocess.run(["promtool", "check", "rules", rules.name], capture_output=True, text=True)
            self.assertEqual(check.returncode, 0, check.stdout + check.stderr)

    def test_an_expression_over_what_is_not_served_is_found(self):
        metrics = promql.served(self.stack.scrape("coordinator"))
        for text, fault in (
                ("rate(assay_result_total[5m])", "assay_result_total is not served"),
                ('sum(assay_results_total{result="passed"})', "assay_results_total has no label result"),
                ('sum(assay_results_total{outcome="pass"})', "assay_results_total has no outcome=pass"),
                ("sum by (pol) (assay_workers_connected)", "no metric of it has the label pol"),
                ("vector(1)", "names no metric")):
            self.assertEqual(promql.faults(text, metrics), [fault])

    def test_a_batch_is_one_tree_of_spans(self):
        def whole():
            spans = [span for span in self.collector.all() if span["traceId"] == trace]
            names = [span["name"] for span in spans]
            return spans if sum(name.startswith("job ") for name in names) == 2 and "test" in names else None

        def root():
            return [span for span in self.collector.all() if span["name"] == "assay submit"]

        trace = until(root, "the client's span")[0]["traceId"]
        spans = until(whole, "the jobs' spans")
        ids = {span["spanId"]: span for span in spans}
        self.assertEqual(len(ids), len(spans), "a span's id is used twice")
        roots = [span for span in spans if "parentSpanId" not in span]
        self.assertEqual([span["name"] for span in roots], ["assay submit"])
        for span in spans:
            if span not in roots:
                self.assertIn(span["parentSpanId"], ids, span)
            self.assertLessEqual(int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"]), span)

        def path(span):
            above = ids.get(span.get("parentSpanId"))
            return (path(above) if above else []) + [f"{span['service']}:{span['name']}"]

        paths = [path(span) for span in spans]
        job = ["assay:assay submit", "assay-coordinator:SubmitBatch", "assay-coordinator:job bert"]
        attempt = job + ["assay-coordinator:attempt 1"]
        host = attempt + ["assay-worker:host", "assay-host:test", "assay-host:test_model_with_mock"]
        for wanted in (job + ["assay-coordinator:queued"], attempt + ["assay-worker:fetch"],
                       attempt + ["assay-worker:generate"], attempt + ["assay-worker:wait"], host,
                       host + ["assay-host:load"], host + ["assay-host:run"], host + ["assay-host:check"]):
            self.assertIn(wanted, paths)
        unsupported = [span for span in spans if span["name"] == "job roberta_of_nobody"]
        self.assertEqual(unsupported[0]["status"]["code"], 2)
        self.assertEqual({path for path, _ in self.collector.requests}, {"/v1/traces"})
        self.assertEqual({headers["x-key"] for _, headers in self.collector.requests}, {"canary-1"})

    def test_logs_are_objects_with_the_jobs_fields(self):
        job = f"{self.batch}.bert"
        for name, program, message in (("coordinator", "assay-coordinator", "result counted"),
                                       ("worker-1", "assay-worker", "attempt finished")):
            lines = [json.loads(line) for line in self.stack.log(name).splitlines()]
            for line in lines:
                self.assertEqual(line["program"], program)
                self.assertRegex(line["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
            found = [line for line in lines if line["message"] == message and line.get("job") == job]
            self.assertEqual(len(found), 1, lines)
            self.assertEqual([found[0][key] for key in ("batch", "attempt", "worker", "outcome")],
                             [self.batch, "1", "worker-1", "PASSED"])
            self.assertTrue(any("build" in line for line in lines))
            self.assertNotIn("canary", self.stack.log(name))

    def test_every_binary_says_its_version(self):
        said = set()
        for binary in ("assay", "assay-coordinator", "assay-worker", "assay-host", "assay-sandbox"):
            answer = subprocess.run([BIN / binary, "--version"], capture_output=True, text=True, check=True).stdout
            program, version = answer.split()[:2]
            self.assertEqual(program, binary)
            said.add(version)
        self.assertEqual(len(said), 1, said)
        page = self.stack.scrape("coordinator")
        self.assertIn(f'version="{said.pop()}"', page)

    def doctor(self, *arguments, code=0):
        ran = subprocess.run([BIN / "assay", "doctor", "-o", "json", *map(str, arguments)], capture_output=True,
                             text=True, cwd=SOURCE, timeout=120)
        self.assertEqual(ran.returncode, code, ran.stdout + ran.stderr)
        answer = json.loads(ran.stdout)
        for check in answer["check"]:
            self.assertIn(check["state"], ("ok", "warn", "fail"))
            self.assertTrue(check["saw"], check)
            if check["state"] == "fail":
                self.assertTrue(check["remedy"], check)
        return {check["check"]: check for check in answer["check"]}

    def test_doctor_finds_a_healthy_stack_healthy(self):
        checks = self.doctor("--address", self.stack.address, "--data-dir", self.stack.folder / "data", "--state-dir",
                             self.stack.folder / "worker-1")
        for name in ("client.build", "coordinator.answer", "coordinator.build", "coordinator.workers",
                     "clock.coordinator", "clock.store", "worker.host", "gpu.devices", "tls.used", "cache.blobs"):
            self.assertEqual(checks[name]["state"], "ok", checks[name])
        self.assertIn("a coordinator holds", checks["coordinator.running"]["saw"])
        self.assertIn("a worker holds", checks["worker.running"]["saw"])

    def test_doctor_says_what_is_wrong(self):
        checks = self.doctor("--address", "127.0.0.1:1", "--host-binary", "/nowhere/assay-host", "--data-dir",
                             SOURCE / "README.md", code=5)
        for name in ("coordinator.answer", "worker.host", "coordinator.data"):
            self.assertEqual(checks[name]["state"], "fail", checks[name])

    def test_metrics_stay_on_loopback_unless_told(self):
        for binary, more in (("assay-coordinator", ["--content-dir", str(SOURCE), "--listen", "127.0.0.1:0"]),
                             ("assay-worker", ["--state-dir", str(self.stack.folder / "other")])):
            refused = subprocess.run([BIN / binary, *more, "--metrics-listen", "0.0.0.0:0"], capture_output=True,
                                     text=True, timeout=60)
            self.assertEqual(refused.returncode, 2)
            self.assertIn("--insecure-metrics-anywhere", refused.stderr)


if __name__ == "__main__":
    unittest.main()
