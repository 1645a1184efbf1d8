from blixard.functions.figures import Figures
from blixard.functions.gateway import STALE_S, Book, Choice, Summary


def line(*, uid="f", idle=0, busy=0, starting=0, room=0, waiting=0, built=True):
    return Figures(uid, 1, built, idle, busy, starting, room, waiting, 0, 0)


def book(**nodes):
    found = Book("own")
    for node, figures in nodes.items():
        found.heard(node, Summary((figures,)), 10.0)
    return found


def choose(found, local=None, **more):
    return found.choose("f", local, now_s=11.0, **more)


def test_idle_here_comes_first():
    assert choose(book(a=line(idle=9)), line(idle=1)) == Choice("own", patient=False)


def test_idle_elsewhere_comes_before_a_start_here():
    assert choose(book(a=line(idle=1)), line(room=9)) == Choice("a", patient=False)


def test_start_here_comes_before_a_start_elsewhere():
    assert choose(book(a=line(room=9)), line(room=1)) == Choice("own", patient=False)
    assert choose(book(a=line(room=9)), line()) == Choice("a", patient=False)


def test_room_here_that_others_wait_for_is_none():
    assert choose(book(a=line(room=1)), line(room=2, waiting=2)) == Choice("a", patient=False)


def test_what_was_sent_is_not_given_out_again():
    found = book(a=line(idle=1), b=line(room=1))
    assert choose(found).node == "a"
    found.sent("f", "a")
    assert choose(found).node == "b"
    found.sent("f", "b")
    assert choose(found).patient
    found.answered("f", "a")
    assert choose(found) == Choice("a", patient=False)


def test_refusal_is_remembered():
    found = book(a=line(idle=1, room=5), b=line(room=1))
    found.refused("f", "a")
    assert choose(found, asked=("a",)) == Choice("b", patient=False)


def test_call_waits_after_two_refusals():
    found = book(a=line(), b=line(), c=line(idle=5))
    assert choose(found, asked=("a", "b")).patient


def test_call_waits_where_fewest_do():
    found = book(a=line(busy=2, waiting=4), b=line(busy=2, waiting=1))
    assert choose(found, line(busy=2, waiting=4)) == Choice("b", patient=True)


def test_call_waits_where_the_guest_is_built():
    assert choose(book(a=line(busy=1, waiting=5)), line(built=False)) == Choice("a", patient=True)


def test_silent_nodes_are_forgotten():
    found = book(a=line(idle=1))
    assert found.choose("f", None, now_s=10.0 + STALE_S) is None
    found.heard("a", Summary(()), 11.0)
    assert choose(found) is None
