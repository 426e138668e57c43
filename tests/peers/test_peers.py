"""Graphs that we export, read and run by the frameworks themselves: they must give our numbers.

Each peer's own importer runs in the peers' environment (`peer_reader`), with the lines that `stdl-export --for` prints.
"""

from __future__ import annotations

import peer_table
import pytest

from stdl_export.interop import peers

pytestmark = pytest.mark.peers

PAIRS = [(peer, name) for peer in peers.PEERS for name in peer_table.cases(peer)]

BY_CHANCE = ("norse", "sinabs")
"""They leave out nodes that they do not know, and run the rest in the order of a set: what goes wrong then varies."""


@pytest.fixture
def measured(peer):
    reason = peer_table.absent(peer)
    if reason is not None:
        pytest.skip(reason)
    return peer_table.measured(peer)


@pytest.mark.parametrize(("peer", "name"), PAIRS)
def test_a_file_for_a_peer_gives_our_numbers_there(measured, peer, name):
    assert measured[peer_table.READ, name] in ("same", "refused")


@pytest.mark.parametrize(("peer", "name"), PAIRS)
def test_what_is_lost_of_a_plain_file_is_what_the_table_says(measured, peer, name):
    said = tuple(measured[how, name].split(":")[0] for how in (peer_table.PLAIN, peer_table.READ))
    written, found = peer_table.documented()[name, peer], peer_table.WORDS[said]
    if peer in BY_CHANCE:
        written, found = (each.replace("*wrong*", "raises") for each in (written, found))
    assert found == written


@pytest.mark.parametrize("peer", peers.PEERS)
def test_most_cases_are_read(measured, peer):
    """A peer that refuses nearly everything would pass the rest."""
    assert sum(measured[peer_table.READ, name] == "same" for name in peer_table.cases(peer)) >= 13
