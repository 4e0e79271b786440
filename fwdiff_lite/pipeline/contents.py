"""A Jupyter server extension: jupytext's contents manager for the notebooks of this checkout, without file times.

`python -m fwdiff_lite.pipeline.contents` enables it for the Jupyter server of the Python that runs it. make and Binder
run it in their environments. It changes nothing for files outside the checkout that the package was installed from.
"""

import sys
from pathlib import Path

from jupytext import TextFileContentsManager
from tornado.web import HTTPError

from fwdiff_lite.pipeline.pairs import edited_separately, edited_separately_text, normal_form, pair_of
from fwdiff_lite.storage.files import repo_root, write_json

EXTENSION = "fwdiff_lite.pipeline.contents"


class PairedNotebooks(TextFileContentsManager):
    """Opens the cells of the source with the outputs of the notebook. Saves both files, the notebook in normal form."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.register_pre_save_hook(normalise)

    def get(self, path, content=True, type=None, format=None, **options):
        """A file's model. HTTPError 409, with both remedies in its message, if the notebook was edited separately."""
        if content and type in (None, "notebook") and (name := self.pair(path)) and edited_separately(name):
            raise HTTPError(409, edited_separately_text(name))
        return super().get(path, content=content, type=type, format=format, **options)

    def get_config(self, *arguments, **options):
        """jupytext's settings, without its check of file times, which `edited_separately` replaces."""
        config = super().get_config(*arguments, **options)
        config.outdated_text_notebook_margin = float("inf")
        return config

    def pair(self, path: str) -> str | None:
        """The name of the pair that a path of the server belongs to."""
        return pair_of(Path(self._get_os_path(path)).resolve())


def normalise(model: dict, path: str, contents_manager: PairedNotebooks, **_) -> None:
    """Brings a notebook of a pair to its normal form before it is written, so that an unchanged one stays as it is."""
    if model["type"] == "notebook" and contents_manager.pair(path):
        model["content"] = normal_form(model["content"])


def enable() -> None:
    """Writes the configuration by which the Jupyter server of this environment loads the extension."""
    # `jupyter server extension enable` refuses an extension that no configuration names yet
    path = Path(sys.prefix) / "etc" / "jupyter" / "jupyter_server_config.d" / "fwdiff-lite.json"
    write_json(path, {"ServerApp": {"jpserver_extensions": {EXTENSION: True}}})


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": EXTENSION}]


def _load_jupyter_server_extension(server) -> None:
    """Replaces the server's contents manager. jupytext's extension does the same, but keeps a subclass of its own."""
    if not (repo_root() / "notebooks" / "py").is_dir():
        return  # the package was installed without a checkout
    server.contents_manager_class = PairedNotebooks
    server.contents_manager = PairedNotebooks(parent=server, log=server.log)
    server.session_manager.contents_manager = server.contents_manager
    server.web_app.settings["contents_manager"] = server.contents_manager


if __name__ == "__main__":
    enable()
