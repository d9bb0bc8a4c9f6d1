"""What the lab counts and says, without playing it."""

import re
import sys
from pathlib import Path

LAB = Path(__file__).resolve().parents[1] / "lab"
sys.path.insert(0, str(LAB))

from lab import matrix, play, tables  # noqa: E402
from lab.servers import SERVERS, WORKERS  # noqa: E402


def a_round(method: str, lost: int, number: int = 1, void: int = 0, stop: str = "stop-task") -> dict:
    return {"server": "puma", "stop": stop, "method": method, "round": number, "retries": number % 2 == 0, "void": void,
            "requests": 200, "lost": lost}


def test_a_loss_with_the_default_is_told_where_the_balancer_is_told():
    said = tables.markdown([a_round("ours", 0), a_round("ours", 2, number=2)])
    assert "LOST with the default though the balancer is told: stop-task, puma: **2** of 400 in 2" in said
    assert "LOST" not in tables.markdown([a_round("ours", 0), a_round("ours", 2, stop="never")])


def test_more_lost_than_without_the_sidecar_is_told():
    said = tables.markdown([a_round("ours", 3, stop="never"), a_round("nothing", 2, stop="never")])
    assert "more lost than with nothing: never, puma: 3, with nothing 2, in the same 1 rounds" in said


def test_void_rounds_count_for_nothing():
    said = tables.markdown([a_round("ours", 5, void=1), a_round("ours", 0, number=2)])
    assert "LOST" not in said
    assert "1 rounds, 200 requests, 0 lost; 1 rounds void." in said


def test_twenty_rounds_are_played_where_the_default_has_lost_any():
    cell = matrix.Cell("puma", "stop-task", "ours")
    assert matrix.wanted_rounds(cell, matrix.ROUNDS, [a_round("ours", 0)]) == 3
    assert matrix.wanted_rounds(cell, matrix.ROUNDS, [a_round("ours", 1)]) == 20


def test_nothing_and_ours_are_played_by_every_server_at_every_stop():
    cells = set(matrix.cells(list(SERVERS), list(matrix.STOPS), list(matrix.METHODS)))
    for server in set(SERVERS) - set(WORKERS):
        for stop in matrix.STOPS:
            for method in ("nothing", "ours"):
                assert matrix.Cell(server, stop, method) in cells


def test_the_short_form_plays_only_stops_of_which_the_balancer_is_told():
    assert all(stop in matrix.TOLD and server in SERVERS for server, stop in matrix.SHORT)


def test_the_page_explains_every_stop_and_method():
    page = (LAB / "README.md").read_text()
    explained = {name for row in re.findall(r"^\| (`.*?) \|", page, re.M) for name in re.findall(r"`([^`]+)`", row)}
    assert explained == {*play.STOPS, *matrix.METHODS}


def test_every_server_has_a_row_in_the_recipes():
    page = (LAB.parents[1] / "task-definitions/servers.md").read_text()
    asked = {"gunicorn-sync": "gunicorn 27, sync", "gunicorn-gthread": "gunicorn 27, gthread", "apache": "Apache httpd",
             "node-init": "tini"}
    for server in SERVERS:
        row = re.compile(rf"^\| {asked.get(server, server)}|^\| .*`{asked.get(server, server)}`", re.M | re.I)
        assert row.search(page), f"{server} has no row in servers.md"
