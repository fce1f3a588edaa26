"""The Helm chart, without a cluster: linted, rendered over a matrix of values, and held against schemas and rules."""

import copy
import functools
import subprocess
import tempfile
import unittest

import kubernetes_validate
import yaml

import chart
import pod_security

KUBERNETES = ("1.27", "1.32", "1.37")
# It reads megabytes of schemas anew for each object.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)
# Of kinds that Kubernetes' schemas do not have: fields that their own documentation calls required.
CUSTOM = {
    ("keda.sh/v1alpha1", "ScaledObject"): (
        "spec.scaleTargetRef.name", "spec.triggers.0.type", "spec.triggers.0.metadata.scalerAddress",
        "spec.triggers.0.metadata.pool"),
    ("keda.sh/v1alpha1", "TriggerAuthentication"): (
        "spec.secretTargetRef.0.parameter", "spec.secretTargetRef.0.name", "spec.secretTargetRef.0.key"),
    ("cert-manager.io/v1", "Certificate"): ("spec.secretName", "spec.issuerRef.name", "spec.commonName"),
    ("cert-manager.io/v1", "Issuer"): (),
    ("monitoring.coreos.com/v1", "ServiceMonitor"): ("spec.selector.matchLabels", "spec.endpoints.0.port"),
}


def field(document, path):
    for key in path.split("."):
        document = document[int(key)] if isinstance(document, list) else document.get(key)
        if document is None:
            return None
    return document


def invalid(document, version):
    """Why a document is no object of that version of Kubernetes, or None."""
    required = CUSTOM.get((document["apiVersion"], document["kind"]))
    if required is not None:
        missing = [path for path in required if not field(document, path)]
        return f"{document['kind']} {document['metadata']['name']} lacks {missing}" if missing else None
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return f"{document['kind']} {document['metadata']['name']}, Kubernetes {version}: {error}"
    return None


def selects(labels, pod):
    return all(pod["metadata"].get("labels", {}).get(key) == value for key, value in labels.items())


class Chart(unittest.TestCase):
    maxDiff = 4000

    def test_lint_finds_nothing(self):
        for case, file in chart.CASES.items():
            with self.subTest(case=case):
                chart.helm("lint", "--strict", chart.CHART, *(["--values", file] if file else []))

    def test_every_object_is_one_of_every_kubernetes(self):
        for case in chart.CASES:
            for document in chart.objects(case):
                for version in KUBERNETES:
                    self.assertIsNone(invalid(document, version), case)

    def test_an_object_with_a_wrong_field_is_seen(self):
        deployment = next(document for document in chart.objects("postgresql") if document["kind"] == "Deployment")
        wrong = copy.deepcopy(deployment)
        wrong["spec"]["template"]["spec"]["containers"][0]["imagePullPolcy"] = "Always"
        self.assertIsNone(invalid(deployment, "1.37"))
        self.assertIn("imagePullPolcy", invalid(wrong, "1.37"))
        scaled = next(document for document in chart.objects("postgresql") if document["kind"] == "ScaledObject")
        wrong = copy.deepcopy(scaled)
        del wrong["spec"]["triggers"][0]["metadata"]["pool"]
        self.assertIn("metadata.pool", invalid(wrong, "1.37"))

    def test_every_pod_is_restricted(self):
        for case in chart.CASES:
            for name, pod in chart.pods(case):
                self.assertEqual(pod_security.violations(pod), [], name)
                for container in chart.containers(pod):
                    self.assertTrue(container["securityContext"]["readOnlyRootFilesystem"], name)
                    self.assertIn("memory", container["resources"]["limits"], name)

    def test_a_pod_that_is_not_restricted_is_seen(self):
        _, pod = chart.pods("plain")[0]
        for change, words in (
                (lambda p: p["spec"].update(hostNetwork=True), "hostNetwork"),
                (lambda p: p["spec"]["volumes"].append({"name": "x", "hostPath": {"path": "/"}}), "hostPath"),
                (lambda p: p["spec"]["securityContext"].pop("runAsNonRoot"), "runAsNonRoot"),
                (lambda p: p["spec"]["securityContext"].pop("seccompProfile"), "seccompProfile"),
                (lambda p: p["spec"]["containers"][0]["securityContext"].pop("capabilities"), "capabilities"),
                (lambda p: p["spec"]["containers"][0]["securityContext"].update(allowPrivilegeEscalation=True), "Escalation")):
            wrong = copy.deepcopy(pod)
            change(wrong)
            self.assertEqual(len(pod_security.violations(wrong)), 1)
            self.assertIn(words, pod_security.violations(wrong)[0])

    def test_only_the_tainting_pod_may_talk_to_kubernetes(self):
        for case in chart.CASES:
            for name, pod in chart.pods(case):
                self.assertEqual(pod["spec"]["automountServiceAccountToken"], name.endswith("-taint"), name)

    def test_probes_ask_the_health_service_where_a_kubelet_can(self):
        """Which speaks no TLS: then the port alone is looked at."""
        kinds = {}
        for case in chart.CASES:
            for name, pod in chart.pods(case):
                for container in chart.containers(pod):
                    if "coordinator" not in name or "readinessProbe" not in container:
                        continue
                    tls = any(word.startswith("--tls-cert") for word in container["args"])
                    kinds[tls] = kinds.get(tls, 0) + 1
                    probes = {kind: container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")}
                    for kind, probe in probes.items():
                        self.assertEqual("grpc" in probe, not tls, f"{name}: {kind}")
                    if not tls:
                        self.assertEqual(probes["readiness"]["grpc"]["service"], "assay.v1.BatchService")
                        self.assertNotIn("service", probes["liveness"]["grpc"], "a store that is away is no reason")
        self.assertEqual(set(kinds), {True, False}, "cases of both are looked at")

    def test_renderings_are_the_golden_ones(self):
        for case in chart.GOLDEN:
            golden = (chart.HERE / "golden" / f"{case}.yaml").read_text()
            self.assertEqual(golden, chart.template(case), f"tests/deploy/renew writes {case}.yaml anew")

    def test_values_that_are_wrong_are_refused_with_the_reason(self):
        for refused in yaml.safe_load((chart.HERE / "refused.yaml").read_text()):
            with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                yaml.safe_dump(refused["values"], file)
                said = chart.helm("template", chart.RELEASE, chart.CHART, "--values", file.name, code=1)
                self.assertIn(refused["why"], said)

    def test_what_refers_to_pods_finds_some(self):
        for case in chart.CASES:
            pods = [pod for _, pod in chart.pods(case)]
            documents = chart.objects(case)
            workloads = {document["metadata"]["name"] for document in documents if document["kind"] in chart.WORKLOADS}
            for document in documents:
                name, spec = f"{case}: {document['kind']} {document['metadata']['name']}", document.get("spec", {})
                if document["kind"] == "Service":
                    found = [pod for pod in pods if selects(spec["selector"], pod)]
                    self.assertTrue(found, name)
                    for port in spec["ports"]:
                        for pod in found:
                            ports = [p["name"] for container in chart.containers(pod) for p in container.get("ports", [])]
                            self.assertIn(port["targetPort"], ports, name)
                elif document["kind"] in ("PodDisruptionBudget", "Deployment", "StatefulSet"):
                    found = [pod for pod in pods if selects(spec["selector"]["matchLabels"], pod)]
                    self.assertEqual(len(found), 1, name)
                elif document["kind"] == "ScaledObject":
                    self.assertIn(spec["scaleTargetRef"]["name"], workloads, name)
                    workload = next(d for d in documents if d["metadata"]["name"] == spec["scaleTargetRef"]["name"])
                    self.assertNotIn("replicas", workload["spec"], name)  # or each upgrade would undo the scaling

    def test_what_pods_mount_is_there(self):
        for case in chart.CASES:
            maps = {document["metadata"]["name"] for document in chart.objects(case) if document["kind"] == "ConfigMap"}
            claims = {claim["metadata"]["name"] for document in chart.objects(case)
                      for claim in document.get("spec", {}).get("volumeClaimTemplates", [])}
            for name, pod in chart.pods(case):
                volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
                for volume in pod["spec"]["volumes"]:
                    if "configMap" in volume:
                        self.assertIn(volume["configMap"]["name"], maps, name)
                for container in chart.containers(pod):
                    for mount in container["volumeMounts"]:
                        self.assertIn(mount["name"], volumes | claims, name)

    def test_no_secret_is_in_a_rendering(self):
        for case in chart.CASES:
            for document in chart.objects(case):
                self.assertNotEqual(document["kind"], "Secret")
            for name, pod in chart.pods(case):
                for container in chart.containers(pod):
                    for variable in container.get("env", []):
                        if variable["name"] in ("PGPASSWORD", "POSTGRES_PASSWORD", "ASSAY_DATABASE", "HF_TOKEN"):
                            self.assertIn("secretKeyRef", variable["valueFrom"], name)


class Pools(unittest.TestCase):
    def test_the_pools_file_is_one(self):
        for case in chart.CASES:
            file = next(d for d in chart.objects(case) if d["metadata"]["name"].endswith("-pools"))
            ran = subprocess.run(["protoc", "-Iproto", "--encode=assay.v1.Pools", "assay/v1/pools.proto"],
                                 input=file["data"]["pools.textproto"].encode(), capture_output=True, cwd=chart.SOURCE)
            self.assertEqual((ran.returncode, ran.stderr), (0, b""), case)


class NetworkPolicies(unittest.TestCase):
    """Read as Kubernetes reads them: what no policy of a pod lets through is refused, once one selects it."""

    def allowed(self, case, source, target, port):
        documents = [document for document in chart.objects(case) if document["kind"] == "NetworkPolicy"]
        return (self._one_way(documents, source, target, "Egress", "egress", "to", port, target) and
                self._one_way(documents, target, source, "Ingress", "ingress", "from", port, target))

    @staticmethod
    def _matches(selector, pod):
        for expression in selector.get("matchExpressions", []):
            if pod["metadata"]["labels"].get(expression["key"]) not in expression["values"]:
                return False
        return selects(selector.get("matchLabels", {}), pod)

    def _one_way(self, documents, pod, other, kind, rules, peers, port, target):
        own = [d["spec"] for d in documents
               if kind in d["spec"]["policyTypes"] and self._matches(d["spec"]["podSelector"], pod)]
        if not own:
            return True
        names = {p["name"]: p["containerPort"] for c in chart.containers(target) for p in c.get("ports", [])}
        for spec in own:
            for rule in spec.get(rules, []):
                ports = [names.get(p["port"], p["port"]) for p in rule["ports"]]
                if port in ports and any("podSelector" in peer and "namespaceSelector" not in peer and
                                         self._matches(peer["podSelector"], other) for peer in rule[peers]):
                    return True
        return False

    def test_who_reaches_whom(self):
        pods = {name.split()[-1].removeprefix("fleet-assay-"): pod for name, pod in chart.pods("postgresql")}
        expected = {("cpu", "coordinator", 7420), ("exporter", "coordinator", 7420), ("h100", "coordinator", 7420),
                    ("mig", "coordinator", 7420), ("test", "coordinator", 7420), ("accept", "coordinator", 7420),
                    ("taint", "coordinator", 7420), ("coordinator", "postgresql", 5432)}
        found = {(a, b, port) for a in pods for b in pods for port in (7420, 5432, 9420)
                 if self.allowed("postgresql", pods[a], pods[b], port)}
        self.assertEqual(found, expected)

    def test_every_pod_is_denied_by_default(self):
        for case in chart.CASES:
            if case == "plain":
                continue
            deny = [d["spec"] for d in chart.objects(case)
                    if d["kind"] == "NetworkPolicy" and not d["spec"].get("ingress") and not d["spec"].get("egress")]
            self.assertEqual(len(deny), 1)
            self.assertEqual(deny[0]["policyTypes"], ["Ingress", "Egress"])
            for name, pod in chart.pods(case):
                self.assertTrue(self._matches(deny[0]["podSelector"], pod), name)


class Workers(unittest.TestCase):
    def pool(self, name):
        return next(d for d in chart.objects("postgresql")
                    if d["kind"] == "Deployment" and d["metadata"]["name"] == f"fleet-assay-{name}")

    def test_a_pool_drains_within_its_grace_period(self):
        for name in ("cpu", "exporter", "h100", "mig"):
            pod = self.pool(name)["spec"]["template"]["spec"]
            self.assertEqual(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"], ["/usr/bin/assay-drain"])
        self.assertEqual(self.pool("h100")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"], 3600)
        self.assertEqual(self.pool("mig")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"], 900)

    def test_a_gpu_is_asked_for_and_told(self):
        container = self.pool("mig")["spec"]["template"]["spec"]["containers"][0]
        self.assertEqual(container["resources"]["limits"]["nvidia.com/mig-1g.10gb"], 2)
        self.assertLessEqual({"--label=gpu=H100", "--label=mig=1g.10gb", "--label=pool=mig", "--gpu-slots=1"},
                             set(container["args"]))
        self.assertNotIn("--cpu-only", container["args"])
        self.assertEqual(self.pool("mig")["spec"]["strategy"]["rollingUpdate"]["maxSurge"], 0)
        self.assertIn("--cpu-only", self.pool("cpu")["spec"]["template"]["spec"]["containers"][0]["args"])

    def test_a_swept_pool_sweeps_the_devices_that_it_works_on(self):
        pod = self.pool("h100")["spec"]["template"]["spec"]
        self.assertEqual(pod["initContainers"][0]["resources"], pod["containers"][0]["resources"])
        self.assertEqual(pod["initContainers"][0]["image"], pod["containers"][0]["image"])


if __name__ == "__main__":
    unittest.main()
