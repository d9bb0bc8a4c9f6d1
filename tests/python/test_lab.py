"""What the lab counts and says, without playing it."""

import re
import sys
from pathlib import Path

LAB = Path(__file__).resolve().parents[1] / "lab"
sys.path.insert(0, str(LAB))

from lab import matrix, play, tables  # noqa: E402
from lab.servers import SERVERS, WORKERS  # noqa: E402
from protocols import __main__ as protocols  # noqa: E402


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


def a_play(protocol: str, moment: str, after_answer: float, step: str = "quiet", result: str = "drained") -> dict:
    return {"protocol": protocol, "moment": moment, "step": step, "round": 0, "result": result,
            "after_answer": after_answer, "no_answer": None}


def test_a_play_that_was_called_quiet_before_its_answer_is_a_fault_where_the_manual_promises_more():
    early = [a_play("TLS 1.3, Node", "worked on", -0.5)]
    assert "drained 0.5 s before the answer was complete" in protocols.faults(early)[0]
    assert "**early** in 1 of 1, by 0.5" in protocols.table(early, ["worked on"])
    assert not protocols.faults([a_play("TLS 1.3, Node", "worked on", 1.0)])
    # An answer that pauses for longer than `for`, and HTTP/2 without `moves`.
    assert not protocols.faults([a_play("TLS 1.3, Node", "pausing", -2.0)])
    assert not protocols.faults([a_play("h2c without `moves`", "worked on", -2.0)])
    assert protocols.faults([a_play("h2c, Hypercorn", "pausing", -2.0, "quiet moves for 7s")])


def test_a_play_that_does_not_drain_or_could_not_be_played_is_a_fault():
    assert protocols.faults([a_play("HTTP/1.1, Node", "idle", 39.0, result="deadline")])
    assert "no answer" in protocols.faults([a_play("HTTP/1.1, Node", "not read", 1.0) | {"no_answer": "hung up"}])[0]
    assert not protocols.faults([a_play("HTTP/1.1, Node", "half-closed", 1.0) | {"no_answer": "hung up"}])
    assert protocols.faults([{"protocol": "HTTP/1.1, Node", "moment": "idle", "step": "quiet", "round": 0, "broken": "no"}])


def test_plays_in_which_a_sidecar_that_only_sleeps_is_not_found_to_be_early_show_nothing():
    sleeps = protocols.TOO_EARLY
    assert "show nothing" in protocols.faults([a_play("HTTP/1.1, Node", "worked on", 1.0, sleeps)])[0]
    assert not protocols.faults([a_play("HTTP/1.1, Node", "worked on", -1.0, sleeps)])
