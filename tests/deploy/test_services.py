"""Compose and systemd: what is written down there, as far as it can be judged without starting it."""

import functools
import re
import shlex
import subprocess
import tempfile
import pathlib
import unittest

import yaml

import chart
import test_container
import test_flags

UNITS = sorted((chart.SOURCE / "deploy" / "systemd").glob("*.service"))
# Of the Compose specification, what is used here: a key that is none of it is most likely a slip.
KEYS = {"build", "cap_drop", "command", "depends_on", "deploy", "environment", "healthcheck", "image", "ports", "profiles",
        "read_only", "restart", "security_opt", "stop_grace_period", "stop_signal", "tmpfs", "volumes"}


@functools.cache
def compose():
    return yaml.safe_load((chart.SOURCE / "deploy" / "compose.yaml").read_text())


def ours():
    return {name: service for name, service in compose()["services"].items() if name != "postgresql"}


class Compose(unittest.TestCase):
    def test_services_have_keys_that_exist_and_name_what_exists(self):
        for name, service in compose()["services"].items():
            self.assertEqual(set(service) - KEYS, set(), name)
            self.assertLessEqual(set(service.get("depends_on", [])), set(compose()["services"]), name)
            for volume in service.get("volumes", []):
                self.assertIn(volume.split(":")[0], compose()["volumes"], name)
        for name, service in ours().items():
            self.assertIn(service["build"]["target"], test_container.TARGETS, name)
            self.assertTrue((chart.SOURCE / "deploy" / service["build"]["context"] / service["build"]["dockerfile"]).exists())
            self.assertEqual(service["image"].split(":")[0], f"assay/{service['build']['target']}")

    def test_every_flag_exists(self):
        found = {fault for service in ours().values() for fault in test_flags.faults(
            test_flags.PROGRAMS[service["build"]["target"]], service["command"])}
        self.assertEqual(sorted(found), [])

    def test_services_of_ours_have_no_rights(self):
        for name, service in ours().items():
            self.assertTrue(service["read_only"], name)
            self.assertEqual(service["cap_drop"], ["ALL"], name)
            self.assertEqual(service["security_opt"], ["no-new-privileges:true"], name)

    def test_coordinators_are_reached_from_this_machine_alone(self):
        for service in compose()["services"].values():
            for port in service.get("ports", []):
                self.assertTrue(port.startswith("127.0.0.1:"), port)

    def test_no_password_is_written_down(self):
        for service in compose()["services"].values():
            for name, value in service.get("environment", {}).items():
                if "PASSWORD" in name:
                    self.assertTrue(value.startswith("${POSTGRES_PASSWORD:?"), name)


def settings(unit):
    """{key: [values]} of a unit's file."""
    found = {}
    for key, value in re.findall(r"^([A-Z][A-Za-z]+)=(.*)$", unit.read_text(), re.M):
        found.setdefault(key, []).append(value)
    return found


class Systemd(unittest.TestCase):
    def verify(self, text):
        with tempfile.TemporaryDirectory() as folder:
            unit = pathlib.Path(folder) / "assay-checked.service"
            # It wants the program to be there; this machine has it elsewhere.
            unit.write_text(re.sub(r"/usr/bin/(assay-\w+)", lambda name: str(chart.BIN / name[1]), text))
            ran = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
            return [line for line in ran.stderr.splitlines() if "assay-checked" in line]

    def test_systemd_understands_every_line(self):
        for unit in UNITS:
            self.assertEqual(self.verify(unit.read_text()), [], unit.name)
        self.assertTrue(any("ProtectSytem" in line for line in self.verify(
            UNITS[0].read_text().replace("ProtectSystem", "ProtectSytem"))))

    def test_units_expose_little(self):
        for unit in UNITS:
            ran = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=25", unit],
                                 capture_output=True, text=True)
            self.assertEqual(ran.returncode, 0, ran.stdout[-300:])

    def test_every_flag_exists(self):
        for unit in UNITS:
            program, *arguments = shlex.split(settings(unit)["ExecStart"][0])
            flags = [word for word in arguments if word.startswith("--")]
            known = test_flags.options(test_flags.help_of(program.rsplit("/", 1)[1]))
            self.assertEqual([flag for flag in flags if flag not in known], [], unit.name)

    def test_a_worker_that_is_stopped_is_let_finish(self):
        for unit in UNITS:
            if "worker" in settings(unit)["ExecStart"][0].split()[0]:
                self.assertEqual(settings(unit)["KillMode"], ["mixed"])
                self.assertGreaterEqual(int(settings(unit)["TimeoutStopSec"][0]), 900)


if __name__ == "__main__":
    unittest.main()
