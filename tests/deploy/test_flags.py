"""Every command line that is written down in deploy/ is one that the program takes."""

import functools
import re
import subprocess
import unittest

import chart

# By what runs it. The images' own entry points: tests/deploy/test_container.py.
PROGRAMS = {"coordinator": "assay-coordinator", "worker-cpu": "assay-worker", "worker-cuda": "assay-worker",
            "exporter": "assay-worker", "cli": "assay"}


@functools.cache
def help_of(program, *subcommand):
    ran = subprocess.run([chart.BIN / program, *subcommand, "--help"], capture_output=True, text=True)
    if ran.returncode:
        raise AssertionError(f"{program} {' '.join(subcommand)} --help: {ran.stdout}{ran.stderr}")
    return ran.stdout


def options(text):
    """Those of a help text, each with whether it takes a value."""
    # A value is a word in capitals; a name as wide as its column has its description there.
    return {name: bool(re.match("[A-Z]{2}", rest or ""))
            for line in text.splitlines() if re.match(r"  -", line)
            for names, rest in [re.match(r"  (\S+)(?: (\S.*)|(?:\s{2}.*)?$)?", line).groups()[:2]]
            for name in names.split(",")}


def subcommands(text):
    return re.findall(r"^  ([a-z][a-z-]*)  ", text.partition("Subcommands:")[2], re.MULTILINE)


def faults(program, arguments):
    """What of a command line its program would not take, in words."""
    path, found = (), []
    known = help_of(program)
    takes = options(known)
    for argument in arguments:
        if not argument.startswith("-"):
            if path or argument not in subcommands(known):
                return [*found, f"{' '.join((program, *path))} has no subcommand {argument}"]
            path = (argument,)
            takes = options(help_of(program, *path))
            continue
        name, has_value, _ = argument.partition("=")
        if name not in takes:
            found.append(f"{' '.join((program, *path))} has no {name}")
        elif takes[name] != bool(has_value):
            found.append(f"{' '.join((program, *path))}: {name} {'wants a' if takes[name] else 'takes no'} value")
    return found


def command_lines():
    """(where, program, arguments) of every container that runs a program of ours."""
    for case in chart.CASES:
        for name, pod in chart.pods(case):
            for container in chart.containers(pod):
                image = re.search(r"/([a-z-]+):", container["image"])
                if not image or image[1] not in PROGRAMS:
                    continue
                command = container.get("command", [PROGRAMS[image[1]]])[0].rsplit("/", 1)[-1]
                if command == "assay-accept-all":  # hands all it is given to `assay workers` and `assay accept`
                    for subcommand in ("workers", "accept"):
                        yield name, "assay", [subcommand, *container["args"]]
                elif command == "assay-taint":
                    yield name, "assay", ["workers", *container["args"]]
                else:
                    yield name, command, container.get("args", [])


class Flags(unittest.TestCase):
    def test_every_flag_of_a_rendered_command_exists(self):
        found = {fault for _, program, arguments in command_lines() for fault in faults(program, arguments)}
        self.assertEqual(sorted(found), [])

    def test_every_program_is_among_them(self):
        self.assertEqual({program for _, program, _ in command_lines()}, {"assay", "assay-coordinator", "assay-worker"})

    def test_a_flag_that_is_not_there_is_seen(self):
        self.assertEqual(faults("assay-worker", ["--slots=2", "--cpu-only"]), [])
        self.assertEqual(faults("assay-worker", ["--slot=2"]), ["assay-worker has no --slot"])
        self.assertEqual(faults("assay-worker", ["--cpu-only=yes"]), ["assay-worker: --cpu-only takes no value"])
        self.assertEqual(faults("assay-worker", ["--slots"]), ["assay-worker: --slots wants a value"])
        self.assertEqual(faults("assay", ["submit", "--watsch"]), ["assay submit has no --watsch"])
        self.assertEqual(faults("assay", ["sumbit"]), ["assay has no subcommand sumbit"])


if __name__ == "__main__":
    unittest.main()
