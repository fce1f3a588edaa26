"""The chart as helm renders it, and the tools that check it."""

import functools
import os
import pathlib
import subprocess

import yaml

SOURCE = pathlib.Path(__file__).resolve().parents[2]
HERE = SOURCE / "tests" / "deploy"
CHART = SOURCE / "deploy" / "helm" / "assay"
TOOLS = SOURCE / ".deps" / "deploy"
BIN = pathlib.Path(os.environ.get("ASSAY_BUILD_DIR", SOURCE / "build" / "release")) / "bin"
RELEASE, NAMESPACE = "fleet", "tests"
# None: the chart's own values.
CASES = {"default": None, **{file.stem: file for file in sorted((HERE / "cases").glob("*.yaml"))}}
GOLDEN = ("default", "external")
WORKLOADS = ("Deployment", "StatefulSet", "Job", "CronJob", "Pod", "DaemonSet")


def helm(*arguments, code=0):
    """Standard output and error of helm together. AssertionError where it does not end with `code` (None: with any)."""
    ran = subprocess.run([TOOLS / "bin" / "helm", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                         env=dict(os.environ, HELM_CONFIG_HOME="/nonexistent", HELM_CACHE_HOME="/nonexistent"))
    if code is not None and ran.returncode != code:
        raise AssertionError(f"helm {' '.join(map(str, arguments))} gave {ran.returncode}:\n{ran.stdout}")
    return ran.stdout


@functools.cache
def template(case):
    """What `helm template` makes of a case, as text."""
    values = ["--values", CASES[case]] if CASES[case] else []
    return helm("template", RELEASE, CHART, "--namespace", NAMESPACE, *values)


@functools.cache
def objects(case):
    """Its documents; not to be changed."""
    return [document for document in yaml.load_all(template(case), yaml.CSafeLoader) if document]


def pod_template(workload):
    """metadata and spec of a workload's pods."""
    spec = workload["spec"]
    if workload["kind"] == "Pod":
        return workload
    if workload["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    return spec["template"]


def pods(case):
    """(name of the workload, its pods' template) of every workload of a case."""
    return [(f"{case}: {document['kind']} {document['metadata']['name']}", pod_template(document))
            for document in objects(case) if document["kind"] in WORKLOADS]


def containers(pod):
    return pod["spec"].get("initContainers", []) + pod["spec"]["containers"]
