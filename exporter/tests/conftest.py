"""Tests run from anywhere: the package lies one folder up."""

import pathlib
import sys

import pytest
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def pytest_addoption(parser):
    parser.addoption("--assay", metavar="DIR", help="folder of the program `assay`, for tests that run it")
