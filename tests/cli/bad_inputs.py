"""Kinds of bad input: each spoils the current folder, or the words of a command that it returns."""

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import torch
from safetensors.torch import save_file

from hf_cap.cli import load_command

GOOD = {
    "fit": "fit data --output_dir out --extract.model {llm} --train.model {encoder}",
    "extract": "extract --dataset data --output_dir out --model {llm}",
    "fuse": "fuse --dataset prior --output_dir out",
    "audit": "audit --dataset prior --output_dir out",
    "shortcuts": "shortcuts --dataset data --output_dir out --language_model {llm} --encoder none",
    "elicit": "elicit --dataset table.csv --output_dir out --model {llm} --label_column label",
    "train": "train --dataset prior --model {encoder} --output_dir out --report_to none",
    "table": "train --task tabular --dataset table.csv --label_column label --output_dir out "
    "--alignment_weight 0 --report_to none",
    "attack": "attack --dataset data --output_dir out --kind keyword_addition",
    "evaluate": "evaluate --model model --dataset data --output_dir out",
    "calibrate": "calibrate --model model --dataset data --split test --coverage 0.5",
    "prune": "prune --model model --dataset data --output_dir out --units 0.1",
    "judge": "judge --model model --dataset attacked --verdicts verdicts.csv --judge {llm}",
    "export": "export --model model --output_dir out",
    "whole": "export --model delta --output_dir out --format whole",
    "report": "report model --output out/report.html",
    "app": "app model",
    "push": "push model --folder model --repo_id me/model --output_dir out",
    "priors": "push priors --folder prior --repo_id me/priors --output_dir out",
    "scores": "push scores --folder scores.json --repo_id me/scores --output_dir out",
    "metric": "push metric --folder alignment --repo_id me/alignment --output_dir out",
    "space": "push space --folder model --repo_id me/space --output_dir out",
    "demo": "demo --output_dir out",
    "env": "env",
}
"""Commands that succeed or reach their first compute, in a folder with `data`, `prior` and the rest."""
READS_TRAIN = ("fit", "extract", "shortcuts", "attack", "prune")
READS_TEST = ("evaluate", "calibrate")
READS_PRIOR = ("fuse", "audit", "train")


@dataclass
class Case:
    """A folder of good inputs, and what is drawn for it."""

    number: int
    draw: random.Random
    room: Path

    def good(self, *names: str) -> list[str]:
        """The words of one of these commands, by default of any."""
        line = GOOD[self.draw.choice(names or list(GOOD))]
        return line.format(llm=self.room / "llm", encoder=self.room / "encoder").split()

    def choose(self, *values: Any) -> Any:
        return self.draw.choice(values)


def bad_flag(case: Case) -> list[str]:
    words = case.good()
    command = load_command(words[0])
    leaves = {f"{g.start}{name}": leaf for g in command.groups for name, leaf in g.settings.items()}
    name = case.draw.choice([*leaves])
    kind = leaves[name][0]
    typed = [each for each in get_args(kind) if each is not type(None)] or [kind]
    if typed[0] is bool:
        return [*words, f"--{name}", case.choose("maybe", "2", "", "truee")]
    if typed[0] is int:
        return [*words, f"--{name}", case.choose("many", "1.5", "nan", "inf", "0x10", "1,000", "²")]
    if typed[0] is float:
        return [*words, f"--{name}", case.choose("much", "nan", "-inf", "40%", "0,5", "1e")]
    if get_origin(kind) is Literal:
        return [*words, f"--{name}", case.choose("", "no-such", "NONE?", "\x1b[31m")]
    if kind is str:
        return [*words, f"--{name}", *case.choose((), ("two", "words"))]
    strays = ([f"--{name}x", "1"], [f"--{name}.{name}", "1"], ["---"], ["--", "1"], ["--no_such"])
    return [*words, *case.choose(*strays)]


RANGES = {
    "fit": ("test_size 0", "test_size 1", "test_size -1", "seeds", "controls none-such",
            "controls shuffled shuffled", "seeds -1", "seeds 1 1", "seeds 99999999999",
            "train.output_dir x", "train.seed 3", "train.optim none", "train.num_train_epochs -1",
            "train.prior_column x",
            "train.eval_strategy epoch", "train.model /none/such", "train.deepspeed none.json",
            "train.alignment_weight -1", "evaluate.batch_size 0", "extract.batch_size -4",
            "report.examples -1", "labels only", "extract.sources nothing"),
    "extract": ("cap.n 0", "cap.n -3", "limit 0", "limit -1", "budget 0", "shard 0/2", "shard 3/2", "shard 1",
                "shard 1/99", "batch_size 0", "lm.timeout -1",
                "lm.max_retries -1", "lm.max_concurrency 0", "lm.token_budget 0", "word_pattern (",
                "lm.prefix_memory -1", "sources", "sources nothing", "splits",
                "prompt.demonstrations -1", "cap.penalty -1", "cap.rivals -1", "lm.base_url nowhere",
                "lm.base_url http://", "train_split none-such", "labels lost_card", "lm.device abacus",
                "text_column none-such", "label_column none-such", "text_column label"),
    "fuse": ("weights cap=-1", "weights nothing=1", "weights cap=1 cap=2", "weights cap",
             "weights cap=x", "weights cap=nan"),
    "audit": ("output_dir table.csv", "top_k 0", "keywords 0", "pairs -1", "split none-such",
              "reference /none/such", "shortcuts /none/such"),
    "shortcuts": ("false_discovery_rate 2", "relevant -1", "fewest_texts 0", "background -1", "top 0"),
    "elicit": ("estimates 0", "attempts -1", "temperature -1", "max_new_tokens 0", "max_levels 0",
               "label_column none-such"),
    "train": ("alignment_weight -1", "alignment_weight inf", "alignment_fraction 2", "max_length 0",
              "attribution_steps 0", "attribution_rows -1", "word_dropout 2", "learning_rate -1",
              "per_device_train_batch_size 0", "lora.rank -1", "lora.alpha 0", "eval_split none-such",
              "max_grad_norm inf", "prior_column none-such", "attribution_backward_steps 9",
              "finite_difference_step 0", "num_train_epochs nan", "num_train_epochs -1",
              "metric_for_best_model luck", "label_smoothing_factor 3", "dataloader_num_workers -1",
              "seed -1", "resume_from_checkpoint none-such"),
    "table": ("hidden_sizes 0", "hidden_sizes -3", "scores /none/such", "label_column none-such",
              "metric_for_best_model loss_align"),
    "attack": ("limit 0", "keywords 0", "keyword_texts 0", "split none-such", "seed x",
               "constrained true"),
    "evaluate": ("percentages 0", "percentages 101", "percentages", "soft_samples 0",
                 "attribution_steps 0", "batch_size 0", "max_length 0", "concepts -1", "split none-such"),
    "calibrate": ("coverage 0", "coverage 1", "coverage -1", "coverage 2", "split none-such"),
    "prune": ("heads 1", "units -1", "batches 0", "alignment inf", "split none-such", "score luck"),
    "judge": ("sample 49", "sample -1", "split none-such", "dataset data", "verdicts data",
              "verdicts /proc/x/y", "lm.device abacus", "lm.store data", "lm.max_concurrency 0",
              "base_url nowhere", "base_url http://"),
    "export": ("format zip", "format delta", "format whole", "output_dir model", "output_dir table.csv"),
    "whole": ("model none", "output_dir model", "base x y", "drop nan", "rescale inf"),
    "app": ("port -1", "port 65536", "host none.invalid", "priors /none/such", "priors data",
            "shortcuts /none/such", "shortcuts data"),
    "demo": ("seeds", "seeds -1", "seeds 1 1", "recipe none", "recipe table.csv", "output_dir table.csv"),
    "env": ("json maybe", "quiet 2", "config none.yaml"),
    "priors": ("folder data", "folder /none/such", "audit none.json", "audit table.csv"),
    "scores": ("folder data", "folder /none/such", "folder table.csv"),
    "metric": ("folder luck", "folder ../x", "repo_id me/luck"),
    "space": ("folder data", "folder /none/such", "folder a/b/c"),
    "report": ("output model", "examples -1", "megabytes 0", "priors /none/such", "audit /none/such", "runs"),
    "push": ("examples -1", "repo_id me//model", "repo_id ../x", "folder /none/such", "what x"),
}  # fmt: skip


ALL_RANGES = [(name, setting) for name, settings in RANGES.items() for setting in settings]


def out_of_range(case: Case) -> list[str]:
    name, setting = ALL_RANGES[case.number % len(ALL_RANGES)]
    flag, *values = setting.split()
    return [*case.good(name), f"--{flag}", *values]


def bad_config(case: Case) -> list[str]:
    words = case.good()
    bomb = "a: &a [x,x,x,x,x,x,x,x]\n" + "".join(
        f"{b}: &{b} [{','.join([f'*{a}'] * 8)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
    )
    texts = ("- a\n- b\n", "text", "a: [1", "a:\n\tb: 1\n", "a: b: c", bomb, "quiet: maybe\n", "? [a]\n: 1",
             "no_such: 1\n", "quiet: {a: 1}\n", "quiet: [yes, no]\n", "config: b.yaml\n", "a: *nothing\n",
             "quiet: true\nquiet: false\n", "!!python/object:os.system {}\n", "1: 2\n", "{}: 1\n",
             "%")  # fmt: skip
    contents = [*map(str.encode, texts), b"\xff\xfe\x00", b"quiet: \x00", bytes(range(256))]
    Path("bad.yaml").write_bytes(contents[case.number % len(contents)])
    return [*words, "--config", case.choose(*["bad.yaml"] * 19, "none.yaml", "data", "")]


ROW = b'{"text": "my card is lost", "label": "lost_card"}\n'


def bad_data(case: Case) -> list[str]:
    if case.draw.random() < 0.25:
        lines = ("", "x,y,label\n", "x,y\n0,1\n", "x,y,label\n0,1\n", "x,x,label\n0,1,a\n1,0,b\n",
                 "x,y,label\n0,1,a\n1,0,a\n", 'x,y,label\n"0,1,a\n', "label\na\nb\n")  # fmt: skip
        Path("table.csv").write_text(case.draw.choice(lines))
        return case.good("elicit", "table")
    rows = (b"{", b"7", b"[]", b'"text"', b"null", b"\xff\xfe", b'{"text": ""}', b"{}", b"\x00",
            b'{"text": "", "label": "lost_card"}', b'{"text": "  ", "label": "lost_card"}',
            b'{"text": "a b", "label": null}', b'{"text": "a b", "label": ""}', b"{" * 5000,
            b'{"text": null, "label": "lost_card"}', b'{"text": 7, "label": "lost_card"}',
            b'{"text": ["a"], "label": "lost_card"}', b'{"text": "a b", "label": ["lost_card"]}',
            b'{"text": "a b", "label": true}', b'{"text": "a b", "label": 0.5}',
            b'{"text": "a", "text": "b", "label": "lost_card"}', b'{"text": "a b", "label": {"a": 1}}',
            b'{"text": "a b", "label": " lost_card"}', b'{"text": "a b"}')  # fmt: skip
    split, name = case.choose("train", "test"), "data"
    words = case.good(*(READS_TRAIN if split == "train" else READS_TEST))
    file, kind = Path(name, f"{split}.jsonl"), case.draw.randrange(8)
    if kind == 0:
        file.write_text("")
    elif kind == 1:
        file.unlink()
        csv = (
            "text,label\n", "text,label\na, b,lost_card\n", "", "text\na\n", 'text,label\n"a,b\n',
        )  # fmt: skip
        file.with_suffix(".csv").write_text(case.draw.choice(csv))
    elif kind == 2:
        shutil.copy(file, file.with_suffix(".csv"))
    elif kind == 3:
        file.unlink()
        file.with_suffix(".parquet").write_bytes(case.draw.randbytes(300))
    else:
        at = case.draw.randrange(2)
        file.write_bytes(ROW * at + case.draw.choice(rows) + b"\n" + ROW * (1 - at))
    return words


def bad_labels(case: Case) -> list[str]:
    texts = ("{}", '"lost_card"', "7", "null", "[]", "[1, 2]", '["lost_card"]', '["lost_card", 2]',
             '["lost_card", "lost_card", "renew_loan"]', '["lost_card", "renew_loan", ""]', "[", "",
             '["lost_card", "renew_loan", null]', '["lost_card", ["renew_loan"]]', "\x00", "true",
             '{"lost_card": 0, "renew_loan": 1}', '["Lost_card", "renew_loan"]', "[" * 5000)  # fmt: skip
    words = case.good("fit", "extract", "shortcuts", "attack")
    if words[0] in ("fit", "extract") and case.draw.random() < 0.3:
        bad = ("lost_card", "a b", "lost_card lost_card renew_loan", "renew_loan LOST_CARD")
        return [*words, "--labels", *case.draw.choice(bad).split()]
    Path("data", "labels.json").write_text(texts[case.number % len(texts)])
    return words


def bad_run(case: Case) -> list[str]:
    words = case.good("report", "evaluate", "calibrate", "push", "export")
    file = Path("model", "run.json" if words[0] == "report" else "config.json")
    content = file.read_bytes()
    whole = json.loads(content)
    key = case.choose("data", "history", "versions") if words[0] == "report" else "model_type"
    spoilt = (content[: case.draw.randrange(1, len(content) - 2)], b"", b"[]", b"7", b"null", b"\xff\xfe",
              json.dumps({**whole, key: 7}).encode(), json.dumps({**whole, key: ["x"]}).encode(),
              json.dumps({**whole, key: True}).encode())  # fmt: skip
    match case.draw.randrange(8):
        case 0:
            shutil.rmtree("model")
        case 1:
            file.unlink()
        case _:
            file.write_bytes(case.draw.choice(spoilt))
    return words


def bad_fit(case: Case) -> list[str]:
    step, name = {"settings": {}, "key": "0", "finished": True}, "models/aligned-seed0"
    spoilt: list[Any] = [7, {}, step, *({**step, key: None} for key in step), {**step, "finished": False}]
    kept = [[step], 7, {"fit": step}, *({name: each} for each in spoilt)]
    texts = [*map(json.dumps, kept), "{", "", "\x00", "[" * 5000]
    Path("model", "fit.json").write_text(texts[case.number % len(texts)])
    return case.good("app", "space")


def bad_delta(case: Case) -> list[str]:
    file, encoder = Path("delta", "delta.safetensors"), case.room / "encoder"
    whole, base = file.read_bytes(), {"sha256": "0", "base": str(encoder)}
    name = "roberta.embeddings.word_embeddings.weight"
    match case.draw.randrange(3):
        case 0:
            cut = case.draw.randrange(len(whole) - 1)
            file.write_bytes(case.choose(whole[:cut], b"", b"\xff" * 99, whole[8:]))
        case 1:
            noted = case.choose({}, {"base": "0"}, base, *({**base, "base": x} for x in ("/none/such", "")))
            save_file({"whole:x": torch.ones(2)}, file, metadata=noted)
        case _:
            base["sha256"] = hashlib.sha256((encoder / "model.safetensors").read_bytes()).hexdigest()
            held = ("plain", "values:none", f"values:{name}", f"values:{name} places:{name}")
            weights = {key: torch.full((2,), 1e9) for key in case.draw.choice(held).split()}
            save_file(weights, file, metadata=base)
    return case.good("whole")


def bad_verdicts(case: Case) -> list[str]:
    file = Path("verdicts.csv")
    good = file.read_text()
    first, *rows = good.splitlines()
    bad = ("", first, "text,label\na,b\n", good.replace(",1", ",maybe", 1), good + "other,lost_card,1\n",
           "\n".join([first, *rows[:49]]), good.replace(",1", ","), good + rows[0][:-1] + "0\n",
           good + 'a,"b', good.replace("text", "txet", 1), good + "a,b\n", "\x00")  # fmt: skip
    file.write_text(bad[case.number % len(bad)])
    return case.good("judge")


def bad_name(case: Case) -> list[str]:
    Path("full").mkdir()
    Path("full", "notes.txt").write_text("mine")
    name, flag = case.choose(
        ("evaluate", "name"), ("evaluate", "split"), ("extract", "train_split"), ("attack", "split"),
        ("audit", "split"), ("evaluate", "model"), ("calibrate", "model"), ("extract", "model"),
        ("train", "model"), ("train", "dataset"), ("push", "repo_id"), ("push", "folder"), ("fit", "dataset"),
        ("extract", "sources"), ("attack", "train_split"), *[("*", "output_dir")] * 9,
        ("judge", "dataset"), ("judge", "split"), ("judge", "judge"), ("app", "run"),
        ("export", "model"), ("whole", "model"), ("priors", "folder"), ("metric", "folder"),
        ("scores", "folder"),
    )  # fmt: skip
    if flag == "output_dir":
        place = case.choose("table.csv", "table.csv/x", "full", "/proc/none", "a\udcff", "x" * 300)
        writes = [name for name, line in GOOD.items() if "--output_dir" in line]
        names = ("extract", "fuse", "elicit", "attack") if place == "full" else writes
        return [*case.good(*names), "--output_dir", place]
    # of a setting that may be left out, nothing means `none`
    empty = () if flag in ("name", "train_split") else ("",)
    bad = (
        *empty, "../../x", "/none/such", "./none", "a\x1b[31mb", "..", "a\nb", "\u202ex/", "x" * 300,
    )  # fmt: skip
    return [*case.good(name), f"--{flag}", case.draw.choice(bad)]


def bad_pattern(case: Case) -> list[str]:
    name = case.choose("evaluate", "shortcuts", "attack", "audit", "train", "extract", "fit")
    flag = "extract.word_pattern" if name == "fit" else "word_pattern"
    bad = (
        "(", "[", "x{99999999999}", "(?P<", "*", "a**", "\\", *[""] * (name in ("attack", "train")),
    )  # fmt: skip
    return [*case.good(name), f"--{flag}", case.draw.choice(bad)]


def bad_marks(case: Case) -> list[str]:
    good = "- {kind: word, value: card, label: lost_card, decision: shortcut}\n"
    bad = ("7", "- 7", "- null", "a: b", "\x00", "- []", "- {kind: word}", "- {value: card}",
           good.replace("word", "nose"), good.replace("shortcut", "maybe"), good.replace("card,", "[card],"),
           good.replace("word, value: card", "length, value: long"),
           good[2:] * 2, good.replace("}", ", more: 1}"))  # fmt: skip
    strange = (good * 2, good + good.replace("card,", "Card,").replace("shortcut", "fine"),
               good.replace("lost_card", "lost_cart"))  # fmt: skip
    name = case.choose("fuse", "audit", "shortcuts")
    place = Path("out" if name == "shortcuts" else ".", "shortcuts.yaml")
    place.parent.mkdir(exist_ok=True)
    place.write_text(case.draw.choice(bad if name == "shortcuts" else bad + strange))
    return [*case.good(name), *(() if name == "shortcuts" else ("--shortcuts", str(place)))]


def bad_prior(case: Case) -> list[str]:
    good = {"text": "my card", "words": ["my", "card"], "prior_cap": [0.5, 1.0]}
    scores = (7, "ab", "my card", [0.5], [0.5, 1.0, 2.0], [0.5, None], ["0.5", "1"], [[0.5], [1.0]],
              {"my": 0.5}, True, [0.5, float("inf")], [float("nan"), 1.0])  # fmt: skip
    spoilt = case.choose(
        *({"prior_cap": each} for each in scores), {"words": "my card"}, {"words": ["my", "cart"]},
        {"words": ["my"]}, {"words": [7, 8]}, {"provenance": "{"}, {"provenance": "[]"}, {"provenance": 7},
    )  # fmt: skip
    Path("made").mkdir()
    rows = [{**good, **spoilt, "label": label} for label in ("lost_card", "renew_loan")]
    Path("made", "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    name = "fuse" if "words" in spoilt or "provenance" in spoilt else case.choose("fuse", "audit")
    return [*case.good(name), "--dataset", "made"]


KINDS: dict[str, Callable[[Case], list[str]]] = {
    each.__name__: each
    for each in (
        bad_flag, out_of_range, bad_config, bad_data, bad_labels, bad_run, bad_fit, bad_delta, bad_verdicts,
        bad_name, bad_pattern, bad_marks, bad_prior,
    )
}  # fmt: skip
EACH = {kind: len(ALL_RANGES) if kind == "out_of_range" else 30 for kind in KINDS}
EACH |= {"bad_fit": 13, "bad_delta": 24, "bad_verdicts": 12, "bad_name": 40, "bad_prior": 24}
EACH |= dict.fromkeys(("bad_run", "bad_pattern", "bad_marks"), 20)
