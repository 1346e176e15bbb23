"""Serve the audit app."""

from dataclasses import dataclass
from functools import partial

from hf_cap.cli.core import Command, Result, Values
from hf_cap.utils import option, required


@dataclass(frozen=True, kw_only=True)
class _AppArguments:
    run: str = required("Folder of `hf-cap fit`, or a classifier: folder, Hub id.")
    baseline: str | None = option(None, "Classifier without alignment. Default: that of `fit`.")
    priors: str | None = option(None, "Folder of priors, to show. Default: that of `fit`.")
    shortcuts: str | None = option(
        None, "YAML file of shortcuts; decisions are saved in it. Default: that of `fit`."
    )
    host: str = option("127.0.0.1", "Address to listen at; the default is for this computer alone.")
    port: int | None = option(None, "Port. Default: the first free one from 7860 on.")
    share: bool = option(False, "Also open a public address, through a server of gradio.")


APP = "runs/mine"


@partial(Command, APP, [_AppArguments], positional="run")
def app(values: Values) -> Result:
    """Look at classifiers in the browser: edit a text, see words and probabilities change.

    Decisions about shortcuts are saved in the file that `hf-cap fuse --shortcuts` reads.
    """
    from hf_cap.app import serve

    given = vars(values.build(_AppArguments))
    serve(given.pop("run"), **given)
    return Result({}, "")
