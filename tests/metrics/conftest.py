import pytest
from toy_posterior import ToyPosterior, seed


@pytest.fixture
def toy() -> ToyPosterior:
    return ToyPosterior(1000, 256, seed(1))
