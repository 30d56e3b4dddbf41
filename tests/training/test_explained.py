"""A configuration to begin from."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from xland.training.configuration import Schedule, list_configurations, read_configuration
from xland.training.explained import explain


@pytest.mark.parametrize("name", list_configurations())
def test_a_configuration_with_comments_is_the_same_configuration(name, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(explain(name))
    assert read_configuration(path) == read_configuration(name)


def test_each_entry_has_a_comment_and_those_left_out_have_their_defaults(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(explain("luh2-0p05"))
    lines = path.read_text().splitlines()
    schedule = lines[lines.index("[schedule]") :]
    for entry in fields(Schedule):
        (place,) = (n for n, line in enumerate(schedule) if line.removeprefix("# ").startswith(f"{entry.name} = "))
        assert schedule[place - 1].startswith("# ")
    assert "# gradient_clip = 2.0" in schedule
    assert "# Largest norm of the gradient." in schedule
    assert "# [rollout]" in lines


def test_the_configuration_of_the_page_can_be_used_as_it_stands(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    path = tmp_path / "mine.toml"
    path.write_text(re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[0])
    assert read_configuration(path).name == "my-model"
