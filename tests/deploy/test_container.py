"""The images, as far as they can be judged without building them: tests/deploy/images builds them."""

import functools
import glob
import json
import re
import subprocess
import unittest

import chart

DOCKERFILE = chart.SOURCE / "deploy" / "container" / "Dockerfile"
TARGETS = ("coordinator", "worker-cpu", "worker-cuda", "exporter", "cli")


def stages():
    """{name: (what it is from, [(instruction, rest)])} of the Dockerfile."""
    text = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.M))
    found, here = {}, None
    for line in filter(str.strip, text.splitlines()):
        instruction, rest = line.split(None, 1)
        if instruction == "FROM":
            parent, _, name = rest.split()
            here = found[name] = (parent, [])
        elif here:
            here[1].append((instruction, " ".join(rest.split())))
    return found


def steps(target):
    """The instructions that an image is made by, those of what it is from first."""
    parent, own = stages()[target]
    return (steps(parent) if parent in stages() else []) + own


def packages(target):
    found = []
    for instruction, rest in steps(target):
        for words in re.findall(r"apt-get install ([^&]*)", rest) if instruction == "RUN" else []:
            found += [word for word in words.split() if not word.startswith("-")]
    return found


@functools.cache
def dependencies():
    """{package: [those that it needs]} of everything installed here."""
    listed = subprocess.run(["dpkg-query", "-W", "-f", "${Package}\t${Essential}\t${Pre-Depends}, ${Depends}\n"],
                            capture_output=True, text=True, check=True).stdout
    return {line.split("\t")[0]: re.findall(r"(?:^|[,|])\s*([a-z0-9][a-z0-9+.-]*)", line.split("\t")[2])
            for line in listed.splitlines()}


def with_dependencies(names):
    found, todo = set(), list(names)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += dependencies().get(name, [])
    return found


@functools.cache
def owners():
    """{library: the Debian package that it is from} of every program's libraries. One look-up for all: each takes long."""
    paths = {library for target in TARGETS for program in programs(target) for library in libraries(program)}
    # A file may be known under /lib or /usr/lib, whichever its package says.
    both = [name for path in paths for name in (path.removeprefix("/usr"), "/usr" + path.removeprefix("/usr"))]
    listed = subprocess.run(["dpkg", "-S", *sorted(both)], capture_output=True, text=True).stdout
    found = {"/usr" + path.removeprefix("/usr"): package.split(":")[0]
             for package, path in (line.rsplit(": ", 1) for line in listed.splitlines())}
    return {path: found["/usr" + path.removeprefix("/usr")] for path in paths}


@functools.cache
def libraries(program):
    """Paths of the shared libraries of a program that are not LibTorch's, which has a folder of its own."""
    listed = subprocess.run(["ldd", chart.BIN / program], capture_output=True, text=True, check=True).stdout
    return [path for path in re.findall(r"=> (/\S+)", listed) if ".deps/" not in path]


@functools.cache
def programs(target):
    return [word.rsplit("/", 1)[1] for instruction, rest in steps(target) if instruction == "COPY"
            for word in rest.split() if word.startswith("/out/")]


class Images(unittest.TestCase):
    def test_hadolint_finds_nothing(self):
        ran = subprocess.run([chart.TOOLS / "venv" / "bin" / "hadolint", DOCKERFILE], capture_output=True, text=True)
        self.assertEqual((ran.returncode, ran.stdout), (0, ""))

    def test_the_targets_are_there(self):
        self.assertLessEqual(set(TARGETS), set(stages()))

    def test_every_library_of_a_program_is_installed_beside_it(self):
        for target in TARGETS:
            installed = with_dependencies(packages(target))
            self.assertTrue(programs(target), target)
            for program in programs(target):
                for library in libraries(program):
                    self.assertIn(owners()[library], installed, f"{target}: {program} needs {library}")

    def test_nothing_is_installed_that_builds_or_interprets(self):
        for target in TARGETS:
            found = with_dependencies(packages(target))
            refused = {name for name in found if re.match(r"(g\+\+|gcc(?!.*-base)|cpp|clang|cmake|make|perl$|binutils|libc6-dev|.*-dev$)", name)}
            if target != "exporter":
                refused |= {name for name in found if re.match(r"(lib)?python", name)}
            self.assertEqual(refused, set(), target)
        self.assertTrue(any(name.startswith("python3") for name in with_dependencies(packages("exporter"))))

    def test_every_image_ends_as_a_user_without_rights(self):
        for target in TARGETS:
            users = [rest for instruction, rest in steps(target) if instruction == "USER"]
            self.assertEqual(users[-1], "10001:10001", target)

    def test_what_is_copied_is_there(self):
        for name, (_, own) in stages().items():
            for instruction, rest in own:
                words = rest.split()
                if instruction != "COPY" or words[0] == "--from=build":
                    continue
                if words[0].startswith("--from="):
                    self.assertIn(words[0].removeprefix("--from="), stages())
                    continue
                for source in words[:-1]:
                    self.assertTrue(glob.glob(str(chart.SOURCE / source)), f"{name}: {source}")

    def test_entry_points_are_programs_of_their_image(self):
        for target in TARGETS:
            entry = json.loads([rest for instruction, rest in steps(target) if instruction == "ENTRYPOINT"][-1])
            self.assertIn(entry[-1].rsplit("/", 1)[1], programs(target), target)
            if entry[0].endswith("/tini"):
                self.assertIn("tini", packages(target))


if __name__ == "__main__":
    unittest.main()
