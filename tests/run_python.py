"""Runs the Python tests of a folder: usage run_python.py FOLDER. Writes their results beside GoogleTest's where
GTEST_OUTPUT names a folder."""

import os
import pathlib
import sys
import unittest
import xml.etree.ElementTree as ElementTree


class Recorder(unittest.TextTestResult):
    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.ended = {}

    def startTest(self, test):
        super().startTest(test)
        self.ended[test.id()] = None

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self.ended[test.id()] = self.failures[-1][1]

    def addError(self, test, error):
        super().addError(test, error)
        self.ended[test.id()] = self.errors[-1][1]


def main():
    here = pathlib.Path(sys.argv[1]).resolve()
    sys.path.insert(0, str(here))
    suite = unittest.defaultTestLoader.discover(str(here), pattern="test_*.py")
    result = unittest.TextTestRunner(resultclass=Recorder, verbosity=2).run(suite)

    folder = os.environ.get("GTEST_OUTPUT", "")
    if folder.startswith("xml:") and folder.endswith("/"):
        root = ElementTree.Element("testsuites", name=here.name)
        cases = ElementTree.SubElement(root, "testsuite", name=here.name)
        for name, why in result.ended.items():
            case = ElementTree.SubElement(cases, "testcase", name=name, status="run")
            if why is not None:
                ElementTree.SubElement(case, "failure", message=why)
        ElementTree.ElementTree(root).write(pathlib.Path(folder[4:]) / f"{here.name}.xml", encoding="utf-8")
    return 0 if result.wasSuccessful() and result.testsRun else 1


if __name__ == "__main__":
    sys.exit(main())
