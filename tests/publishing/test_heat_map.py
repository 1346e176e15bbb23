import pytest

from hf_cap.cards import heat_map, sparkline


def test_bars_stand_below_their_words() -> None:
    drawn = heat_map(["renew", "my", "card"], [2.0, 0.0, -1.0])
    assert drawn == "renew  my  card\n█      ·   -▅"


def test_only_ratios_count() -> None:
    scores = [0.5, -0.25, 0.125]
    assert heat_map(["a", "b", "c"], scores) == heat_map(["a", "b", "c"], [1e6 * s for s in scores])


def test_all_zero_scores_draw_nothing() -> None:
    assert heat_map(["a", "b"], [0.0, 0.0]) == "a  b\n·  ·"
    assert heat_map([], []) == "\n"


def test_no_scores_leave_the_words() -> None:
    assert heat_map(["a", "b"], None) == "a b"


def test_long_texts_go_on_in_further_lines() -> None:
    lines = heat_map(["word"] * 5, [1.0] * 5, width=14).splitlines()
    assert lines == ["word  word", "█     █", ""] * 2 + ["word", "█"]


def test_wide_characters_take_two_columns() -> None:
    assert heat_map(["本", "a"], [1.0, 1.0]) == "本  a\n█   █"


@pytest.mark.parametrize("hostile", ["a\nb", "a\u202eb", "a\u2028b", "a\x1bb"])
def test_characters_that_break_lines_or_turn_them_are_replaced(hostile: str) -> None:
    assert heat_map([hostile], None) == "a\N{REPLACEMENT CHARACTER}b"


def test_a_sparkline_goes_from_the_smallest_to_the_largest() -> None:
    assert sparkline([1.0, 2.0, 4.5, 8.0]) == "▁▂▅█"
    assert sparkline([3.0, 3.0]) == "▁▁"
    assert sparkline([]) == ""
