"""The tables of a comparison: Markdown and terminal."""

from __future__ import annotations

from reflect_rl.evaluation.tables import compare_markdown, compare_terminal
from report_data import comparison, detailed


def test_markdown_has_a_table_a_regime_and_escapes_its_cells() -> None:
    text = compare_markdown(comparison())
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 * (6 + 2)
    assert all(line.replace("\\|", "").count("|") == 6 for line in rows)
    assert "no\\|negatives" in text
    assert "horizon 20, 200 action labels, 2,000 reflection labels." in text
    assert "```sh\nreflect-rl compare taxi --seeds 0,1,2,3,4\n```" in text


def test_gains_over_the_reference_have_columns_of_their_own() -> None:
    data = comparison() | {"reference": "SFT + RL"}
    arms = data["regimes"]["scarce actions"]["arms"]
    arms["sft"]["gain"] = {"mean": -0.125, "interval": [-0.2, -0.05], "sampled": {}}
    first, *rows = [line for line in compare_markdown(data).splitlines() if line.startswith("|")]
    assert "points over SFT + RL, paired by seed" in first
    assert [row.endswith("| -12.5 [-20.0, -5.0] | not measured |") for row in rows[1:6]].count(True) == 1


def test_one_seed_has_no_interval_and_missing_pairs_are_told() -> None:
    data = comparison()
    arms = data["regimes"]["scarce actions"]["arms"]
    whole = {"mean": 0.5, "interval": [-1, 1]}
    arms["sft"] |= {"gain": {**whole, "seeds": [0, 1], "sampled": whole}}
    arms["sft-rl"] |= {"gain": {**whole, "seeds": [0], "sampled": whole}}
    arms["reflect-rl"] |= {"seeds": [0], "success": [0.5], "gain": {"seeds": [], "sampled": {}}, "reflector": whole}
    del data["regimes"]["equal labels"]
    rows = {line.split(" | ")[0][2:]: line for line in compare_markdown(data).splitlines() if line.startswith("|")}
    assert rows["sft"].endswith("| 50.0 [-100.0, 100.0] (2 pairs) | 50.0 [-100.0, 100.0] (2 pairs) |")
    assert rows[arms["sft-rl"]["title"]].endswith("| 50.0 (1 pair) | 50.0 (1 pair) |")
    assert rows[arms["reflect-rl"]["title"]].endswith("| 50.0 | not measured | not measured |")


def test_each_regime_tells_its_own_horizon() -> None:
    data = comparison()
    data["regimes"]["equal labels"]["horizon"] = 9
    text = compare_markdown(data)
    assert "horizon 20, 200 action labels" in text
    assert "horizon 9, 400 action labels" in text


def test_agreement_has_a_column_for_held_out_states_and_one_for_test_tasks() -> None:
    data = comparison()
    arms = data["regimes"]["scarce actions"]["arms"]
    arms["sft"] |= {"reflector": {"mean": 0.99, "interval": [0.98, 1]}, "reflector_test": {"mean": 0.4, "interval": []}}
    first, _, row, *_ = [line for line in compare_markdown(data).splitlines() if line.startswith("|")]
    assert "| reflector like its teacher, held-out states % [95 % interval] | the same, in test tasks % " in first
    assert row.endswith("| 99.0 [98.0, 100.0] | 40.0 |")


def test_markdown_tells_panels_kinds_and_what_an_arm_adds() -> None:
    text = compare_markdown(detailed())
    panel, kinds, added = text.split("####")[1:4]
    assert "| sft | 1 | 50.0 | 50.0 | 50.0 | 25.0 | 25.0 | 9.2 |" in panel
    assert "| sft + rl | 2 | 80.0 [40.0, 100.0] | 75.0, 85.0 | 80.0 [40.0, 100.0] | 55.0 [27.5, 100.0] |" in panel
    assert "greedy, 10 steps" in panel
    assert "| arm | far start | near start |" in kinds
    assert "| sft + rl | 3/8 | 4/4 |" in kinds
    assert "| sft + rl | 1 | sft | +25.0 | -12.5 |" in added
    assert "####" not in compare_markdown(comparison())


def test_terminal_table_is_aligned_and_obeys_no_control_characters() -> None:
    data = comparison()
    data["regimes"]["scarce actions"]["arms"]["sft"]["title"] = "sft\x1b[31m 红"
    lines = compare_terminal(data).splitlines()
    assert "\x1b" not in "\n".join(lines)
    assert "not measured" not in "\n".join(lines)
    plain = [line for line in lines if line.startswith("  ") and "红" not in line]
    assert len({line.index("5  ") for line in plain if "  5  " in line}) == 1


def test_missing_figures_of_a_comparison_are_named_as_such() -> None:
    data = {"regimes": {"r": {"arms": {"a": {"success": [None, 0.5]}, "b": {}}}}}
    for text in (compare_markdown(data), compare_terminal(data)):
        assert text.count("not measured") >= 5
        assert "50.0" in text
    assert compare_terminal({}) == "Comparison: unnamed"
