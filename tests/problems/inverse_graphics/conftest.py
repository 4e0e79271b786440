import pytest
from tabletop_helpers import generator

from fwdiff_lite.problems.inverse_graphics import tabletop


@pytest.fixture(scope="session")
def few_scenes():
    return tabletop.sample_scenes(12, generator(1))


@pytest.fixture(scope="session")
def front_cameras(few_scenes):
    return tabletop.sample_front_cameras(few_scenes, generator(2))
