"""`graft help`: the pages of the manual, and the help of commands."""

from __future__ import annotations

import click
import pytest

from graft_vfs.cli import main, manual

TOPICS = sorted(manual.pages())


def test_help_without_a_topic_lists_every_topic(cli):
    text = cli.ok("help")
    for topic in TOPICS:
        assert topic == "index" or f"- {topic}: " in text


@pytest.mark.parametrize("topic", TOPICS)
def test_a_topic_is_printed_without_links_and_comments(cli, topic):
    text = cli.ok("help", topic)
    assert text.startswith("# ")
    assert "](" not in text
    assert "<!--" not in text


def test_a_link_to_a_page_names_its_topic_and_one_to_a_site_its_address(cli):
    text = cli.ok("help", "guarantees")
    assert "limits" in text
    assert "guide to S3 (graft help s3)" in cli.ok("help", "tutorial")
    assert "Litestream <https://litestream.io>" in cli.ok("help", "comparison")


@pytest.mark.parametrize("name", ["push", "remote"])
def test_the_name_of_a_command_prints_its_help(cli, name):
    assert cli.ok("help", name) == cli.ok(name, "--help")


def test_no_topic_hides_a_command():
    assert not set(TOPICS) & set(main.list_commands(click.Context(main)))


def test_an_unknown_topic_is_an_error_that_lists_the_topics(cli):
    text = cli.fails(2, "help", "nothing")
    assert "no topic 'nothing'" in text
    for topic in TOPICS:
        assert topic == "index" or topic in text


def test_a_file_of_the_manual_is_printed_unchanged(cli):
    assert set(manual.extras()) == {"alerts.yml", "grafana.json"}
    for name, file in manual.extras().items():
        assert cli.ok("help", name) == file.read_text("utf-8")
        assert f"graft help {name}" in cli.ok("help", "metrics")
