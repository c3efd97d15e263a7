"""What a rank notes of itself while it tidies up after an error."""

from __future__ import annotations

import time

import pytest
from rewards.patience import until

from aspo_megatron.launch.rank_status import Note, RankStatus, WaitedInVainError


class Notes:
    """A board of one rank."""

    def __init__(self) -> None:
        self.all: list[Note] = []

    def write(self, rank: int, note: bytes) -> None:
        assert rank == 0
        self.all.append(Note.parse(note))

    def read(self, rank: int) -> bytes | None:
        raise NotImplementedError


def wait_in_vain(notes: Notes) -> None:
    """As a collective that times out, once the rank has noted that it is here."""
    while not (notes.all and notes.all[-1].place.endswith("wait_in_vain")):
        time.sleep(0.005)
    raise RuntimeError("Timed out waiting 4000ms for recv operation to complete")


def beats(notes: Notes, number: int) -> list[Note]:
    """So many notes from now on."""
    begin = len(notes.all)
    until(lambda: len(notes.all) >= begin + number)
    return notes.all[begin + 1 :]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("told", [False, True], ids=["its own error", "the error that stands for it"])
def test_who_has_waited_in_vain_stays_where_he_waited(told: bool) -> None:
    """Or else a rank that takes its time to end, as on a busy machine, would pass for one that did not arrive."""
    notes = Notes()
    status = RankStatus(0, lambda: notes, 0.01)
    status.start()
    try:
        try:
            wait_in_vain(notes)
        except RuntimeError as error:
            if not told:
                found = beats(notes, 3)
            else:
                try:
                    raise WaitedInVainError("") from error
                except WaitedInVainError:
                    found = beats(notes, 3)
    finally:
        status.end()
    assert {(note.place.split()[-1], note.gave_up) for note in found} == {("wait_in_vain", True)}
