"""An extraction that processes share which know nothing of one another."""

from contextlib import ExitStack
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hf_cap.priors.extract import (
    Chunk,
    chunks_of,
    claimed,
    extract_priors,
    help_extraction,
    score_chunks,
    score_free_chunks,
)
from hf_cap.priors.keywords import WordLengthPrior
from tests.priors.test_extraction import LABELS, QUIET, read, splits
from tests.watched import Watched

DATA = splits(8)["train"]
TEXTS = DATA["text"][:]
SOURCE = WordLengthPrior(labels=LABELS)


def of(folder: Path) -> list[Chunk]:
    return chunks_of(DATA, SOURCE, folder, 2)


def finish(chunk: Chunk) -> None:
    """Score a chunk as another process would."""
    (_,) = score_chunks(DATA, SOURCE, [chunk], shared=False)


def test_a_helper_takes_what_nobody_has_in_hand(tmp_path: Path) -> None:
    seen: list[str] = []
    chunks = of(tmp_path)
    finish(chunks[1])
    with claimed(chunks[2].lock, chunks[2].file):
        source = Watched(LABELS, seen)
        helped = list(score_free_chunks(DATA, source, chunks, tmp_path / "out"))
    assert helped == [chunks[0], chunks[3]]
    assert seen == TEXTS[:2] + TEXTS[6:]
    assert not chunks[2].file.exists()


def test_a_helper_stops_when_the_output_is_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    seen: list[str] = []
    source = Watched(LABELS, seen, lambda _: out.mkdir())
    helped = list(score_free_chunks(DATA, source, of(tmp_path / "work"), out))
    assert len(helped) == 1
    assert seen == TEXTS[:2]


@pytest.mark.parametrize("dies", [False, True])
def test_what_a_helper_has_in_hand_comes_when_it_is_done_and_is_taken_over_if_it_dies(
    tmp_path: Path, dies: bool
) -> None:
    seen: list[str] = []
    chunks = of(tmp_path)
    with ExitStack() as helper:
        helper.enter_context(claimed(chunks[1].lock, chunks[1].file))

        def meanwhile(text: str) -> None:
            if text == TEXTS[4]:
                if not dies:
                    finish(chunks[1])
                helper.close()

        source = Watched(LABELS, seen, meanwhile)
        given = list(score_chunks(DATA, source, chunks, shared=True))
    rest = [chunks[3], chunks[1]] if dies else [chunks[1], chunks[3]]
    assert given == [chunks[0], chunks[2], *rest]
    assert seen == TEXTS[:2] + TEXTS[4:] + (TEXTS[2:4] if dies else [])
    assert all(pq.read_table(chunk.file).num_rows == 2 for chunk in chunks)


def test_an_extraction_that_was_helped_is_the_same(tmp_path: Path) -> None:
    alone, out = splits(8), tmp_path / "shared"
    extract_priors(alone, [SOURCE], tmp_path / "alone", QUIET)
    scored: list[str] = []
    helped: list[str] = []
    call = alone, [Watched(LABELS, helped)], out, QUIET

    def help_at_second(text: str) -> None:
        if text == TEXTS[2]:
            assert help_extraction(*call) == 4

    owner = Watched(LABELS, scored, help_at_second)
    summary = extract_priors(alone, [owner], out, QUIET, shared=True)
    assert (scored, helped) == (TEXTS[:4], TEXTS[4:])
    assert read(out)["prior_word_length"][:] == read(tmp_path / "alone")["prior_word_length"][:]
    assert summary.texts == 8
    assert help_extraction(*call) == 0, "it is finished"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".shared")] == []
