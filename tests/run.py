"""Runs ctest in a build folder and counts single tests, not binaries: usage run.py BUILD_DIR [ctest arguments].

A binary that dies before it has written its results counts as one failed test. Exits 1 when a test failed or none ran.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree


def main():
    build = pathlib.Path(sys.argv[1]).resolve()
    results = build / "test-results"
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    jobs = str(min(2, os.cpu_count() or 1))
    command = ["ctest", "--test-dir", str(build), "--output-on-failure", "--no-tests=error", "-j", jobs,
               "--output-junit", str(results / "ctest.xml")]
    # What tests leave behind goes with this folder; its path is short because sockets' paths must be.
    with tempfile.TemporaryDirectory(prefix="assay_", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)  # PostgreSQL's server, started as another user where root runs the tests, has its data there
        ran = subprocess.run(command + sys.argv[2:], env=dict(
            os.environ, GTEST_OUTPUT=f"xml:{results}/", TMPDIR=folder, TEST_TMPDIR=f"{folder}/"))

    passed = failed = skipped = 0
    counted = set()
    for file in results.glob("*.xml"):
        if file.name == "ctest.xml":
            continue
        root = ElementTree.parse(file).getroot()
        counted.add(file.stem)
        for case in root.iter("testcase"):
            if case.find("failure") is not None or case.find("error") is not None:
                failed += 1
            elif case.find("skipped") is not None or case.get("status") == "notrun":
                skipped += 1
            else:
                passed += 1
    ctest = results / "ctest.xml"
    if not ctest.exists():
        print("0 passed, 1 failed")
        return 1
    ended_badly = []
    for case in ElementTree.parse(ctest).getroot().iter("testcase"):
        name = re.sub(r"\W", "_", case.get("name"))
        bad = case.get("status") == "fail"
        if case.get("name") not in counted and name not in counted:
            passed, failed = (passed, failed + 1) if bad else (passed + 1, failed)
        if bad:
            ended_badly.append(case.get("name"))
    if ended_badly and failed == 0:
        failed = len(ended_badly)  # all its tests passed, and then the binary died
    if ended_badly:
        print("failed:", ", ".join(sorted(ended_badly)))
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""), flush=True)
    return 1 if failed or passed == 0 or ran.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
