"""Publish the audit app as a Space of the Hub."""

from pathlib import Path
from typing import Any

import yaml

from hf_cap.app import find_parts
from hf_cap.cards import CARD, RUN_FILE, TAGS, PushOptions
from hf_cap.embedded import resolve_model
from hf_cap.hub import publish, write_model
from hf_cap.utils import read_json, versions

_APP = '''"""Shows a classifier in the audit app of hf_cap."""

from pathlib import Path
from typing import Any

from hf_cap.app import serve

HERE = Path(__file__).parent
serve({model}, baseline={baseline}, host=None)
'''
_ABOUT = """
# {name}

Type a text, leave words out, and see what the classifier makes of it and which words speak for its label.
Made with [hf_cap](https://arxiv.org/abs/2512.14719) by `hf-cap push space`.
"""


def push_space(model: str, options: PushOptions, *, token: str | None = None) -> Path:
    """Stage a Space with the audit app of a model and, if `options.push` is set, upload it.

    A local model goes into the Space, with its baseline where it is of `hf-cap fit`; one on the Hub is
    loaded from there. Texts, priors and decisions stay on this machine.
    """
    resolve_model(model)  # a folder that is not there is no Hub id
    parts, folder = find_parts(model), Path(model).expanduser()
    is_local = folder.is_dir()

    def write(target: Path) -> None:
        places = {name: repr(place) for name, place in parts.models.items()}
        for name, place in parts.models.items() if is_local else ():
            (target / name).mkdir()
            record = Path(place) / RUN_FILE
            known = read_json(record, {"alignment?": dict}) if record.is_file() else {}
            write_model(Path(place), target / name, known)
            places[name] = f'str(HERE / "{name}")'
        baseline = places.pop("baseline", None)
        (shown,) = places.values()
        facts: dict[str, Any] = {
            "title": options.named()["name"],
            "sdk": "gradio",
            "app_file": "app.py",
        }
        facts |= {"sdk_version": versions(["gradio"])["gradio"], "license": options.license}
        metadata = {name: value for name, value in facts.items() if value}
        metadata |= {"tags": list(TAGS)} | ({} if is_local else {"models": [model]})
        front = yaml.safe_dump(metadata, sort_keys=False)
        card = f"---\n{front}---\n{_ABOUT.format(name=facts['title'])}"
        (target / CARD).write_text(card, encoding="utf-8")
        code = _APP.format(model=shown, baseline=baseline)
        (target / "app.py").write_text(code, encoding="utf-8")
        (target / "requirements.txt").write_text("hf-cap[app]\n", encoding="utf-8")

    place = folder / "space" if is_local else Path(f"{folder.name}-space").absolute()
    return publish(options, "space", write, place, token=token)
