"""Each module runs its machine once or a few times; its tests look at what came out."""

from __future__ import annotations

import re

import pytest
from machine import Machine


@pytest.fixture(scope="module")
def scenario(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """Makes an empty shared folder for each machine that a module runs."""

    def make(name: str) -> Machine:
        return Machine(tmp_path_factory.mktemp(re.sub(r"\W", "_", name)))

    return make


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-matrix", action="store_true", help="write benches/results/fault-matrix.md anew")
