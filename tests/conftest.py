from collections.abc import Iterator

import pytest
from meshes import fill

from mgic_geo.native import build


@pytest.fixture(scope="module", params=["compiled", "plain"])
def kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything once with the compiled kernels and once in plain PyTorch."""
    if request.param == "compiled":
        if build.library() is None:
            pytest.skip("no C compiler")
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "library", lambda *_: None)
        yield


@pytest.fixture
def root(tmp_path):
    """A folder with few meshes in ModelNet10's layout."""
    fill(tmp_path / "ModelNet10")
    return tmp_path
