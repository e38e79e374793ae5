"""The note of the progress of a cluster: items per second of each node."""

from __future__ import annotations

from clipstore.progress import NodeRates, progress_counter


def test_the_note_names_each_of_a_few_nodes_and_the_slowest_of_many() -> None:
    rates = NodeRates()
    assert rates.add("", 5) == ""
    rates.add("b", 30)
    assert rates.add("a", 20) == "a 20/s, b 30/s"
    assert rates.add("a", -15) == "a 5/s, b 30/s"  # items of a lost worker
    for node in "cde":
        note = rates.add(node, 50)
    assert note == "5 nodes, slowest a 5/s"


def test_a_counter_adds_up_items_and_passes_notes_on() -> None:
    states: list[tuple[object, ...]] = []
    count = progress_counter(lambda *state: states.append(state), "demo: images", 10, done=2)
    count(3)
    count(5, "a 5/s")
    assert states == [("demo: images", 5, 10, ""), ("demo: images", 10, 10, "a 5/s")]
